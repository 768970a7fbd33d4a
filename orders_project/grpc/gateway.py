"""Orders over HTTP by way of gRPC: each request becomes a call of the gRPC server, which decides everything."""

import threading
from collections.abc import Callable
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

from orders.grpc import MADE
from orders.limits import address_of
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders.serializers import NewOrderSerializer, OrderSerializer
from outbox import context

from ..http.errors import CallFailed
from .status import problem_in

PATIENCE = 10.0  # seconds for a call
PASSED_ON = ("authorization", "idempotency-key")

_making = threading.Lock()


@cache
def _stub(address: str) -> OrderServiceStub:
    return OrderServiceStub(grpc.insecure_channel(address))


def stub() -> OrderServiceStub:
    """The client of this process, made when first needed: a channel must not cross a fork."""
    with _making:
        return _stub(settings.ORDER_SERVICE_GRPC)


class ByGrpc(APIView):
    """A view that passes requests on. Who may do what is decided over there."""

    scope = "orders"
    authentication_classes = ()
    permission_classes = ()

    def call(self, method: str, message: Message) -> tuple[Any, dict[str, str]]:
        """What the server answers, and what it says beside."""
        headers = self.request.headers
        address = address_of(self.request.META.get("REMOTE_ADDR", ""), filter(None, [headers.get("X-Forwarded-For")]))
        metadata = [(name, headers[name]) for name in PASSED_ON if name in headers]
        metadata += [(name.lower(), value) for name, value in context.headers().items()]
        metadata.append(("x-forwarded-for", address))
        ask: Callable[..., Any] = getattr(stub(), method).with_call
        try:
            answer, done = ask(message, timeout=PATIENCE, metadata=metadata)
        except grpc.RpcError as error:
            raise CallFailed(problem_in(error)) from None
        return answer, dict(done.trailing_metadata())


class GrpcOrders(ByGrpc):
    """Orders by gRPC."""

    @extend_schema(operation_id="grpc_list_orders", responses=OrderSerializer(many=True))
    def get(self, request: Request) -> Response:
        """The newest orders, a hundred at most."""
        answer, _ = self.call("ListOrders", Empty())
        return Response([shown(order) for order in answer.orders])

    @extend_schema(
        operation_id="grpc_place_order",
        request=NewOrderSerializer,
        responses={200: OrderSerializer, 201: OrderSerializer},
    )
    def post(self, request: Request) -> Response:
        """Place an order."""
        # As strict as JSON elsewhere: protobuf would take a name in camel case for a field, and a text for a number.
        NewOrderSerializer(data=request.data).is_valid(raise_exception=True)
        message = json_format.ParseDict(request.data, pb.CreateOrderRequest())
        answer, said = self.call("CreateOrder", message)
        made = said.pop(MADE, "true") == "true"
        left = {name: value for name, value in said.items() if name.startswith("ratelimit")}
        return Response(shown(answer), HTTPStatus.CREATED if made else HTTPStatus.OK, headers=left)


class GrpcOrder(ByGrpc):
    """One order by gRPC."""

    @extend_schema(operation_id="grpc_get_order", responses=OrderSerializer)
    def get(self, request: Request, order_id: str) -> Response:
        """An order as it stands."""
        answer, _ = self.call("GetOrder", pb.GetOrderRequest(order_id=order_id))
        return Response(shown(answer))


def shown(message: Message) -> dict[str, Any]:
    """A message as the HTTP API shows it: what is not there is null."""
    said: dict[str, Any] = {}
    for descriptor in message.DESCRIPTOR.fields:
        value = getattr(message, descriptor.name)
        if descriptor.is_repeated:
            said[descriptor.name] = [shown(each) for each in value]
        elif descriptor.has_presence and not message.HasField(descriptor.name):
            said[descriptor.name] = None
        elif descriptor.message_type is not None:
            said[descriptor.name] = value.ToJsonString()
        else:
            said[descriptor.name] = value
    return said
