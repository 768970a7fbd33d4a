"""The gRPC door of orders: what orders/protos/order_service.proto promises."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.crypto import salted_hmac
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from common import money
from common.principal import Caller
from outbox.conflicts import retry_on_conflict

from . import limits, services
from .models import Order
from .protos import order_service_pb2 as pb
from .protos import order_service_pb2_grpc as stubs
from .serializers import AN_ORDER_ID, NewOrderSerializer

NEWEST = 100
MADE = "order-made"  # in the trailing metadata: whether the order is new


@dataclass(frozen=True)
class Call:
    """A call as the server hands it to a method: who calls, from where, saying what beside the request."""

    caller: Caller
    address: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    trailing: dict[str, str] = field(default_factory=dict)


class OrderService(stubs.OrderServiceServicer):
    """Orders, for programs that speak gRPC. The methods are called by orders_project/grpc/server.py."""

    scopes: ClassVar = {"CreateOrder": "orders:write", "GetOrder": "orders:read", "ListOrders": "orders:read"}

    def CreateOrder(self, request: pb.CreateOrderRequest, call: Call) -> pb.Order:  # noqa: N802
        principal = call.caller.principal
        asked = NewOrderSerializer(data=_plain(request))
        asked.is_valid(raise_exception=True)
        new = asked.new_order(principal=principal)
        again = False
        if new.order_id is None and (key := call.metadata.get("idempotency-key")):
            new = replace(new, order_id=_id_under(key, principal=principal))
            again = Order.objects.filter(pk=new.order_id).exists()
        address = call.address
        left = {} if again else limits.count_order(email=new.user_email, principal=principal, address=address)
        place = retry_on_conflict(services.place_order)
        order, made = place(new=new, now=timezone.now(), actor=principal)
        call.trailing.update({name.lower(): value for name, value in left.items()}, **{MADE: str(made).lower()})
        return shown(order)

    def GetOrder(self, request: pb.GetOrderRequest, call: Call) -> pb.Order:  # noqa: N802
        try:
            AN_ORDER_ID(request.order_id)
        except ValidationError:
            raise services.NoSuchOrder("There is no such order.") from None
        return shown(services.get_order(order_id=request.order_id, caller=call.caller))

    def ListOrders(self, request: Empty, call: Call) -> pb.ListOrdersResponse:  # noqa: N802
        newest = services.orders_of(call.caller).order_by("-created_at", "-order_id")[:NEWEST]
        return pb.ListOrdersResponse(orders=[shown(order) for order in newest])


def _id_under(key: str, *, principal: str) -> str:
    """The id of an order that is asked for under a key: the same every time, and nobody else can guess it."""
    said = json.dumps([principal, key])
    return str(UUID(bytes=salted_hmac("orders.grpc", said, algorithm="sha256").digest()[:16], version=4))


def _plain(message: Message) -> dict[str, Any]:
    """What a message says, as JSON would say it."""
    said: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        said[descriptor.name] = [_plain(each) for each in value] if descriptor.message_type else value
    return said


def shown(order: Order) -> pb.Order:
    """The order as callers see it."""
    message = pb.Order(
        order_id=order.order_id,
        customer_id=order.customer_id or None,
        user_id=order.user_id or None,
        user_email=order.user_email or None,
        status=order.status,
        total_amount=money.number(order.total, currency=order.currency),
        currency=order.currency,
        version=order.version,
        items=[
            pb.Item(
                product_id=str(line.product_id) if line.product_id else None,
                sku=line.sku or None,
                name=line.name or None,
                quantity=line.quantity,
                price=money.number(line.unit_price, currency=order.currency),
            )
            for line in order.lines.all()
        ],
        description=order.description or None,
        payment_method=order.payment_method,
        payment_id=order.payment_id or None,
        fail_reason=order.fail_reason or None,
    )
    message.created_at.FromDatetime(order.created_at)
    message.updated_at.FromDatetime(order.updated_at)
    return message
