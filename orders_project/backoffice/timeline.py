"""
The timeline of one order over all services: requests, messages, steps and webhooks in causal order, with the time spent
in each stage; why the order waits, and what will happen automatically. It is plain data for pages and commands.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _g

from orders.history import NOTE
from orders.models import ENDS, IdempotencyKey, Order, OrderEvent, Status
from orders.saga import CaptureRequested, Overdue, Step, decide
from orders.transitions import times_out_at
from outbox.attempts import ATTEMPTS
from outbox.message import EVENTS
from outbox.models import DeadLetter, IncomingMessage, OutgoingMessage
from outbox.services import model_of
from payments.models import Payment, WebhookReceipt

TIMER = Overdue.name


@dataclass(frozen=True)
class Stage:
    """A stage of a message: `wait` (until it is due), `outbox`, `broker` or `inbox`."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Moment:
    """Something that happened in a service."""

    at: datetime
    service: str
    kind: str  # request, key, message, fact, timer, step, webhook or dead
    title: str
    detail: str = ""
    message_id: str = ""
    cause: str = ""  # the message that caused it
    depth: int = 0  # the length of the chain of messages that caused it
    stages: tuple[Stage, ...] = ()
    trouble: bool = False


@dataclass(frozen=True)
class Waiting:
    """Why an open order has not ended yet."""

    since: datetime
    reasons: tuple[str, ...]
    next_at: datetime  # when its timeout ends
    next_step: str  # what happens then
    overdue: bool


@dataclass(frozen=True)
class Timeline:
    """The timeline of an order."""

    order_id: str
    status: str
    fail_reason: str
    moments: tuple[Moment, ...]
    waiting: Waiting | None  # None once the order has ended


@dataclass
class Sources:
    """All rows about an order, of every service that this process serves."""

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
    Read the timeline of an order.

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
    """Read every row about an order: a fixed number of queries, each by an index."""
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
        yield Moment(key.created_at, "orders", "key", _g("response stored by Idempotency-Key"))
    for event in sources.events:
        yield _of_event(event)
    for row in sources.sent:
        yield _of_message(row, sources.received.get(str(row.message_id)))
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
            title=_g("webhook from %(gateway)s: %(status)s")
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


def _of_message(row: OutgoingMessage, received: IncomingMessage | None) -> Moment:
    kind = {EVENTS: "fact"}.get(row.to, "timer" if row.type == TIMER else "message")
    arrived = received if received is not None and received.attempt == row.attempt else None
    due = max(row.due_at, row.created_at)
    attempt = _g("attempt %(n)d") % {"n": row.attempt % ATTEMPTS + 1} if row.attempt else ""
    return Moment(
        at=row.created_at if not row.attempt else row.due_at,
        service=_service(row),
        kind=kind,
        title=f"{row.type} → {row.to}",
        detail=", ".join(filter(None, [attempt, "" if row.published_at else _unsent(row)])),
        message_id=str(row.message_id),
        cause=row.causation_id or "",
        stages=_stages(
            wait=_between(row.created_at, row.due_at) if not row.attempt else None,
            outbox=_between(due, row.published_at),
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
    """Seconds between two times, never negative: the clocks of two machines differ a little."""
    return None if start is None or end is None else max(0.0, (end - start).total_seconds())


def _stages(**seconds: float | None) -> tuple[Stage, ...]:
    known = {name: value for name, value in seconds.items() if value is not None}
    return tuple(Stage(name, value) for name, value in known.items() if value or name != "wait")


def _in_causal_order(moments: Iterable[Moment]) -> Iterator[Moment]:
    """Yield the moments by time, each with its depth: an effect is one level deeper than its cause."""
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
        since=order.status_since,
        reasons=tuple(_reasons(sources, now=now)) or (_g("no message about it is under way"),),
        next_at=next_at,
        next_step=_next_step(order),
        overdue=now > next_at + timedelta(minutes=1),
    )


def _reasons(sources: Sources, *, now: datetime) -> Iterator[str]:
    """Yield where each message is that has not been handled yet, and then what the payment waits for."""
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
            yield _g("%(type)s failed in %(service)s and will be retried at %(time)s") % {
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
    if isinstance(decide(sources.order, CaptureRequested), Step):
        yield _g("its money is reserved, and nobody has captured it yet")
    payment = sources.payment
    if payment is not None and payment.status in Payment.REFUSED:
        yield _g("%(gateway)s refuses to return the money (%(code)s): decide on the page of the payment") % {
            "gateway": payment.gateway, "code": payment.refusal,
        }  # fmt: skip
    if payment is not None and payment.status in Payment.ASKED:
        yield _g("the payment is %(status)s at %(gateway)s") % {
            "status": payment.get_status_display(), "gateway": payment.gateway or _g("its gateway"),
        }  # fmt: skip
        if payment.ask_at:
            yield _g("the gateway will be called again at %(time)s") % {"time": _clock(payment.ask_at)}


def _next_step(order: Order) -> str:
    """What the timeout of the order's status does."""
    step = decide(order, Overdue)
    match step.becomes if isinstance(step, Step) else order.status:
        case Status.VOIDING | Status.RELEASING if order.status not in (Status.VOIDING, Status.RELEASING):
            return _g("The order will be canceled automatically")
        case Status.REFUNDING if order.status != Status.REFUNDING:
            return _g("The payment will be refunded automatically")
    return _g("The last request will be repeated automatically")


def _clock(moment: datetime) -> str:
    return timezone.localtime(moment).strftime("%H:%M:%S")
