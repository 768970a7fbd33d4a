"""
What carries the table of saga.py out: an order changes here alone, with its history, its messages and its timers.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _g

from common import money
from common.authority import SYSTEM, Authority
from common.errors import Refusal
from outbox import clock, context
from outbox.arrivals import Arrived
from outbox.errors import Undeliverable
from outbox.message import Message
from outbox.store import Batch
from payments.messages import (
    PaymentRefunded,
    PaymentReturnRefused,
    PaymentReturnUndone,
    PaymentSucceeded,
    RefundFailed,
    RefundSucceeded,
)

from . import archive, history, metrics, origin, webhooks
from .messages import OrderFact, Overdue
from .models import ENDS, NUMBERS, ROWS, Incoming, Order, OrderEvent, OrderLine, Outgoing, Status
from .saga import (
    REASONS,
    REFUSALS,
    TIMEOUTS,
    CancelRequested,
    CaptureRequested,
    Event,
    Step,
    decide,
    first_command,
    overdue_at,
)
from .serializers import snapshot

TURNED_BACK = frozenset({Status.VOIDING, Status.REFUNDING, Status.RELEASING, Status.CANCELED, Status.FAILED})
FORTH = (Status.PENDING, Status.RESERVED, Status.PAYMENT_PENDING, Status.PAID)
LONGEST_PAUSE = timedelta(hours=1)  # between two requests to return money or stock that nobody answers


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


NUMBERED = f"SELECT nextval(%s), {webhooks.LISTENERS.format(principal='%s')}"


def begin(order: Order, lines: list[OrderLine], *, actor: str) -> None:
    """
    Store a new order with its lines and its first event; ask for what it needs first, announce it and set its timer.

    Call it in a transaction of the database of orders.
    """
    # Note [The first timer]: it comes after the shortest time that an order on its way forth may wait, so that an order
    # which is done by then needs no other timer. Where it comes too early, it sets the next one.
    ((order.number, has_listeners),) = ROWS.fetch(NUMBERED, NUMBERS, order.principal)
    order.updated_at = _time_of_change(order, now=order.created_at)
    order.loaded_lines = lines
    first = order.created_at + min(TIMEOUTS[status]() for status in FORTH)
    with ROWS.batch() as batch:
        set_timer(order, at=first, batch=batch)
        batch.insert(order)
        batch.insert(*lines)
        batch.insert(
            _event(order, kind="order.created", status=order.status, actor=actor, data=history.initial_data(order))
        )
        # Note [Told before it is asked for]: what a command has led to elsewhere can then be traced to an event.
        posted = Outgoing.post(_fact(order, "created"), first_command(order), batch=batch)
    if has_listeners:
        webhooks.announce(order, posted)
    metrics.created(order)


LINES = """
(SELECT json_agg(line ORDER BY line.position) FROM orders_orderline line WHERE line.order_id = orders_order.order_id)
"""


def lock(order_id: str) -> Order:
    """
    Read an order with its lines, and lock it until the transaction ends. Its history comes back from the archive.

    :raises Order.DoesNotExist: if there is no such order
    """
    return lock_all([order_id])[order_id]


def lock_all(order_ids: Collection[str]) -> dict[str, Order]:
    """
    Do the same with several orders, in the order of their ids; return them by id.

    :raises Order.DoesNotExist: if one of them does not exist
    """
    listeners = webhooks.LISTENERS.format(principal="orders_order.principal")
    where = "WHERE order_id = ANY(%s) ORDER BY order_id FOR UPDATE"
    found = ROWS.select(Order, where, list(order_ids), has_listeners=listeners, lines_read=LINES)
    orders = {order.order_id: order for order in found}
    if unknown := set(order_ids) - orders.keys():
        raise Order.DoesNotExist(min(unknown))
    # A column that a later release has added means nothing here.
    names = [field.attname for field in OrderLine._meta.concrete_fields]
    for order in found:
        if order.archived:
            archive.bring_back(order)
        stored = order.lines_read or ()  # type: ignore[attr-defined]
        order.loaded_lines = [OrderLine(**{name: line[name] for name in names}) for line in stored]
        for line in order.loaded_lines:
            line.order = order
    return orders


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


@transaction.atomic(using="orders", savepoint=False)
def advance_all(arrived: Sequence[Arrived], *, now: datetime) -> None:
    """
    Apply events to their orders: as `advance` does, in as few statements as can be.

    :raises Order.DoesNotExist, OutOfTurn, NeedsSecondPerson: as `advance` does; then nothing has happened
    """
    orders = lock_all({one.message.subject for one in arrived})
    with ROWS.batch() as batch:
        for one in arrived:
            with one.acting() as event:
                apply(event, orders[event.subject], now=now, batch=batch)


def apply(
    event: Event,
    order: Order,
    *,
    now: datetime,
    by: Authority = SYSTEM,
    note: str = "",
    batch: Batch | None = None,
) -> None:
    """
    Make the transition that the table prescribes, if it is a step: store the order and its history, post its messages.

    The order comes from `lock`. `note` is kept in the history: the reason that a person gave. What is stored is stored
    at once, or with a `batch` when that runs.

    :raises OutOfTurn: if the table refuses the event
    :raises NeedsSecondPerson: if it gives money back that one person may not give back alone
    """
    step = decide(order, type(event))
    if step is None:
        return
    if isinstance(step, str):
        raise OutOfTurn(step, order)
    if isinstance(event, CaptureRequested):
        by.permit(event.amount, order.currency)
    elif order.status == Status.PAID and step.becomes == Status.REFUNDING:
        by.permit(order.paid, order.currency)

    now, before = _time_of_change(order, now=now), order.status
    changes = _reason(event, order, step=step)
    order.fail_reason = changes.get("fail_reason", order.fail_reason)  # which decides how it ends
    becomes = step.becomes(order) if callable(step.becomes) else step.becomes
    changes |= _changes(event, order, becomes=becomes)
    for name, value in changes.items():
        setattr(order, name, value)
    passed = [*filter(None, (step.through, becomes))] if changes or becomes != before else []
    events, messages = [], []
    for status in passed:
        order.version += 1
        order.status, order.updated_at = status, now
        data = changes | ({history.NOTE: note} if note else {})
        events.append(_event(order, kind=_name(event), status=status, actor=by.name, data=data))
        if status != before:
            messages.append(_fact(order, status))
    if becomes != before:
        order.status_since = now
    if step.says is not None:
        messages.append(step.says(order))
    posted: list[Outgoing] = []
    with ROWS.batch(batch) as batch:
        if becomes != before:
            _renew_timer(order, batch=batch)
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


def record(
    order: Order,
    *,
    kind: str,
    now: datetime,
    changes: Mapping[str, Any] | None = None,
    fact: str = "",
    by: Authority = SYSTEM,
    note: str = "",
    about: Mapping[str, Any] | None = None,
) -> None:
    """
    Store a change of an order that is no transition, with its event, and tell of it by a `fact` if one is named.

    The order comes from `lock`. `about` is told in the event and in the fact, and is not a part of the order.
    """
    changes, about = dict(changes or {}), dict(about or {})
    for name, value in changes.items():
        setattr(order, name, value)
    order.version += 1
    order.updated_at = _time_of_change(order, now=now)
    data = changes | about | ({history.NOTE: note} if note else {})
    posted: list[Outgoing] = []
    with ROWS.batch() as batch:
        batch.update(order, "version", "updated_at", *changes)
        batch.insert(_event(order, kind=kind, status=order.status, actor=by.name, data=data))
        if fact:
            posted = Outgoing.post(_fact(order, fact, about=about), batch=batch)
    if order.has_listeners:  # type: ignore[attr-defined]
        webhooks.announce(order, posted)


def _reason(event: Event, order: Order, *, step: Step) -> dict[str, Any]:
    """Why this step turns the order back, if it does. The first reason stays."""
    turns_back = callable(step.becomes) or step.becomes in TURNED_BACK
    if order.fail_reason or not turns_back or type(event) not in REASONS:
        return {}
    return {"fail_reason": REASONS[type(event)](event, order)}


def _changes(event: Event, order: Order, *, becomes: Status) -> dict[str, Any]:
    """What else than the status and the reason changes with this step."""
    changes: dict[str, Any] = {}
    if getattr(event, "payment_id", "") and not order.payment_id:
        changes["payment_id"] = event.payment_id  # type: ignore[union-attr]
    if becomes == Status.DONE and order.fail_reason:
        changes["fail_reason"] = ""
    if isinstance(event, CaptureRequested | PaymentSucceeded) and event.amount is not None:
        changes["captured"] = event.amount if event.amount < order.total else None
    blocked = order.blocked if becomes == order.status else ""
    match event:
        case PaymentRefunded() | PaymentReturnUndone() if is_overtaken(event):
            pass
        case PaymentRefunded():
            changes["refunded"] = order.paid if event.amount is None else event.amount
            blocked = ""
        case PaymentReturnUndone():
            changes["refunded"] = refunded_by(event, order, change=-event.amount)
            blocked = event.reason
        case PaymentReturnRefused():
            blocked = event.reason
    changes["blocked"] = blocked
    return {name: value for name, value in changes.items() if value != getattr(order, name)}


# Note [How much is back]: payments says it in each event about it, as a sum. Events overtake one another, so the one
# counts that was written last: payments writes those of an order one after the other, their ids grow with time, and the
# inbox knows which have been handled, for as long as an older one would be handled at all.
TELL_HOW_MUCH_IS_BACK = (RefundSucceeded, RefundFailed, PaymentRefunded, PaymentReturnUndone)


def is_overtaken(event: Message) -> bool:
    """Whether an event has been handled that was written after this one, and also tells how much is back."""
    if (message_id := context.current().causation_id) is None:
        return False
    kinds = [kind.name for kind in TELL_HOW_MUCH_IS_BACK]
    return Incoming.objects.filter(subject=event.subject, type__in=kinds, message_id__gt=message_id).exists()


def refunded_by(event: RefundSucceeded | RefundFailed | PaymentReturnUndone, order: Order, *, change: int) -> int:
    """How much of the money of an order is back by this event; that of the release before tells the `change` only."""
    if event.refunded is None:
        return min(order.paid, max(0, order.refunded + change))
    return order.refunded if is_overtaken(event) else event.refunded


# Its timers ---------------------------------------------------------------------------------------------------------
#
# Note [One timer counts]: `timer_id` is the message that counts, and it comes no later than the order is overdue. A
# transition to a status whose time ends earlier sets another one; the former is withdrawn, as is the last one of an
# order that has ended. One that was under way by then does nothing when it comes.


@transaction.atomic(using="orders", savepoint=False)
def on_timeout(*, order_id: str, now: datetime, timer_id: str | None = None) -> None:
    """
    Handle a timer of an order: if its time is up it is overdue. As long as it is open the timer is set again.

    :param timer_id: the message; without it, it counts as the timer that the order waits for

    :raises Order.DoesNotExist: if there is no such order
    """
    order = lock(order_id)
    with ROWS.batch() as batch:
        _time_out(order, timer_id=timer_id, now=now, batch=batch)


@transaction.atomic(using="orders", savepoint=False)
def on_timeouts(arrived: Sequence[Arrived], *, now: datetime) -> None:
    """Do the same for the orders of these timers, in as few statements as can be."""
    orders = lock_all({one.message.order_id for one in arrived})
    with ROWS.batch() as batch:
        for one in arrived:
            with one.acting() as timer:
                _time_out(orders[timer.order_id], timer_id=context.current().causation_id, now=now, batch=batch)


def _time_out(order: Order, *, timer_id: str | None, now: datetime, batch: Batch) -> None:
    counts = timer_id in (None, str(order.timer_id)) or order.timer_at is None or now >= order.timer_at
    if order.status in ENDS or not counts:
        return
    order.timer_at = order.timer_id = None
    if is_overdue := now >= overdue_at(order):
        apply(Overdue(order_id=order.order_id), order, now=now, batch=batch)
    if order.timer_at is None:
        at = now + _pause(order, now=now) if is_overdue else overdue_at(order)
        set_timer(order, at=max(at, now + timedelta(seconds=1)), batch=batch)
        batch.update(order, "timer_at", "timer_id")


def times_out_at(order: Order) -> datetime:
    """The time when the timeout of an open order's status does something next."""
    return max(overdue_at(order), order.timer_at or order.status_since)


def _pause(order: Order, *, now: datetime) -> timedelta:
    """How long an order that waits for what it has asked for waits until it asks again: as long as it has waited."""
    return min(max(now - order.status_since, TIMEOUTS[Status(order.status)]()), LONGEST_PAUSE)


def _renew_timer(order: Order, *, batch: Batch) -> None:
    """Set a timer for the status that an order has entered, unless one comes before its time ends, or it has ended."""
    if order.status in ENDS:
        _withdraw_timer(order, batch=batch)
    elif order.timer_at is None or order.timer_at > overdue_at(order):
        set_timer(order, at=overdue_at(order), batch=batch)


def _withdraw_timer(order: Order, *, batch: Batch) -> None:
    if order.timer_id is not None:
        Outgoing.withdraw(order.timer_id, batch=batch)
    order.timer_at = order.timer_id = None


def set_timer(order: Order, *, at: datetime, batch: Batch) -> None:
    """Let an order have this next timer in place of the one that it has; store its `timer_at` and `timer_id` too."""
    _withdraw_timer(order, batch=batch)
    (timer,) = Outgoing.post(Overdue(order_id=order.order_id), due_at=at, batch=batch)
    order.timer_at, order.timer_id = at, timer.message_id


def _fact(order: Order, fact: str, *, about: Mapping[str, Any] | None = None) -> Message:
    """The message that tells of an order; `about` is what it tells besides, with an `amount` in minor units."""
    besides: dict[str, Any] = {name: _in_units(told, told["currency"]) for name, told in (about or {}).items()}
    if fact == "created":
        besides[origin.NAME] = origin.Origin.of(order).seal()
    if order.captured is not None:
        besides["captured_amount"] = money.number(order.captured, currency=order.currency)
    return OrderFact(order_id=order.order_id, fact=str(fact), order=snapshot(order) | besides)


def _in_units(told: Mapping[str, Any], currency: str) -> dict[str, Any]:
    """The same with its amounts, and those of its lines, in the unit of the currency."""
    shown = dict(told)
    if "amount" in told:
        shown["amount"] = money.number(told["amount"], currency=currency)
    if "lines" in told:
        shown["lines"] = [_in_units(line, currency) for line in told["lines"]]
    return shown


REQUESTS = {CancelRequested: "order.cancel_requested", CaptureRequested: "order.capture_requested"}


def _name(event: Event) -> str:
    return event.type if isinstance(event, Message) else REQUESTS[type(event)]


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
