"""
The causal timeline of one order: request → key → outbox → broker → inbox → step → webhook, over all services, with the
time spent in each; why it waits, and what happens next by itself. Plain data: a terminal, a page or a test draws it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _g

from orders.history import NOTE
from orders.models import ENDS, IdempotencyKey, Order, OrderEvent, Status
from orders.saga import STEPS, Overdue, times_out_at
from outbox.attempts import ATTEMPTS
from outbox.consumers import model_of
from outbox.message import EVENTS
from outbox.models import DeadLetter, IncomingMessage, OutgoingMessage
from payments.models import Payment, WebhookReceipt

TIMER = Overdue.name


@dataclass(frozen=True)
class Stage:
    """A stretch of a letter's way: `wait` (for its time), `outbox`, `broker` or `inbox`."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Moment:
    """Something that happened in a service."""

    at: datetime
    service: str
    kind: str  # request, key, letter, fact, timer, step, webhook or dead
    title: str
    detail: str = ""
    message_id: str = ""
    cause: str = ""  # the message that led to it
    depth: int = 0  # how many messages led to it
    stages: tuple[Stage, ...] = ()
    trouble: bool = False


@dataclass(frozen=True)
class Waiting:
    """Why an open order has not come to its end."""

    since: datetime
    reasons: tuple[str, ...]
    next_at: datetime  # when it moves by itself, whatever else happens
    next_step: str
    overdue: bool


@dataclass(frozen=True)
class Timeline:
    order_id: str
    status: str
    fail_reason: str
    moments: tuple[Moment, ...]
    waiting: Waiting | None  # None once the order has ended


@dataclass
class Sources:
    """All rows about an order, of every service that this process knows."""

    order: Order
    events: list[OrderEvent]
    keys: list[IdempotencyKey]
    sent: list[OutgoingMessage] = field(default_factory=list)
    received: dict[str, IncomingMessage] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    payment: Payment | None = None
    webhooks: list[WebhookReceipt] = field(default_factory=list)


def of(order_id: str, *, now: datetime) -> Timeline:
    """
    The timeline of this order.

    :raises Order.DoesNotExist: if there is none
    """
    sources = read(order_id)
    order = sources.order
    return Timeline(
        order_id=order.order_id,
        status=str(order.status),
        fail_reason=order.fail_reason,
        moments=tuple(_in_causal_order(_moments(sources))),
        waiting=None if order.status in ENDS else _waiting(sources, now=now),
    )


def read(order_id: str) -> Sources:
    """Every row about this order: a fixed number of queries, each by an index."""
    order = Order.objects.get(pk=order_id)
    found = Sources(
        order=order,
        events=list(order.events.order_by("version")),
        keys=list(IdempotencyKey.objects.filter(order_id=order_id)),
    )
    for service in settings.SERVICES_HERE:
        found.sent += model_of(service, "Outgoing").objects.filter(subject=order_id)
        found.received |= {
            str(row.message_id): row for row in model_of(service, "Incoming").objects.filter(subject=order_id)
        }
        found.dead += model_of(service, "DeadLetter").objects.filter(subject=order_id)
    if "payments" in settings.SERVICES_HERE:
        found.payment = Payment.objects.filter(pk=order_id).first()
        found.webhooks = list(WebhookReceipt.objects.filter(order_id=order_id))
    return found


# What happened ------------------------------------------------------------------------------------------------------


def _moments(sources: Sources) -> Iterator[Moment]:
    for key in sources.keys:
        yield Moment(key.created_at, "orders", "key", _g("the answer is kept under its Idempotency-Key"))
    for event in sources.events:
        yield _of_event(event)
    for row in sources.sent:
        yield _of_letter(row, sources.received.get(str(row.message_id)))
    for dead in sources.dead:
        yield Moment(
            at=dead.died_at,
            service=_service(dead),
            kind="dead",
            title=_g("%(type)s is a dead letter") % {"type": dead.type},
            detail=f"{dead.reason}: {dead.error}"[:200]
            + (f" ({dead.get_status_display()})" if dead.status != "dead" else ""),
            message_id=str(dead.message_id or ""),
            cause=str(dead.message_id or ""),
            trouble=dead.status == DeadLetter.Status.DEAD,
        )
    for webhook in sources.webhooks:
        yield Moment(
            at=webhook.received_at,
            service="payments",
            kind="webhook",
            title=_g("webhook of %(gateway)s: %(status)s")
            % {"gateway": webhook.gateway, "status": webhook.get_status_display()},
            detail=webhook.reason,
            stages=_stages(inbox=_between(webhook.received_at, webhook.handled_at)),
            trouble=webhook.status == WebhookReceipt.Status.QUARANTINED,
        )


def _of_event(event: OrderEvent) -> Moment:
    reason = event.data.get("fail_reason", "") if event.version > 1 else ""
    first = event.version == 1
    note = f"“{event.data[NOTE]}”" if event.data.get(NOTE) else ""
    by = _g("by %(name)s") % {"name": event.actor} if event.actor else ""
    return Moment(
        at=event.at,
        service="orders",
        kind="request" if first or not event.message_id else "step",
        title=f"{_g('accepted') if first else event.type} → {event.get_status_display()}",
        detail=", ".join(filter(None, [reason, note, by, f"v{event.version}"])),
        cause=event.message_id,
    )


def _of_letter(row: OutgoingMessage, received: IncomingMessage | None) -> Moment:
    kind = {EVENTS: "fact"}.get(row.to, "timer" if row.type == TIMER else "letter")
    arrived = received if received is not None and received.attempt == row.attempt else None
    asked_for = max(row.due_at, row.created_at)
    again = _g("attempt %(n)d") % {"n": row.attempt % ATTEMPTS + 1} if row.attempt else ""
    return Moment(
        at=row.created_at if not row.attempt else row.due_at,
        service=_service(row),
        kind=kind,
        title=f"{row.type} → {row.to}",
        detail=", ".join(filter(None, [again, "" if row.published_at else _unsent(row)])),
        message_id=str(row.message_id),
        cause=row.causation_id or "",
        stages=_stages(
            wait=_between(row.created_at, row.due_at) if not row.attempt else None,
            outbox=_between(asked_for, row.published_at),
            broker=_between(row.published_at, arrived.received_at if arrived else None),
            inbox=_between(arrived.received_at, arrived.handled_at) if arrived else None,
        ),
        trouble=bool(row.last_error) and row.published_at is None,
    )


def _unsent(row: OutgoingMessage) -> str:
    return _g("not sent: %(error)s") % {"error": row.last_error} if row.last_error else _g("not sent yet")


def _service(row: OutgoingMessage | DeadLetter) -> str:
    return str(row._state.db)


def _between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from one to the other; never less than none: the clocks of two machines differ a little."""
    return None if start is None or end is None else max(0.0, (end - start).total_seconds())


def _stages(**seconds: float | None) -> tuple[Stage, ...]:
    known = {name: value for name, value in seconds.items() if value is not None}
    return tuple(Stage(name, value) for name, value in known.items() if value or name != "wait")


def _in_causal_order(moments: Iterable[Moment]) -> Iterator[Moment]:
    """By time, each with its depth: what a message led to is one deeper than what led to the message."""
    ordered = sorted(moments, key=lambda moment: (moment.at, moment.kind not in {"request", "step"}))
    cause_of = {moment.message_id: moment.cause for moment in ordered if moment.message_id != moment.cause}
    for moment in ordered:
        depth, cause, seen = 0, moment.cause, set[str]()
        while cause and cause not in seen:
            seen.add(cause)
            depth, cause = depth + 1, cause_of.get(cause, "")
        yield Moment(**{**vars(moment), "depth": depth})


# Why it waits -------------------------------------------------------------------------------------------------------


def _waiting(sources: Sources, *, now: datetime) -> Waiting:
    order = sources.order
    next_at = times_out_at(order)
    return Waiting(
        since=order.updated_at,
        reasons=tuple(_reasons(sources, now=now)) or (_g("nothing about it is on its way"),),
        next_at=next_at,
        next_step=_next_step(order),
        overdue=now > next_at + timedelta(minutes=1),
    )


def _reasons(sources: Sources, *, now: datetime) -> Iterator[str]:
    """Every letter that has not had its effect, and where it is; then whom the payment waits for."""
    resolved = {str(dead.message_id) for dead in sources.dead}
    newest: dict[str, OutgoingMessage] = {}
    for row in sorted(sources.sent, key=lambda row: row.attempt):
        newest[str(row.message_id)] = row
    for message_id, row in newest.items():
        if row.to == EVENTS or row.type == TIMER or message_id in sources.received or message_id in resolved:
            continue
        if row.published_at is not None:
            yield _g("%(type)s is in the queue %(service)s, not handled: is a worker of %(service)s running?") % {
                "type": row.type, "service": row.to,
            }  # fmt: skip
        elif row.due_at > now:
            yield _g("%(type)s failed in %(service)s and comes again at %(time)s") % {
                "type": row.type, "service": row.to, "time": _clock(row.due_at),
            }  # fmt: skip
        else:
            why = f"({row.last_error})" if row.last_error else _g("is the relay running?")
            yield _g("%(type)s is in the outbox of %(service)s, not sent: %(why)s") % {
                "type": row.type, "service": _service(row), "why": why,
            }  # fmt: skip
    for dead in sources.dead:
        if dead.status == DeadLetter.Status.DEAD:
            yield _g("%(type)s is a dead letter of %(service)s (%(reason)s): see manage.py dlq show %(id)s") % {
                "type": dead.type, "service": _service(dead), "reason": dead.reason, "id": dead.id,
            }  # fmt: skip
    payment = sources.payment
    if payment is not None and payment.status in {"requested", "pending", "voiding", "refunding"}:
        yield _g("the payment is %(status)s at %(gateway)s") % {
            "status": payment.get_status_display(), "gateway": payment.gateway or _g("its gateway"),
        }  # fmt: skip
        if payment.ask_at:
            yield _g("the gateway is asked again at %(time)s") % {"time": _clock(payment.ask_at)}


def _next_step(order: Order) -> str:
    step = STEPS[Status(order.status), Overdue]
    becomes: Any = step.becomes(order) if callable(step.becomes) else step.becomes
    says = getattr(step.says, "__name__", "")
    if becomes == order.status:
        return _g("asks again: %(message)s") % {"message": says}
    status = Status(becomes).label
    if not says:
        return _g("turns back: %(status)s") % {"status": status}
    return _g("turns back: %(status)s, and asks: %(message)s") % {"status": status, "message": says}


def _clock(moment: datetime) -> str:
    return timezone.localtime(moment).strftime("%H:%M:%S")
