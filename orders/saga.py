"""
The life of an order: every transition, every compensation and every timeout, in one table.

The other services know only their own commands and events; this module alone knows what follows what. The table is
data: `manage.py saga` prints it and draws it. Each pair of status and event is decided: it is a step, old news, or
refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_noop

from common.authority import SYSTEM, Authority
from common.errors import Refusal
from outbox import clock, context
from outbox.errors import Undeliverable
from outbox.message import Message
from outbox.store import Batch, Statement
from payments.messages import (
    Charge,
    PaymentFailed,
    PaymentPending,
    PaymentRefunded,
    PaymentReturnRefused,
    PaymentSucceeded,
    PaymentVoided,
    Refund,
    Void,
)
from processing.messages import (
    PROCESSING_TIMEOUT,
    HoldExpired,
    OrderProcessed,
    Process,
    ProcessingRefused,
    Release,
    StockReleased,
)

from . import history, metrics, webhooks
from .messages import OrderFact, Overdue
from .models import ENDS, ROWS, Order, OrderEvent, OrderLine, Outgoing, Status, snapshot


@dataclass(frozen=True)
class CancelRequested:
    """A customer or an operator wants the order canceled. It comes from an endpoint or the admin, not as a message."""

    reason: str = "canceled_by_customer"


Event = Message | CancelRequested


# The commands that an order sends -----------------------------------------------------------------------------------


def charge(order: Order) -> Message:
    return Charge(
        order_id=order.order_id,
        amount=order.total,
        currency=order.currency,
        method=order.payment_method,
        user_id=order.user_id or None,
        principal=order.principal,
        deadline=overdue_at(order).isoformat(),
    )


def process(order: Order) -> Message:
    return Process(order_id=order.order_id, hold_id=_hold(order), deadline=overdue_at(order).isoformat())


def void(order: Order) -> Message:
    return Void(order_id=order.order_id)


def refund(order: Order) -> Message:
    return Refund(order_id=order.order_id)


def release(order: Order) -> Message:
    return Release(order_id=order.order_id, hold_id=_hold(order))


def _hold(order: Order) -> str | None:
    return str(order.hold_id) if order.hold_id else None


# How it ends --------------------------------------------------------------------------------------------------------

PAYMENT_TIMEOUT = "payment_timeout"

# An order that was turned back for one of these reasons has failed; for any other reason it is canceled.
FAILURES = frozenset(
    {"insufficient_funds", "no_account", "currency_mismatch", "processing_refused", PROCESSING_TIMEOUT}
)


def end(order: Order) -> Status:
    return Status.FAILED if order.fail_reason in FAILURES else Status.CANCELED


# The table ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """
    The status that follows, perhaps `through` another one, and the command that is sent.

    A step that leaves the order as it is only sends its command: it is no transition, and not in the history.
    """

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

    # the gateway refuses to return the money: the order stays where it is until a person has decided
    (VOIDING,   PaymentReturnRefused): Step(VOIDING),
    (REFUNDING, PaymentReturnRefused): Step(REFUNDING),

    # no answer on the way back: ask again, less and less often
    (VOIDING,   Overdue):           Step(VOIDING,   says=void),
    (RELEASING, Overdue):           Step(RELEASING, says=release),
    (REFUNDING, Overdue):           Step(REFUNDING, says=release),

    # late news: money that came in for an order that is on its way out goes back by itself
    (RELEASING, PaymentSucceeded):  Step(VOIDING,   says=void),  # no end is shown before it is back
    (CANCELED,  PaymentSucceeded):  Step(CANCELED,  says=refund),
    (FAILED,    PaymentSucceeded):  Step(FAILED,    says=refund),
}
# fmt: on

# Old news, which changes nothing: it is so already, or a command that was sent since takes care of it.
ALREADY: dict[type[Event], frozenset[Status]] = {
    PaymentPending: frozenset({PP, PAID, VOIDING, REFUNDING, RELEASING, DONE, CANCELED, FAILED}),
    PaymentSucceeded: frozenset({PAID, VOIDING, REFUNDING, DONE}),
    PaymentFailed: frozenset({RELEASING, CANCELED, FAILED}),
    PaymentVoided: frozenset({RELEASING, CANCELED, FAILED}),
    PaymentRefunded: frozenset({RELEASING, CANCELED, FAILED}),
    PaymentReturnRefused: frozenset({RELEASING, CANCELED, FAILED}),
    OrderProcessed: frozenset({DONE}),
    ProcessingRefused: frozenset({REFUNDING, CANCELED, FAILED}),
    StockReleased: frozenset({VOIDING, CANCELED, FAILED}),
    HoldExpired: frozenset({PAID, VOIDING, REFUNDING, RELEASING, DONE, CANCELED, FAILED}),
    CancelRequested: frozenset({VOIDING, REFUNDING, RELEASING, CANCELED}),
    Overdue: frozenset({DONE, CANCELED, FAILED}),
}

# Refused: what cannot be true of an order in this status. A message that says so becomes a dead letter, for a person
# to look at.
REFUSED: dict[type[Event], dict[Status, str]] = {
    PaymentFailed: dict.fromkeys((PAID, REFUNDING, DONE), "paid_already"),
    PaymentVoided: dict.fromkeys((PAID, REFUNDING, DONE), "paid_already"),
    PaymentRefunded: dict.fromkeys((P, R, PP, PAID, DONE), "refund_not_asked_for"),
    PaymentReturnRefused: dict.fromkeys((P, R, PP, PAID, DONE), "refund_not_asked_for"),
    OrderProcessed: dict.fromkeys((P, R, PP, VOIDING, RELEASING, CANCELED, FAILED), "not_being_processed"),
    ProcessingRefused: {
        **dict.fromkeys((P, R, PP, VOIDING, RELEASING), "not_being_processed"),
        DONE: "processed_already",
    },
    StockReleased: dict.fromkeys((P, R, PP, PAID, DONE), "release_not_asked_for"),
    HoldExpired: {P: "holds_no_stock"},
    CancelRequested: {DONE: "already_done", FAILED: "already_failed"},
}

# What a refusal says to a customer or an operator, by its code.
REFUSALS = {
    "paid_already": gettext_noop("Order %(order)s is %(status)s: its payment has already succeeded."),
    "refund_not_asked_for": gettext_noop("Order %(order)s is %(status)s and has not asked for a refund."),
    "not_being_processed": gettext_noop("Order %(order)s is %(status)s and is not being processed."),
    "processed_already": gettext_noop("Order %(order)s is %(status)s and has already been processed."),
    "release_not_asked_for": gettext_noop("Order %(order)s is %(status)s and has not given back its stock."),
    "holds_no_stock": gettext_noop("Order %(order)s is %(status)s and holds no stock."),
    "already_done": gettext_noop("Order %(order)s is done and can no longer be canceled."),
    "already_failed": gettext_noop("Order %(order)s has failed and can no longer be canceled."),
}

EVENTS: tuple[type[Event], ...] = tuple(ALREADY)

# How long an order may stay in a status before it is overdue, counted from when it entered the status.
TIMEOUTS: dict[Status, Callable[[], timedelta]] = {
    P: lambda: settings.PAYMENT_TIMEOUT,
    R: lambda: settings.PAYMENT_TIMEOUT,
    PP: lambda: settings.PAYMENT_TIMEOUT,
    PAID: lambda: settings.PROCESSING_TIMEOUT,
    VOIDING: lambda: timedelta(minutes=1),
    REFUNDING: lambda: timedelta(minutes=1),
    RELEASING: lambda: timedelta(minutes=1),
}
LONGEST_PAUSE = timedelta(hours=1)  # between two requests to return money or stock that nobody answers

# Why an order is turned back, by the event that does it. The first reason stays.
REASONS: dict[type[Event], Callable[[Any, Order], str]] = {
    PaymentFailed: lambda event, order: event.reason,
    PaymentVoided: lambda event, order: "payment_voided",
    ProcessingRefused: lambda event, order: (
        PROCESSING_TIMEOUT if event.reason == PROCESSING_TIMEOUT else "processing_refused"
    ),
    HoldExpired: lambda event, order: "hold_expired",
    CancelRequested: lambda event, order: event.reason,
    Overdue: lambda event, order: PROCESSING_TIMEOUT if order.status == PAID else PAYMENT_TIMEOUT,
}


# What carries the table out -----------------------------------------------------------------------------------------


class OutOfTurn(Undeliverable):
    """The order is in a status in which this event cannot happen."""

    def __init__(self, code: str, order: Order) -> None:
        super().__init__(code, _g(REFUSALS[code]) % {"order": order.shown_id, "status": order.get_status_display()})


class VersionConflict(Refusal):
    """The order has changed since the caller looked at it."""

    code = "version_conflict"

    def __init__(self, order: Order) -> None:
        super().__init__(
            _g("The order has changed since you looked at it: it is at version %(version)s now. Look at it again.")
            % {"version": order.version}
        )


def begin(order: Order, lines: list[OrderLine], *, actor: str) -> None:
    """
    Store a new order with its lines and its first event; ask for its payment, announce it and set its timer.

    Call it in a transaction of the database of orders.
    """
    # Note [The first timer]: it comes after the shortest time that an order on its way forth may wait, so that an order
    # which is done by then needs no other timer. Where it comes too early, it sets the next one.
    order.updated_at = _time_of_change(order, now=order.created_at)
    first = order.created_at + min(TIMEOUTS[status]() for status in (P, R, PP, PAID))
    with ROWS.batch() as batch:
        _set_timer(order, at=first, batch=batch)
        batch.insert(order)
        batch.insert(*lines)
        batch.insert(
            _event(order, kind="order.created", status=order.status, actor=actor, data=history.initial_data(order))
        )
        posted = Outgoing.post(charge(order), _fact(order, "created"), batch=batch)
        listeners = batch.add(Statement(f"SELECT WHERE {webhooks.LISTENERS.format(principal='%s')}", [order.principal]))
    if batch.touched[listeners]:
        webhooks.announce(order, posted)
    metrics.created(order)


def lock(order_id: str) -> Order:
    """
    Read an order and lock it until the transaction ends.

    :raises Order.DoesNotExist: if there is no such order
    """
    listeners = webhooks.LISTENERS.format(principal="orders_order.principal")
    order = ROWS.first(Order, "WHERE order_id = %s FOR UPDATE", order_id, has_listeners=listeners)
    if order is None:
        raise Order.DoesNotExist(order_id)
    return order


@transaction.atomic(using="orders", savepoint=False)
def advance(
    *,
    order_id: str,
    event: Event,
    now: datetime,
    by: Authority = SYSTEM,
) -> Order:
    """
    Apply an event to an order, and return the order: see `apply`.

    :raises Order.DoesNotExist: if there is no such order
    :raises OutOfTurn: if the table refuses the event
    :raises NeedsSecondPerson: if it gives money back that one person may not give back alone
    """
    order = lock(order_id)
    apply(event, order, now=now, by=by)
    return order


def apply(event: Event, order: Order, *, now: datetime, by: Authority = SYSTEM, note: str = "") -> None:
    """
    Make the transition that the table prescribes, if it is a step: store the order and its history, post its messages.

    The order comes from `lock`. `note` is kept in the history: the reason that a person gave.

    :raises OutOfTurn: if the table refuses the event
    :raises NeedsSecondPerson: if it gives money back that one person may not give back alone
    """
    kind = type(event)
    step = STEPS.get((Status(order.status), kind))
    if step is None:
        if order.status in ALREADY[kind]:
            return
        raise OutOfTurn(REFUSED[kind][Status(order.status)], order)
    if order.status == PAID and step.becomes == REFUNDING:
        by.permit(order.total, order.currency)

    now, before = _time_of_change(order, now=now), order.status
    becomes = step.becomes(order) if callable(step.becomes) else step.becomes
    changes = _changes(event, order, becomes=becomes)
    for name, value in changes.items():
        setattr(order, name, value)
    passed = [*filter(None, (step.through, becomes))] if changes or becomes != before else []
    events, messages = [], []
    for status in passed:
        order.version += 1
        order.status, order.updated_at = status, now
        data = changes | {"status": status} | ({history.NOTE: note} if note else {})
        events.append(_event(order, kind=_name(event), status=status, actor=by.name, data=data))
        if status != before:
            messages.append(_fact(order, status))
    if becomes != before:
        order.status_since = now
    if step.says is not None:
        messages.append(step.says(order))
    posted: list[Outgoing] = []
    with ROWS.batch() as batch:
        if becomes != before and becomes not in ENDS:
            _hasten_timer(order, batch=batch)
        if events:
            batch.update(order, "status", "version", "updated_at", "status_since", "timer_at", "timer_id", *changes)
            batch.insert(*events)
        if messages:
            posted = Outgoing.post(*messages, batch=batch)
    if order.has_listeners:  # type: ignore[attr-defined]
        webhooks.announce(order, posted)
    metrics.stepped(
        order, before=before, event=_name(event), through=step.through, says=getattr(step.says, "__name__", "")
    )


# Note [Found soon after its time]: who polls for what was updated since a moment must find a change soon after that.
# `now` was read before the order was locked, and the process may have been frozen since. So one that has grown old is
# replaced here, in the transaction, whose rest is bounded by the limits of the session; and no change is earlier than
# the one before it.
MAX_AGE = timedelta(seconds=10)


def _time_of_change(order: Order, *, now: datetime) -> datetime:
    """The time to record for a change that is made now."""
    present = clock.now("orders")
    return max(order.updated_at, now if present - now <= MAX_AGE else present)


def _changes(event: Event, order: Order, *, becomes: Status) -> dict[str, Any]:
    """What else than the status changes with this step."""
    changes: dict[str, Any] = {}
    if getattr(event, "payment_id", "") and not order.payment_id:
        changes["payment_id"] = event.payment_id  # type: ignore[union-attr]
    if type(event) in REASONS and not order.fail_reason:
        changes["fail_reason"] = REASONS[type(event)](event, order)
    if becomes == DONE and order.fail_reason:
        changes["fail_reason"] = ""
    blocked = order.blocked if becomes == order.status else ""
    if isinstance(event, PaymentReturnRefused):
        blocked = event.reason
    if blocked != order.blocked:
        changes["blocked"] = blocked
    return changes


# Its timers ---------------------------------------------------------------------------------------------------------
#
# Note [One timer counts]: `timer_id` is the message that counts, and it comes no later than the order is overdue. A
# transition to a status whose time ends earlier sets another one; the former then does nothing when it comes.


@transaction.atomic(using="orders", savepoint=False)
def on_timeout(*, order_id: str, now: datetime, timer_id: str | None = None) -> None:
    """
    Handle a timer of an order: if its time is up it is overdue. As long as it is open the timer is set again.

    :param timer_id: the message; without it, it counts as the timer that the order waits for

    :raises Order.DoesNotExist: if there is no such order
    """
    order = lock(order_id)
    counts = timer_id in (None, str(order.timer_id)) or order.timer_at is None or now >= order.timer_at
    if order.status in ENDS or not counts:
        return
    order.timer_at = order.timer_id = None
    if is_overdue := now >= overdue_at(order):
        apply(Overdue(order_id=order_id), order, now=now)
    if order.timer_at is None:
        at = now + _pause(order, now=now) if is_overdue else overdue_at(order)
        with ROWS.batch() as batch:
            _set_timer(order, at=max(at, now + timedelta(seconds=1)), batch=batch)
            batch.update(order, "timer_at", "timer_id")


def overdue_at(order: Order) -> datetime:
    """The time when an order has been in its status for too long."""
    return order.status_since + TIMEOUTS[Status(order.status)]()


def times_out_at(order: Order) -> datetime:
    """The time when the timeout of an open order's status does something next."""
    return max(overdue_at(order), order.timer_at or order.status_since)


def _pause(order: Order, *, now: datetime) -> timedelta:
    """How long an order that waits for what it has asked for waits until it asks again: as long as it has waited."""
    return min(max(now - order.status_since, TIMEOUTS[Status(order.status)]()), LONGEST_PAUSE)


def _hasten_timer(order: Order, *, batch: Batch) -> None:
    """Set a timer for the status that an order has entered, unless one comes before its time ends anyway."""
    if order.timer_at is None or order.timer_at > overdue_at(order):
        _set_timer(order, at=overdue_at(order), batch=batch)


def _set_timer(order: Order, *, at: datetime, batch: Batch) -> None:
    (timer,) = Outgoing.post(Overdue(order_id=order.order_id), due_at=at, batch=batch)
    order.timer_at, order.timer_id = at, timer.message_id


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
        at=order.updated_at,
    )
