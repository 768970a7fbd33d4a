"""What a door may ask of orders."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils.crypto import salted_hmac

from common.errors import Refusal
from common.locks import take_turn
from common.principal import Caller
from outbox import ids
from processing import services as stock

from . import saga
from .models import Order, OrderEvent, OrderLine, Status, new_order_id
from .pricing import Line, price

__all__ = ["Line", "NewOrder", "NoSuchOrder", "OrderExists", "cancel_order", "get_order", "orders_of", "place_order"]


class NoSuchOrder(Refusal):
    code = "order_not_found"


class OrderExists(Refusal):
    code = "order_exists"


@dataclass(frozen=True)
class NewOrder:
    """An order as asked for."""

    lines: tuple[Line, ...]
    order_id: str | None = None
    customer_id: str = ""
    user_id: str = ""
    user_email: str = ""
    description: str = ""
    payment_method: str = ""
    principal: str = ""

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@transaction.atomic(using="orders")
def place_order(*, new: NewOrder, now: datetime, actor: str = "", key: str | None = None) -> tuple[Order, bool]:
    """
    Store an order, with its stock held, and set its saga going. Whether it was made now: the same order, asked for
    again under the same id, is answered by the one that stands.

    An order without an id that is asked for under an idempotency `key` gets the same id every time, see the note.

    :raises Refusal: saying why not
    :raises processing.services.InsufficientStock: naming the lines
    """
    # Note [The hold is made first]: stock is held, and committed, in the database of processing before the order
    # commits here. A crash in between leaves a hold without an order. It expires; and if the customer tries again
    # before that, the new attempt takes its place, because it has the same order id.
    if new.order_id is not None:
        existing = _existing(new)
        if existing is not None:
            return existing, False
    order_id = new.order_id or (new_order_id() if key is None else _id_under(key, principal=new.principal, now=now))
    lines = price(new.lines)
    quantities = {str(line.product_id): line.quantity for line in lines if line.product_id is not None}
    hold_id = None
    if quantities:
        try:
            hold_id = stock.hold(order_id=order_id, quantities=quantities, now=now)
        except stock.InsufficientStock as refusal:
            raise _by_line(refusal, new.lines, lines) from None
    order = Order(
        order_id=order_id,
        principal=new.principal,
        customer_id=new.customer_id,
        user_id=new.user_id,
        user_email=new.user_email,
        description=new.description,
        status=Status.RESERVED if hold_id else Status.PENDING,
        total=sum(line.unit_price * line.quantity for line in lines),
        currency=settings.CURRENCY,
        payment_method=new.payment_method or (Order.Method.ACCOUNT if new.user_id else Order.Method.GATEWAY),
        hold_id=hold_id,
        fingerprint=new.fingerprint,
        created_at=now,
        updated_at=now,
    )
    for position, line in enumerate(lines, start=1):
        line.order, line.position = order, position
    saga.begin(order, lines, actor=actor)
    known = OrderLine.objects.all()
    known._result_cache = lines  # as prefetch_related does: no need to ask for them
    order._prefetched_objects_cache = {"lines": known}  # type: ignore[attr-defined]
    return order, True


def _existing(new: NewOrder) -> Order | None:
    """The order that stands under this id already; whoever asks second waits until the first has been stored."""
    assert new.order_id is not None, "only an order with an id of its own can stand already"
    take_turn("orders", new.order_id)
    existing = Order.objects.filter(pk=new.order_id).first()
    if existing is not None and existing.fingerprint != new.fingerprint:
        raise OrderExists(
            f"There is another order {new.order_id}.", errors={"order_id": ["Another order has this id."]}
        )
    return existing


def _id_under(key: str, *, principal: str, now: datetime) -> str:
    """
    The id of the order that is asked for under this key: the same for every attempt of a day.

    # Note [A day, not a moment]: the time in a UUIDv7 must be the same for each attempt, so it is the day's beginning.
    # An attempt after midnight gets another id; what a crash before midnight left behind then waits for its expiry.
    """
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    secret = salted_hmac("orders.order_id", json.dumps([principal, key, day.isoformat()]), algorithm="sha256")
    return str(ids.uuid7_from(secret.digest(), at=day))


def _by_line(
    refusal: stock.InsufficientStock, asked: tuple[Line, ...], lines: list[OrderLine]
) -> stock.InsufficientStock:
    """The refusal with the lines that lack stock named as the customer sent them."""
    lacking = {one.product_id: one for one in refusal.lacking}
    for number, line in enumerate(lines):
        if one := lacking.get(str(line.product_id)):
            refusal.errors[f"items[{number}].quantity"] = [f"{one.requested} asked for, {one.available} left."]
    return refusal


def orders_of(caller: Caller) -> QuerySet[Order]:
    """The orders that this caller may see, with their lines."""
    return caller.own(Order.objects.all()).prefetch_related("lines")


def get_order(*, order_id: str, caller: Caller) -> Order:
    """
    One order, with its lines.

    :raises NoSuchOrder: if there is none that this caller may see
    """
    order = orders_of(caller).filter(pk=order_id).first()
    if order is None:
        raise NoSuchOrder("There is no such order.")
    return order


def history_of(order: Order) -> QuerySet[OrderEvent]:
    """What has happened to an order."""
    return OrderEvent.objects.filter(order=order)


@transaction.atomic(using="orders")
def cancel_order(
    *,
    order_id: str,
    now: datetime,
    actor: str = "",
    reason: str = "canceled_by_customer",
    if_version: int | None = None,
) -> Order:
    """
    Begin the way back of an order; `canceled` shows when stock and money are back.

    :raises saga.OutOfTurn: if it is done or has failed
    :raises saga.VersionConflict: if it is at another version than the caller believes
    """
    return saga.advance(
        order_id=order_id, event=saga.CancelRequested(reason), now=now, actor=actor, if_version=if_version
    )
