"""
THE PAGE: the life of an order. Every transition, every compensation, every timer.

The other services know only their own commands and events; this page alone knows what follows what. It is data: print
it (`manage.py saga`), draw it, test it. Every pair of status and event is decided: a step, old news, or a refusal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _g

from outbox import context
from outbox.consumers import Undeliverable
from outbox.message import Message
from outbox.store import Statement
from payments.messages import (
    Charge,
    PaymentFailed,
    PaymentPending,
    PaymentRefunded,
    PaymentSucceeded,
    PaymentVoided,
    Refund,
    Void,
)
from processing.messages import HoldExpired, OrderProcessed, Process, ProcessingRefused, Release, StockReleased

from . import history, metrics, webhooks
from .messages import OrderFact, Overdue
from .models import ENDS, ROWS, Order, OrderEvent, OrderLine, Outgoing, Status, snapshot


@dataclass(frozen=True)
class CancelRequested:
    """The customer or an operator wants the order canceled. Asked at a door, not by letter."""

    reason: str = "canceled_by_customer"


Event = Message | CancelRequested


# What the order says ------------------------------------------------------------------------------------------------


def charge(order: Order) -> Message:
    return Charge(
        order_id=order.order_id,
        amount=order.total,
        currency=order.currency,
        method=order.payment_method,
        user_id=order.user_id or None,
        principal=order.principal,
    )


def process(order: Order) -> Message:
    return Process(order_id=order.order_id, hold_id=_hold(order))


def void(order: Order) -> Message:
    return Void(order_id=order.order_id)


def refund(order: Order) -> Message:
    return Refund(order_id=order.order_id)


def release(order: Order) -> Message:
    return Release(order_id=order.order_id, hold_id=_hold(order))


def _hold(order: Order) -> str | None:
    return str(order.hold_id) if order.hold_id else None


# Where it ends ------------------------------------------------------------------------------------------------------

# An order that turned back for one of these has failed; for any other reason it is canceled.
FAILURES = frozenset(
    {"insufficient_funds", "no_account", "currency_mismatch", "processing_refused", "processing_timeout"}
)


def end(order: Order) -> Status:
    return Status.FAILED if order.fail_reason in FAILURES else Status.CANCELED


# The table ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One transition: what the order becomes (passing `through` another status on the way) and says."""

    becomes: Status | Callable[[Order], Status]
    says: Callable[[Order], Message] | None = None
    through: Status | None = None


P, R, PP, PAID = Status.PENDING, Status.RESERVED, Status.PAYMENT_PENDING, Status.PAID
VOIDING, REFUNDING, RELEASING = Status.VOIDING, Status.REFUNDING, Status.RELEASING
DONE, CANCELED, FAILED = Status.DONE, Status.CANCELED, Status.FAILED

# fmt: off
STEPS: dict[tuple[Status, type[Event]], Step] = {
    # while it IS  and HEARS             it BECOMES        and SAYS
    (P,         PaymentPending):    Step(PP),
    (R,         PaymentPending):    Step(PP),
    (P,         PaymentSucceeded):  Step(PAID,      says=process, through=PP),
    (R,         PaymentSucceeded):  Step(PAID,      says=process, through=PP),
    (PP,        PaymentSucceeded):  Step(PAID,      says=process),
    (PAID,      OrderProcessed):    Step(DONE),

    # no money came in: give the stock back
    (P,         PaymentFailed):     Step(RELEASING, says=release),
    (R,         PaymentFailed):     Step(RELEASING, says=release),
    (PP,        PaymentFailed):     Step(RELEASING, says=release),
    (P,         PaymentVoided):     Step(RELEASING, says=release),
    (R,         PaymentVoided):     Step(RELEASING, says=release),
    (PP,        PaymentVoided):     Step(RELEASING, says=release),
    (RELEASING, StockReleased):     Step(end),

    # turned back before it was paid: make sure that no money stays in, then give the stock back
    (P,         CancelRequested):   Step(VOIDING,   says=void),
    (R,         CancelRequested):   Step(VOIDING,   says=void),
    (PP,        CancelRequested):   Step(VOIDING,   says=void),
    (P,         Overdue):           Step(VOIDING,   says=void),
    (R,         Overdue):           Step(VOIDING,   says=void),
    (PP,        Overdue):           Step(VOIDING,   says=void),
    (R,         HoldExpired):       Step(VOIDING,   says=void),
    (PP,        HoldExpired):       Step(VOIDING,   says=void),
    (VOIDING,   PaymentVoided):     Step(RELEASING, says=release),
    (VOIDING,   PaymentFailed):     Step(RELEASING, says=release),
    (VOIDING,   PaymentRefunded):   Step(RELEASING, says=release),

    # turned back after it was paid: stop the processing and give the stock back, then the money
    (PAID,      ProcessingRefused): Step(REFUNDING, says=release),
    (PAID,      CancelRequested):   Step(REFUNDING, says=release),
    (PAID,      Overdue):           Step(REFUNDING, says=release),
    (REFUNDING, StockReleased):     Step(REFUNDING, says=refund),
    (REFUNDING, PaymentRefunded):   Step(end),
    (REFUNDING, OrderProcessed):    Step(DONE),  # it had been accepted before the way back began

    # no answer on the way back: ask again
    (VOIDING,   Overdue):           Step(VOIDING,   says=void),
    (RELEASING, Overdue):           Step(RELEASING, says=release),
    (REFUNDING, Overdue):           Step(REFUNDING, says=release),

    # late truth: money that came in for an order that is on its way out goes back by itself
    (RELEASING, PaymentSucceeded):  Step(VOIDING,   says=void),  # no end is shown before it is back
    (CANCELED,  PaymentSucceeded):  Step(CANCELED,  says=refund),
    (FAILED,    PaymentSucceeded):  Step(FAILED,    says=refund),
}
# fmt: on

# Old news: it is so already, or what was said since answers it.
ALREADY: dict[type[Event], frozenset[Status]] = {
    PaymentPending: frozenset({PP, PAID, VOIDING, REFUNDING, RELEASING, DONE, CANCELED, FAILED}),
    PaymentSucceeded: frozenset({PAID, VOIDING, REFUNDING, DONE}),
    PaymentFailed: frozenset({RELEASING, CANCELED, FAILED}),
    PaymentVoided: frozenset({RELEASING, CANCELED, FAILED}),
    PaymentRefunded: frozenset({RELEASING, CANCELED, FAILED}),
    OrderProcessed: frozenset({DONE}),
    ProcessingRefused: frozenset({REFUNDING, CANCELED, FAILED}),
    StockReleased: frozenset({VOIDING, CANCELED, FAILED}),
    HoldExpired: frozenset({PAID, VOIDING, REFUNDING, RELEASING, DONE, CANCELED, FAILED}),
    CancelRequested: frozenset({VOIDING, REFUNDING, RELEASING, CANCELED}),
    Overdue: frozenset({DONE, CANCELED, FAILED}),
}

# Refused: what can't be true of such an order. A letter that says so goes to the dead letters, for a person to see.
REFUSED: dict[type[Event], dict[Status, str]] = {
    PaymentFailed: dict.fromkeys((PAID, REFUNDING, DONE), "paid_already"),
    PaymentVoided: dict.fromkeys((PAID, REFUNDING, DONE), "paid_already"),
    PaymentRefunded: dict.fromkeys((P, R, PP, PAID, DONE), "refund_not_asked_for"),
    OrderProcessed: dict.fromkeys((P, R, PP, VOIDING, RELEASING, CANCELED, FAILED), "not_being_processed"),
    ProcessingRefused: {
        **dict.fromkeys((P, R, PP, VOIDING, RELEASING), "not_being_processed"),
        DONE: "processed_already",
    },
    StockReleased: dict.fromkeys((P, R, PP, PAID, DONE), "release_not_asked_for"),
    HoldExpired: {P: "holds_no_stock"},
    CancelRequested: {DONE: "already_done", FAILED: "already_failed"},
}

EVENTS: tuple[type[Event], ...] = tuple(ALREADY)

# How long an order waits in a status before it hears Overdue.
PATIENCE: dict[Status, Callable[[], timedelta]] = {
    P: lambda: settings.PAYMENT_TIMEOUT,
    R: lambda: settings.PAYMENT_TIMEOUT,
    PP: lambda: settings.PAYMENT_TIMEOUT,
    PAID: lambda: settings.PROCESSING_TIMEOUT,
    VOIDING: lambda: timedelta(minutes=1),
    REFUNDING: lambda: timedelta(minutes=1),
    RELEASING: lambda: timedelta(minutes=1),
}

# Why an order turns back, by what it heard; the first reason stays.
REASONS: dict[type[Event], Callable[[Any, Order], str]] = {
    PaymentFailed: lambda event, order: event.reason,
    PaymentVoided: lambda event, order: "payment_voided",
    ProcessingRefused: lambda event, order: "processing_refused",
    HoldExpired: lambda event, order: "hold_expired",
    CancelRequested: lambda event, order: event.reason,
    Overdue: lambda event, order: "processing_timeout" if order.status == PAID else "payment_timeout",
}


# The machine --------------------------------------------------------------------------------------------------------


class OutOfTurn(Undeliverable):
    """The order is not in a state in which this can happen."""

    def __init__(self, code: str, order: Order, event: Event) -> None:
        words = _g("Order %(order)s is %(status)s and can't hear %(event)s.")
        super().__init__(code, words % {"order": order.order_id, "status": order.status, "event": type(event).__name__})


def begin(order: Order, lines: list[OrderLine], *, actor: str) -> Order:
    """Store a new order, tell of it, ask for its money and set its timer. Call it in a transaction of orders."""
    created = _event(order, kind="order.created", status=order.status, actor=actor, data=history.told_at_first(order))
    letters = Outgoing.drafts(charge(order), _fact(order, "created")) + _timer(order, now=order.created_at)
    stored = [ROWS.insert(order), ROWS.insert(created), ROWS.insert(*lines)]
    listeners, *_ = Outgoing.send(letters, beside=[Statement(f"SELECT WHERE {webhooks.LISTENERS}", []), *stored])
    if listeners:
        webhooks.announce(letters)
    metrics.created(order)
    return order


@transaction.atomic(using="orders", savepoint=False)
def advance(
    *, order_id: str, event: Event, now: datetime, actor: str = "", note: str = "", if_version: int | None = None
) -> Order:
    """
    Let an order hear an event: one transition, its history and what it says, in one commit.

    `note` is kept in the history with it: what a person who said this gave as the reason.

    :raises Order.DoesNotExist: if there is no such order
    :raises OutOfTurn: if the table refuses the event
    :raises VersionConflict: if the order is at another version than the caller believes
    """
    order = _lock(order_id)
    if if_version is not None and order.version != if_version:
        raise VersionConflict(order)
    kind = type(event)
    step = STEPS.get((Status(order.status), kind))
    if step is None:
        if order.status in ALREADY[kind]:
            return order
        raise OutOfTurn(REFUSED[kind][Status(order.status)], order, event)

    changes: dict[str, Any] = {}
    if getattr(event, "payment_id", "") and not order.payment_id:
        changes["payment_id"] = event.payment_id  # type: ignore[union-attr]
    if kind in REASONS and not order.fail_reason:
        changes["fail_reason"] = REASONS[kind](event, order)
    for name, value in changes.items():
        setattr(order, name, value)
    becomes = step.becomes(order) if callable(step.becomes) else step.becomes
    if becomes == DONE and order.fail_reason:
        changes["fail_reason"] = order.fail_reason = ""

    before, order.updated_at = order.status, now
    told, says = [], []
    for status in filter(None, (step.through, becomes)):
        order.version += 1
        order.status = status
        data = changes | {"status": status} | ({history.NOTE: note} if note else {})
        told.append(_event(order, kind=_name(event), status=status, actor=actor, data=data))
        if status != before:
            says.append(_fact(order, status))
    if step.says is not None:
        says.append(step.says(order))
    stored = [ROWS.update(order, "status", "version", "updated_at", *changes), ROWS.insert(*told)]
    letters = Outgoing.drafts(*says)
    Outgoing.send(letters, beside=stored)
    if order.has_listeners:  # type: ignore[attr-defined]
        webhooks.announce(letters)
    metrics.stepped(
        order, before=before, event=_name(event), through=step.through, says=getattr(step.says, "__name__", "")
    )
    return order


def look_after(*, order_id: str, now: datetime) -> None:
    """The order's timer went off: if it has waited too long it hears so; while it lives, the timer is set again."""
    order = _lock(order_id)
    if order.status not in ENDS and now >= waits_until(order):
        order = advance(order_id=order_id, event=Overdue(order_id=order_id), now=now)
    if order.status not in ENDS:
        Outgoing.send(_timer(order, now=now))


def waits_until(order: Order) -> datetime:
    """When an open order will hear Overdue."""
    return order.updated_at + PATIENCE[Status(order.status)]()


class VersionConflict(Exception):
    """The order has moved on since the caller looked."""

    code = "version_conflict"

    def __init__(self, order: Order) -> None:
        super().__init__(f"The order is at version {order.version}.")
        self.order = order


def _lock(order_id: str) -> Order:
    order = ROWS.first(Order, "WHERE order_id = %s FOR UPDATE", order_id, has_listeners=webhooks.LISTENERS)
    if order is None:
        raise Order.DoesNotExist(order_id)
    return order


def _timer(order: Order, *, now: datetime) -> list[Outgoing]:
    due_at = max(waits_until(order), now + timedelta(seconds=1))
    return Outgoing.drafts(Overdue(order_id=order.order_id), due_at=due_at)


def _fact(order: Order, fact: str) -> Message:
    return OrderFact(order_id=order.order_id, fact=str(fact), order=snapshot(order))


def _name(event: Event) -> str:
    return event.type if isinstance(event, Message) else "order.cancel_requested"


def _event(order: Order, *, kind: str, status: str, actor: str, data: dict[str, Any]) -> OrderEvent:
    here = context.current()
    return OrderEvent(
        order_id=order.order_id,
        version=order.version,
        type=kind,
        status=status,
        data=data,
        actor=actor,
        message_id=here.causation_id or "",
        correlation_id=here.correlation_id,
        at=timezone.now() if order.updated_at is None else order.updated_at,
    )
