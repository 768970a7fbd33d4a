"""Why an open order waits, in plain words: what is in the way, or what goes on by itself; and what happens next."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.translation import gettext as _g

from common import reasons as catalogue
from common.admin.display import time_of_day
from common.durations import duration
from orders.models import Order, Status
from orders.saga import CaptureRequested, Overdue, Step, decide
from orders.transitions import times_out_at
from outbox.message import EVENTS
from outbox.models import DeadLetter, OutgoingMessage
from payments.gauges import SILENT_AFTER
from payments.models import Payment, WebhookReceipt

from .order_sources import Sources, service_of

Page = tuple[str, str, str]  # the service, the model and the key of a row


@dataclass(frozen=True)
class Waiting:
    """Why an open order has not ended yet."""

    since: datetime
    reasons: tuple[str, ...]
    next_at: datetime  # when its timeout ends
    next_step: str  # what happens then
    overdue: bool
    stuck: bool  # whether something is in the way; otherwise it goes on by itself
    pages: tuple[Page, ...]  # where a person can do something about it


FRESH = timedelta(seconds=30)  # so long, a message that is under way is no trouble


@dataclass(frozen=True)
class Reason:
    """Something that an order waits for; `trouble` if it may not go on by itself."""

    text: str
    trouble: bool = False
    page: Page | None = None


def waiting(sources: Sources, *, now: datetime) -> Waiting:
    order = sources.order
    next_at = times_out_at(order)
    reasons = sorted(_reasons(sources, now=now), key=lambda reason: not reason.trouble)
    overdue = now > next_at + timedelta(minutes=1)
    return Waiting(
        since=order.status_since,
        reasons=tuple(reason.text for reason in reasons) or (in_progress(order),),
        next_at=next_at,
        next_step=_next_step(order),
        overdue=overdue,
        pages=tuple(reason.page for reason in reasons if reason.page),
        stuck=overdue or any(reason.trouble for reason in reasons),
    )


def in_progress(order: Order) -> str:
    """What an order does in its status, as a sentence."""
    return catalogue.of_status("orders.order", str(order.status))


def _reasons(sources: Sources, *, now: datetime) -> Iterator[Reason]:
    """Yield what is in the way, where each message is that nobody has handled yet, and what the payment waits for."""
    for webhook in sources.webhooks:
        if webhook.status == WebhookReceipt.Status.QUARANTINED:
            yield Reason(
                _g("A webhook of %(gateway)s about it is in quarantine: %(reason)s Decide on its page.")
                % {"gateway": webhook.gateway, "reason": catalogue.in_words(webhook.reason)},
                trouble=True,
                page=("payments", "webhookreceipt", str(webhook.pk)),
            )
    for dead in sources.dead:
        if dead.status == DeadLetter.Status.DEAD:
            yield Reason(
                _g("%(type)s is a dead letter of %(service)s: %(reason)s Correct the cause, then replay it (%(id)s).")
                % {
                    "type": dead.type, "service": service_of(dead), "reason": catalogue.in_words(dead.reason),
                    "id": dead.id,
                },
                trouble=True,
                page=(service_of(dead), "deadletter", str(dead.pk)),
            )  # fmt: skip
    yield from (reason for row in _unhandled(sources) if (reason := _under_way(row, now=now)))
    if isinstance(decide(sources.order, CaptureRequested), Step):
        yield Reason(_g("Its money is reserved, and nobody has captured it yet."))
    if sources.payment is not None:
        yield from _of_payment(sources.payment)


def _unhandled(sources: Sources) -> Iterator[OutgoingMessage]:
    """Yield the last attempt of each message that has not been handled yet; timers and events do not count."""
    settled = {*sources.received, *(str(dead.message_id) for dead in sources.dead)}
    newest = {str(row.message_id): row for row in sorted(sources.sent, key=lambda row: row.attempt)}
    for message_id, row in newest.items():
        if row.to != EVENTS and row.type != Overdue.name and message_id not in settled:
            yield row


def _under_way(row: OutgoingMessage, *, now: datetime) -> Reason:
    """Where a message is."""
    due = row.due_since
    now = now if row.attempt else max(now, due)  # a first attempt is due at once, by a clock that may be ahead
    about = {"type": row.type, "service": row.to, "here": service_of(row)}
    since = row.published_at or max(due, row.created_at)
    about["age"] = duration(max(0.0, (now - since).total_seconds()))
    if row.published_at is None and row.due_at > now and not row.publish_attempts:  # not put off by a relay
        about["time"] = time_of_day(row.due_at)
        return Reason(_g("%(type)s failed in %(service)s and will be retried at %(time)s.") % about, trouble=True)
    if now - since < FRESH and not row.last_error:
        return Reason(_g("%(type)s is on its way to %(service)s.") % about)
    if row.published_at is not None:
        text = _g("%(type)s has been in the queue %(service)s for %(age)s: is a worker of %(service)s running?")
    elif row.last_error:
        text = _g("%(type)s has been in the outbox of %(here)s for %(age)s. It could not be sent: %(why)s")
        about["why"] = row.last_error
    else:
        text = _g("%(type)s has been in the outbox of %(here)s for %(age)s: is the relay of %(here)s running?")
    return Reason(text % about, trouble=True)


def _of_payment(payment: Payment) -> Iterator[Reason]:
    gateway, here = payment.gateway or _g("its gateway"), ("payments", "payment", payment.pk)
    if payment.status in Payment.REFUSED:
        yield Reason(
            _g("%(gateway)s refuses to return the money (%(code)s): %(reason)s Decide on the page of the payment.")
            % {"gateway": gateway, "code": payment.refusal, "reason": catalogue.in_words(payment.refusal)},
            trouble=True,
            page=here,
        )
    elif payment.ask_at and payment.unanswered >= SILENT_AFTER:
        yield Reason(
            _g("%(gateway)s has not answered %(n)d times in a row. It will be asked again at %(time)s.")
            % {"gateway": gateway, "n": payment.unanswered, "time": time_of_day(payment.ask_at)},
            trouble=True,
            page=here,
        )
    elif payment.status in Payment.ASKED and payment.gateway:
        status = catalogue.of_status("payments.payment", str(payment.status))
        yield Reason(_g("Its payment at %(gateway)s: %(status)s") % {"gateway": gateway, "status": status})


def _next_step(order: Order) -> str:
    """What the timeout of the order's status does."""
    step = decide(order, Overdue)
    match step.becomes if isinstance(step, Step) else order.status:
        case Status.VOIDING | Status.RELEASING if order.status not in (Status.VOIDING, Status.RELEASING):
            return _g("The order will be canceled automatically")
        case Status.REFUNDING if order.status != Status.REFUNDING:
            return _g("The payment will be refunded automatically")
    return _g("The last request will be repeated automatically")
