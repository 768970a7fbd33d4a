"""
Orders that are lost or behind because the database of orders was set back to an earlier moment, made again.

What became of them is told by the events that orders has published since: each has the whole order as it was.

# Note [Before its messages come again]: an event stands for all that its transaction did here, so the message that it
followed from counts as handled with it. What no event tells of, such as an answer whose effect was not published any
more, is handled again afterwards, and then finds the order as it was.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connections, transaction

from common import encryption, money
from common.errors import NotRebuilt
from outbox import forgotten
from outbox.envelope import Envelope

from . import history, refunds, transitions, webhooks
from . import origin as origins
from .messages import Overdue
from .models import ENDS, NUMBERS, ROWS, Incoming, Order, OrderEvent, OrderLine, Outgoing, Refund, Status, new_number
from .saga import overdue_at

CREATED, RECOVERED = "order.created", "order.recovered"
SOON = timedelta(minutes=1)  # in which who is asked again answers, before an order is overdue
NO_ORIGIN = "no event tells how it was placed: have its client repeat its request"


@dataclass(frozen=True)
class Told:
    """An event that was told, and the type of the message of another service that it followed from, if it did."""

    event: Envelope
    cause: str = ""

    @property
    def version(self) -> int:
        return int(self.event.data["version"])

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.event.data.get("updated_at") or self.event.time)

    @property
    def kind(self) -> str:
        """What happened, as the history calls it."""
        if self.event.type == CREATED or self.cause:
            return self.cause or CREATED
        if self.event.causationid:
            return Overdue.name  # no other service has sent it
        return REQUESTED.get(self.event.data["status"], RECOVERED)

    def minor_units(self, amount: Any) -> int:
        return money.minor_units(amount, currency=self.event.data["currency"])


# What was asked for where no message led to this status.
REQUESTED = {
    Status.CAPTURING: "order.capture_requested",
    **dict.fromkeys((Status.VOIDING, Status.RELEASING, Status.REFUNDING), "order.cancel_requested"),
}


def unknown(events: Collection[Envelope]) -> list[Envelope]:
    """Return those of these events that the outbox does not know, by order and version."""
    known = set(Outgoing.objects.filter(pk__in=[one.id for one in events]).values_list("pk", flat=True))
    new = {one.id: one for one in events if UUID(one.id) not in known}
    return sorted(new.values(), key=lambda one: (one.subject, one.sequence or ""))


@transaction.atomic(using="orders")
def place_again(told: Told, *, now: datetime) -> Order | None:
    """
    Store an order again as it was placed; return it, or None if it is there.

    :raises NotRebuilt: if the event does not say whose it is
    """
    if Order.objects.filter(pk=told.event.subject).exists():
        _know(told, now=now)
        return None
    order, lines = _as_placed(told)
    if Order.objects.filter(number=order.number).exists():
        order.number = new_number()
    order.loaded_lines = lines
    with ROWS.batch() as batch:
        transitions.set_timer(order, at=max(overdue_at(order), now + SOON), batch=batch)
        batch.insert(order)
        batch.insert(*lines)
        batch.insert(_entry(order, told, data=history.initial_data(order), actor=order.principal))
    _know(told, now=now)
    webhooks.announce(order, [_row(told)])
    return order


def _as_placed(told: Told) -> tuple[Order, list[OrderLine]]:
    data = told.event.data
    if origins.NAME not in data:
        raise NotRebuilt(NO_ORIGIN)
    try:
        origin = origins.Origin.unseal(data[origins.NAME])
    except encryption.NotReadable as error:
        raise NotRebuilt(f"{NO_ORIGIN}, or add the key of that time to ENCRYPTION_KEY and run this again") from error
    at = datetime.fromisoformat(data["created_at"])
    order = Order(
        order_id=told.event.subject,
        number=data["number"],
        reference=data["reference"] or "",
        metadata=data["metadata"],
        status=data["status"],
        total=data["total"],
        currency=data["currency"],
        payment_method=data["payment_method"],
        version=told.version,
        created_at=at,
        updated_at=told.at,
        status_since=at,
        **{name: data[name] or "" for name in ("customer_id", "user_id", "user_email", "description")},
    )
    origin.apply(order)
    lines = [
        OrderLine(
            order=order,
            position=line["position"],
            kind=line["type"],
            of_position=line["of"],
            product_id=line["product_id"] and UUID(line["product_id"]),
            sku=line["sku"] or "",
            name=line["name"] or "",
            quantity=line["quantity"],
            unit_price=told.minor_units(line["price"]),
        )
        for line in data["items"]
    ]
    return order, lines


def count_past(number: int) -> None:
    """Let no further order get this number or one before it."""
    missing = number - new_number()
    if missing > 0:  # by what whoever places orders may do as well
        with connections["orders"].cursor() as cursor:
            cursor.execute("SELECT max(nextval(%s)) FROM generate_series(1, %s)", [NUMBERS, missing])


@transaction.atomic(using="orders")
def bring_forward(told: Told, *, now: datetime) -> Order:
    """
    Let an order become what an event tells of it, if that is newer; return the order.

    :raises NotRebuilt: if there is no such order
    """
    try:
        order = transitions.lock(told.event.subject)
    except Order.DoesNotExist:
        raise NotRebuilt(NO_ORIGIN) from None
    _know(told, now=now)
    if told.version > order.version:
        _become(order, told, now=now)
    if about := told.event.data.get("refund"):
        _restore_refund(order, told, about)
    webhooks.announce(order, [_row(told)])
    return order


def _become(order: Order, told: Told, *, now: datetime) -> None:
    data, before = told.event.data, order.status
    captured = data.get("captured_amount")
    changes = {
        "payment_id": data["payment_id"] or "",
        "fail_reason": data["fail_reason"] or "",
        "refunded": told.minor_units(data.get("refunded_amount", 0)),
        "captured": None if captured is None else told.minor_units(captured),
        "blocked": order.blocked if data["status"] == before else "",
    }
    changes = {name: value for name, value in changes.items() if value != getattr(order, name)}
    events = []
    while order.version < told.version:
        order.version, order.updated_at = order.version + 1, told.at
        if order.version == told.version:
            for name, value in changes.items():
                setattr(order, name, value)
            order.status = data["status"]
            besides = {name: _stored(data[name], told) for name in ("refund", "dispute") if name in data}
            events.append(_entry(order, told, data=changes | besides))
        else:  # not every version has an event
            events.append(_entry(order, told, data={}, kind=RECOVERED))
    if order.status != before:
        order.status_since = told.at
    with ROWS.batch() as batch:
        if order.status not in ENDS and (order.timer_at is None or order.timer_at > overdue_at(order)):
            transitions.set_timer(order, at=max(overdue_at(order), now + SOON), batch=batch)
        batch.update(order, "status", "version", "updated_at", "status_since", "timer_at", "timer_id", *changes)
        batch.insert(*events)


def _entry(order: Order, told: Told, *, data: Mapping[str, Any], kind: str = "", actor: str = "") -> OrderEvent:
    return OrderEvent(
        order_id=order.order_id,
        version=order.version,
        type=kind or told.kind,
        status=order.status,
        data=dict(data),
        actor=actor,
        message_id="" if kind else told.event.causationid or "",
        correlation_id=told.event.correlationid,
        at=order.updated_at,
    )


def _know(told: Told, *, now: datetime) -> None:
    """Let the outbox know an event again, and the inbox the message that it followed from."""
    event = told.event
    forgotten.remember_events("orders", [event], now=now)
    if told.cause and event.causationid:
        handled = Incoming(
            message_id=UUID(event.causationid),
            type=told.cause,
            subject=event.subject,
            received_at=told.at,
            handled_at=told.at,
        )
        ROWS.insert_new(handled)


def _row(told: Told) -> Outgoing:
    return Outgoing.objects.get(pk=told.event.id)


# Refunds ------------------------------------------------------------------------------------------------------------


def _stored(about: Mapping[str, Any], told: Told) -> dict[str, Any]:
    """What an event tells of a refund or a dispute, with its amounts in minor units."""
    stored = dict(about)
    if "amount" in about:
        stored["amount"] = told.minor_units(about["amount"])
    if "lines" in about:
        stored["lines"] = [_stored(line, told) for line in about["lines"]]
    return stored


def _restore_refund(order: Order, told: Told, about: Mapping[str, Any]) -> None:
    stored = _stored(about, told)
    refund, _ = Refund.objects.get_or_create(
        pk=about["refund_id"],
        defaults={
            "order": order,
            "amount": stored["amount"],
            "currency": stored["currency"],
            "reason": stored["reason"],
            "lines": stored.get("lines", []),
            "created_at": told.at,
            "updated_at": told.at,
        },
    )
    if refund.status == Refund.Status.FAILED:  # the last word
        return
    refund.status, refund.fail_code = stored["status"], stored["fail_code"] or ""
    refund.restock = stored.get("restock", refund.restock)
    refund.updated_at = told.at
    refund.save(update_fields=["status", "fail_code", "restock", "updated_at"])
    if refund.status == Refund.Status.SUCCEEDED:
        refunds.take_back(refund, order)  # nobody knows whether that had left


@transaction.atomic(using="orders")
def ask_again(
    *, order_id: str, refund_id: UUID, amount: int, currency: str, reason: str, asked_at: datetime, now: datetime
) -> bool:
    """
    Store a refund again that payments was asked for, and return whether its pieces may have been to go into stock.

    :raises NotRebuilt: if there is no such order
    """
    try:
        order = transitions.lock(order_id)
    except Order.DoesNotExist:
        raise NotRebuilt(NO_ORIGIN) from None
    refund = Refund.objects.create(
        refund_id=refund_id,
        order=order,
        amount=amount,
        currency=currency,
        reason=reason,
        created_at=asked_at,
        updated_at=asked_at,
    )
    transitions.record(order, kind="order.refund_requested", now=now, about={"refund": refunds.told(refund)})
    return any(line.product_id for line in order.loaded_lines)
