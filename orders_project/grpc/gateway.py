"""A gateway from HTTP to gRPC: each request becomes a call of the gRPC server, which decides everything."""

import threading
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

import grpc
from django.conf import settings
from drf_spectacular.utils import extend_schema
from google.protobuf import json_format
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from common.addresses import client_address
from common.idempotency import check_key
from orders.grpc import EXACT, IS_NEW, is_map
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders.serializers import NewOrderSerializer, OrderSerializer
from outbox import context

from ..auth.authentication import CHALLENGE
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


class ByGrpc(APIView):
    """A view that passes requests to the gRPC server, which checks the permissions."""

    scope = "orders"
    authentication_classes = ()
    permission_classes = ()

    def call(self, method: str, message: Message) -> tuple[Any, dict[str, str]]:
        """Call a method; return the answer and its trailing metadata."""
        headers = self.request.headers
        metadata = [(name, headers[name]) for name in passed_on(headers)]
        metadata += [(name.lower(), value) for name, value in context.headers().items()]
        metadata.append(("x-forwarded-for", client_address(self.request._request)))
        ask: Callable[..., Any] = getattr(stub(), method).with_call
        try:
            answer, done = ask(message, timeout=TIMEOUT, metadata=metadata)
        except grpc.RpcError as error:
            raise CallFailed(problem_in(error)) from None
        return answer, dict(done.trailing_metadata())


class GrpcOrders(ByGrpc):
    """Orders, through the gRPC server."""

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
    def post(self, request: Request) -> Response:
        """Place an order."""
        # As strict as elsewhere: protobuf alone would accept field names in camel case, and strings for numbers.
        NewOrderSerializer(data=request.data).is_valid(raise_exception=True)
        message = json_format.ParseDict(request.data, pb.CreateOrderRequest())
        answer, metadata = self.call("CreateOrder", message)
        is_new = metadata.pop(IS_NEW, "true") == "true"
        left = {name: value for name, value in metadata.items() if name.startswith("ratelimit")}
        return Response(as_json(answer), HTTPStatus.CREATED if is_new else HTTPStatus.OK, headers=left)


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
