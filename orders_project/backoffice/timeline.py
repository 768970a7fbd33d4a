"""
The timeline of one order over all services: requests, messages, steps and webhooks in causal order, with the time spent
in each stage; why the order waits, and what will happen automatically. It is plain data for pages and commands.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _g

from common import reasons as catalogue
from common.admin.display import time_of_day
from orders.history import NOTE
from orders.models import ENDS, Order, OrderEvent
from orders.saga import Overdue
from outbox.attempts import ATTEMPTS
from outbox.message import EVENTS
from outbox.models import DeadLetter, IncomingMessage, OutgoingMessage
from payments.models import WebhookReceipt

from . import obstacles
from .order_sources import Sources, read, service_of

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
class TurnedBack:
    """Why an order was turned back: the sentence for its reason, who did it, and what they wrote."""

    why: str
    by: str
    note: str


@dataclass(frozen=True)
class Timeline:
    """The timeline of an order."""

    order_id: str
    status: str
    fail_reason: str
    turned_back: "TurnedBack | None"  # None unless it was turned back
    moments: tuple[Moment, ...]
    waiting: obstacles.Waiting | None  # None once the order has ended


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
        turned_back=turned_back(order, sources.events),
        moments=tuple(_in_causal_order(_moments(sources))),
        waiting=None if order.status in ENDS else obstacles.waiting(sources, now=now),
    )


def turned_back(order: Order, events: Iterable[OrderEvent]) -> TurnedBack | None:
    """Why an order was turned back and by whom, by its history; none if it was not."""
    if not order.fail_reason:
        return None
    first = next((event for event in events if event.data.get("fail_reason") == order.fail_reason), None)
    by, note = (first.actor, first.data.get(NOTE, "")) if first else ("", "")
    return TurnedBack(catalogue.in_words(order.fail_reason), by, note)


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
            service=service_of(dead),
            kind="dead",
            title=_g("%(type)s is a dead letter") % {"type": dead.type},
            detail=f"{catalogue.explained(dead.reason)} {dead.error}"[:300]
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
            detail=catalogue.explained(webhook.reason),
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
        detail=", ".join(filter(None, [catalogue.explained(reason), note, by, f"v{event.version}"])),
        cause=event.message_id,
    )


def _of_message(row: OutgoingMessage, received: IncomingMessage | None) -> Moment:
    kind = {EVENTS: "fact"}.get(row.to, "timer" if row.type == TIMER else "message")
    arrived = received if received is not None and received.attempt == row.attempt else None
    due = row.due_since
    attempt = _g("attempt %(n)d") % {"n": row.attempt % ATTEMPTS + 1} if row.attempt else ""
    return Moment(
        at=row.created_at if not row.attempt else due,
        service=service_of(row),
        kind=kind,
        title=f"{row.type} → {row.to}",
        detail=", ".join(filter(None, [attempt, "" if row.published_at else _unsent(row)])),
        message_id=str(row.message_id),
        cause=row.causation_id or "",
        stages=_stages(
            wait=_between(row.created_at, due) if not row.attempt else None,
            outbox=_between(max(due, row.created_at), row.published_at),
            broker=_between(row.published_at, arrived.received_at if arrived else None),
            inbox=_between(arrived.received_at, arrived.handled_at) if arrived else None,
        ),
        trouble=bool(row.last_error) and row.published_at is None,
    )


def _unsent(row: OutgoingMessage) -> str:
    if row.type == TIMER:
        return _g("due at %(time)s") % {"time": time_of_day(row.due_at)}
    return _g("not sent: %(error)s") % {"error": row.last_error} if row.last_error else _g("not sent yet")


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
