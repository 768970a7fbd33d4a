"""
A gateway from HTTP to gRPC: each request becomes a call of the gRPC server.

# Note [Before the body is read]: reading and checking a body costs more than all the rest. So whoever may not place
orders, or has placed too many, is refused here. The server identifies the caller once more, as it does everybody, and
does not count again what is counted here.
"""

import threading
from collections.abc import Callable, Mapping
from functools import cache, partial
from http import HTTPStatus
from typing import Any

import grpc
from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from google.protobuf import json_format
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from rest_framework.request import Request
from rest_framework.response import Response

from common import client_limits
from common.addresses import client_address
from common.idempotency import check_key
from common.parameters import StrictView
from common.principal import principal_of
from orders.grpc import COUNTED, EXACT, IS_NEW, is_map
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders.serializers import NewOrderSerializer, OrderSerializer
from outbox import context

from ..auth.authentication import CHALLENGE, Bearer
from ..http.errors import CallFailed, Problem
from . import transport
from .status import problem_in

TIMEOUT = 10.0  # seconds for a call
NOT_A_TOKEN = Problem(
    HTTPStatus.UNAUTHORIZED, "authentication_failed", "The token is not valid.", headers={"WWW-Authenticate": CHALLENGE}
)

_lock = threading.Lock()


@cache
def _stub(address: str) -> OrderServiceStub:
    return OrderServiceStub(transport.channel(address))


def stub() -> OrderServiceStub:
    """The client of this process, created on first use: a channel must not cross a fork."""
    with _lock:
        return _stub(settings.ORDER_SERVICE_GRPC)


def passed_on(headers: Mapping[str, str]) -> list[str]:
    """
    The names of the headers that become metadata.

    :raises CallFailed, ValidationError: if one has characters that metadata cannot have
    """
    if not (headers.get("authorization", "").isascii() and headers.get("authorization", "").isprintable()):
        raise CallFailed(NOT_A_TOKEN)
    if "idempotency-key" in headers:
        check_key(headers["idempotency-key"])
    return [name for name in ("authorization", "idempotency-key") if name in headers]


class ByGrpc(StrictView):
    """A view that passes requests to the gRPC server, for which a session of the back office counts for nothing."""

    scope = "orders"
    authentication_classes = (Bearer,)

    def call(self, method: str, message: Message, **more: str) -> tuple[Any, dict[str, str]]:
        """Call a method, with `more` metadata; return the answer and its trailing metadata."""
        headers = self.request.headers
        metadata = [(name, headers[name]) for name in passed_on(headers)]
        metadata += [(name.lower(), value) for name, value in context.headers().items()]
        metadata += [("x-forwarded-for", client_address(self.request._request)), *more.items()]
        ask: Callable[..., Any] = getattr(stub(), method).with_call
        try:
            answer, done = ask(message, timeout=TIMEOUT, metadata=metadata)
        except grpc.RpcError as error:
            raise CallFailed(problem_in(error)) from None
        return answer, dict(done.trailing_metadata())


class GrpcOrders(ByGrpc):
    """Orders, through the gRPC server."""

    limits: Mapping[str, str] = {}  # of the email

    @extend_schema(operation_id="grpc_list_orders", responses=OrderSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List the newest orders, at most a hundred."""
        answer, _ = self.call("ListOrders", Empty())
        return Response([as_json(order) for order in answer.orders])

    @extend_schema(
        operation_id="grpc_place_order",
        request=NewOrderSerializer,
        responses={200: OrderSerializer, 201: OrderSerializer},
    )
    def post(self, request: Request) -> HttpResponse:
        """Place an order."""
        principal = principal_of(request).name
        answer = client_limits.counted(request._request, partial(self.place, request, principal), principal=principal)
        for name, value in self.limits.items():
            answer[name] = f"{answer[name]}, {value}" if name in answer else value
        return answer

    def place(self, request: Request, principal: str) -> Response:
        # As strict as elsewhere: protobuf alone would accept field names in camel case, and strings for numbers.
        NewOrderSerializer(data=request.data).is_valid(raise_exception=True)
        message = json_format.ParseDict(request.data, pb.CreateOrderRequest())
        answer, metadata = self.call("CreateOrder", message, **{COUNTED: client_limits.count_token(principal)})
        self.limits = {name: value for name, value in metadata.items() if name.startswith("ratelimit")}
        is_new = metadata.get(IS_NEW, "true") == "true"
        return Response(as_json(answer), HTTPStatus.CREATED if is_new else HTTPStatus.OK)


class GrpcOrder(ByGrpc):
    """One order, through the gRPC server."""

    @extend_schema(operation_id="grpc_get_order", responses=OrderSerializer)
    def get(self, request: Request, order_id: str) -> Response:
        """Return an order."""
        answer, _ = self.call("GetOrder", pb.GetOrderRequest(order_id=order_id))
        return Response(as_json(answer))


def as_json(message: Message) -> dict[str, Any]:
    """A message as the HTTP API shows it: a field without a value is null."""
    shown: dict[str, Any] = {}
    for descriptor in message.DESCRIPTOR.fields:
        if descriptor.name.startswith(EXACT):
            continue  # a number in JSON is as exact as its text
        value = getattr(message, descriptor.name)
        if is_map(descriptor):
            shown[descriptor.name] = dict(value)
        elif descriptor.is_repeated:
            shown[descriptor.name] = [as_json(each) for each in value]
        elif descriptor.has_presence and not message.HasField(descriptor.name):
            shown[descriptor.name] = None
        elif descriptor.message_type is not None:
            shown[descriptor.name] = value.ToJsonString()
        else:
            shown[descriptor.name] = value
    return shown
