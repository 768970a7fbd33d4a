"""The gRPC API of orders, as orders/protos/order_service.proto defines it."""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _g
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from rest_framework.exceptions import ValidationError as Invalid

from common import client_limits, money, reads
from common.idempotency import check_key
from common.principal import Principal
from outbox import clock
from outbox.conflicts import retry_on_conflict

from . import filters, limits, services
from .models import Order
from .protos import order_service_pb2 as pb
from .protos import order_service_pb2_grpc as stubs
from .serializers import ADDED, ORDER_ID, CancellationSerializer, NewOrderSerializer

LISTED = 100
EXACT = "decimal_"  # before the name of an amount: the field with the same amount as a text
IS_NEW = "order-made"  # in the trailing metadata: whether the order was placed by this call
COUNTED = "order-counted"  # in the metadata: the token that says that the gateway has counted the call


@dataclass(frozen=True)
class Call:
    """A call as the server passes it to a method. What is put into `trailing` is sent as trailing metadata."""

    principal: Principal
    address: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    trailing: dict[str, str] = field(default_factory=dict)


class OrderService(stubs.OrderServiceServicer):
    """The methods of the service. orders_project/grpc/calls.py calls them."""

    scopes: ClassVar = {
        "CreateOrder": "orders:write",
        "GetOrder": "orders:read",
        "ListOrders": "orders:read",
        "FindOrders": "orders:read",
        "CancelOrder": "orders:write",
    }

    def CreateOrder(self, request: pb.CreateOrderRequest, call: Call) -> pb.Order:  # noqa: N802
        _count(call)
        principal, now = call.principal.name, clock.now("orders")
        key = call.metadata.get("idempotency-key") or None
        if key is not None:
            check_key(key)
        asked = NewOrderSerializer(data=_plain(request))
        asked.is_valid(raise_exception=True)
        new = asked.new_order(principal=principal)
        services.admit(new=new, now=now, key=key)
        by_key = key if new.order_id is None else None
        if by_key is None or services.placed_under(by_key, principal=principal, now=now) is None:
            for name, value in limits.count_order(email=new.user_email, principal=principal).items():
                known = call.trailing.get(name.lower())
                call.trailing[name.lower()] = f"{known}, {value}" if known else value
        if key is None or new.order_id is None:  # else the id of the order does not tell its key
            order, is_new = retry_on_conflict(services.place_order)(new=new, now=now, actor=principal, key=key)
        else:
            order, is_new = retry_on_conflict(services.place_order_under)(new=new, now=now, actor=principal, key=key)
        call.trailing[IS_NEW] = str(is_new).lower()
        return message_of(order)

    def GetOrder(self, request: pb.GetOrderRequest, call: Call) -> pb.Order:  # noqa: N802
        return message_of(services.get_order(order_id=_order_id(request), principal=call.principal))

    def ListOrders(self, request: Empty, call: Call) -> pb.ListOrdersResponse:  # noqa: N802
        newest = services.orders_of(call.principal).order_by("-created_at", "-number")[:LISTED]
        found = reads.may_lag(lambda: list(newest.all()), "orders", who=call.principal.name)
        return pb.ListOrdersResponse(orders=[message_of(order) for order in found])

    def FindOrders(self, request: pb.FindOrdersRequest, call: Call) -> pb.FindOrdersResponse:  # noqa: N802
        orders, parameters = services.orders_of(call.principal), _parameters(request)
        found, cursor = reads.may_lag(lambda: filters.page_of(orders, parameters), "orders", who=call.principal.name)
        return pb.FindOrdersResponse(orders=[message_of(order) for order in found], next_cursor=cursor)

    def CancelOrder(self, request: pb.CancelOrderRequest, call: Call) -> pb.Order:  # noqa: N802
        _count(call)
        asked = CancellationSerializer(data={"reason": request.reason})
        asked.is_valid(raise_exception=True)
        order = retry_on_conflict(services.cancel_order)(
            order_id=_order_id(request),
            now=clock.now("orders"),
            principal=call.principal,
            reason=asked.validated_data["reason"] or "",
            versions={request.version} if request.HasField("version") else None,
        )
        return message_of(order)


def _count(call: Call) -> None:
    """Count a call against the limits of its client, which its trailing metadata tell, unless the gateway has."""
    token = call.metadata.get(COUNTED)
    if token and client_limits.is_counted(call.principal.name, token):
        return
    left = client_limits.count_request(principal=call.principal.name, address=call.address)
    call.trailing.update({name.lower(): value for name, value in left.items()})


def _order_id(request: pb.GetOrderRequest | pb.CancelOrderRequest) -> str:
    """
    The id of the order that a request is about.

    :raises NoSuchOrder: if no order can have it
    """
    try:
        ORDER_ID(request.order_id)
    except ValidationError:
        raise services.NoSuchOrder("There is no such order.") from None
    return request.order_id


def _parameters(request: pb.FindOrdersRequest) -> dict[str, str]:
    """
    The parameters of the list of orders, as an URL would have them.

    :raises ValidationError: if a time is none
    """
    given: dict[str, str] = {}
    for descriptor, value in request.ListFields():
        try:
            given[descriptor.name] = value.ToJsonString() if descriptor.message_type else str(value)
        except ValueError:
            raise Invalid({descriptor.name: [_g("Enter a valid date/time.")]}) from None
    return given


def _plain(message: Message) -> dict[str, Any]:
    """The fields of a message as JSON would have them. An amount that is given as a text too is that text."""
    plain: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        if is_map(descriptor):
            plain[descriptor.name] = dict(value)
        else:
            plain[descriptor.name] = [_plain(each) for each in value] if descriptor.message_type else value
    exact = {name.removeprefix(EXACT): value for name, value in plain.items() if name.startswith(EXACT)}
    return {name: value for name, value in plain.items() if not name.startswith(EXACT)} | exact


def is_map(descriptor: FieldDescriptor) -> bool:
    """Whether a field is a map, which is stored as repeated messages of a key and a value."""
    return descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry


def _amount(name: str, minor: int, currency: str) -> dict[str, Any]:
    """The two fields of an amount."""
    return {
        name: money.number(minor, currency=currency),
        f"{EXACT}{name}": money.exact(minor, currency=currency),
    }


def message_of(order: Order) -> pb.Order:
    """The message that represents an order."""
    currency = order.currency
    sums = {"total": order.total, "refunded": order.refunded} | {kind: order.sum_of(kind) for kind in ADDED}
    amounts = [_amount(f"{name}_amount", minor, currency) for name, minor in sums.items()]
    message = pb.Order(
        order_id=order.shown_id,
        customer_id=order.customer_id or None,
        user_id=order.user_id or None,
        user_email=order.user_email or None,
        status=order.status,
        currency=currency,
        version=order.version,
        items=[
            pb.Item(
                product_id=str(line.product_id) if line.product_id else None,
                sku=line.sku or None,
                name=line.name or None,
                quantity=line.quantity,
                position=line.position,
                type=line.kind,
                of=line.of_position,
                free_line=line.is_free,
                **_amount("price", line.unit_price, currency),
            )
            for line in order.loaded_lines
        ],
        description=order.description or None,
        payment_method=order.payment_method,
        payment_id=order.payment_id or None,
        fail_reason=order.fail_reason or None,
        metadata=order.metadata,
        number=order.number,
        **dict(ChainMap(*amounts)),
    )
    message.created_at.FromDatetime(order.created_at)
    message.updated_at.FromDatetime(order.updated_at)
    return message
