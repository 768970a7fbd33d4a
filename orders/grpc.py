"""The gRPC API of orders, as orders/protos/order_service.proto defines it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from common import client_limits, money
from common.idempotency import check_key
from common.principal import Principal
from outbox import clock
from outbox.conflicts import retry_on_conflict

from . import limits, services
from .models import Order
from .protos import order_service_pb2 as pb
from .protos import order_service_pb2_grpc as stubs
from .serializers import ADDED, ORDER_ID, NewOrderSerializer

LISTED = 100
IS_NEW = "order-made"  # in the trailing metadata: whether the order was placed by this call


@dataclass(frozen=True)
class Call:
    """A call as the server passes it to a method. What is put into `trailing` is sent as trailing metadata."""

    principal: Principal
    address: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    trailing: dict[str, str] = field(default_factory=dict)


class OrderService(stubs.OrderServiceServicer):
    """The methods of the service. orders_project/grpc/calls.py calls them."""

    scopes: ClassVar = {"CreateOrder": "orders:write", "GetOrder": "orders:read", "ListOrders": "orders:read"}

    def CreateOrder(self, request: pb.CreateOrderRequest, call: Call) -> pb.Order:  # noqa: N802
        principal, now = call.principal.name, clock.now("orders")
        left = client_limits.count_request(principal=principal, address=call.address)
        call.trailing.update({name.lower(): value for name, value in left.items()})
        key = call.metadata.get("idempotency-key") or None
        if key is not None:
            check_key(key)
        asked = NewOrderSerializer(data=_plain(request))
        asked.is_valid(raise_exception=True)
        new = asked.new_order(principal=principal)
        by_key = key if new.order_id is None else None
        if by_key is None or services.placed_under(by_key, principal=principal, now=now) is None:
            for name, value in limits.count_order(email=new.user_email, principal=principal).items():
                known = call.trailing.get(name.lower())
                call.trailing[name.lower()] = f"{known}, {value}" if known else value
        order, is_new = retry_on_conflict(services.place_order)(new=new, now=now, actor=principal, key=key)
        call.trailing[IS_NEW] = str(is_new).lower()
        return message_of(order)

    def GetOrder(self, request: pb.GetOrderRequest, call: Call) -> pb.Order:  # noqa: N802
        try:
            ORDER_ID(request.order_id)
        except ValidationError:
            raise services.NoSuchOrder("There is no such order.") from None
        return message_of(services.get_order(order_id=request.order_id, principal=call.principal))

    def ListOrders(self, request: Empty, call: Call) -> pb.ListOrdersResponse:  # noqa: N802
        newest = services.orders_of(call.principal).order_by("-created_at", "-order_id")[:LISTED]
        return pb.ListOrdersResponse(orders=[message_of(order) for order in newest])


def _plain(message: Message) -> dict[str, Any]:
    """The fields of a message as JSON would have them."""
    plain: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        if is_map(descriptor):
            plain[descriptor.name] = dict(value)
        else:
            plain[descriptor.name] = [_plain(each) for each in value] if descriptor.message_type else value
    return plain


def is_map(descriptor: FieldDescriptor) -> bool:
    """Whether a field is a map, which is stored as repeated messages of a key and a value."""
    return descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry


def message_of(order: Order) -> pb.Order:
    """The message that represents an order."""
    message = pb.Order(
        order_id=order.shown_id,
        customer_id=order.customer_id or None,
        user_id=order.user_id or None,
        user_email=order.user_email or None,
        status=order.status,
        total_amount=money.number(order.total, currency=order.currency),
        refunded_amount=money.number(order.refunded, currency=order.currency),
        currency=order.currency,
        version=order.version,
        items=[
            pb.Item(
                product_id=str(line.product_id) if line.product_id else None,
                sku=line.sku or None,
                name=line.name or None,
                quantity=line.quantity,
                price=money.number(line.unit_price, currency=order.currency),
                position=line.position,
                type=line.kind,
                of=line.of_position,
            )
            for line in order.loaded_lines
        ],
        description=order.description or None,
        payment_method=order.payment_method,
        payment_id=order.payment_id or None,
        fail_reason=order.fail_reason or None,
        metadata=order.metadata,
        **{f"{kind}_amount": money.number(order.sum_of(kind), currency=order.currency) for kind in ADDED},
    )
    message.created_at.FromDatetime(order.created_at)
    message.updated_at.FromDatetime(order.updated_at)
    return message
