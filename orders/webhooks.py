"""
Signed webhooks about orders, in the form of Standard Webhooks, retried until the endpoint accepts them.

An event of an order becomes a delivery to each endpoint that wants it, in the transaction that posts the event.
"""

import json
import logging
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _g

from common import signing
from common.circuit_breaker import CircuitBreaker, CircuitOpen
from common.errors import Refusal
from outbox import clock
from outbox.message import EVENTS
from outbox.models import OutgoingMessage

from . import metrics, outbound_http, webhook_secrets
from .messages import DeliverWebhook
from .models import ROWS, Order, Outgoing, Status, WebhookAttempt, WebhookDelivery, WebhookEndpoint

logger = logging.getLogger(__name__)

KINDS = (
    "order.created",
    *(f"order.{status}" for status in Status.values if status not in ("pending", "reserved")),
    "order.refunded",
    "order.refund_failed",
    "order.disputed",
)
RETRY_DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
MAX_WAIT = timedelta(days=1)
REST = 60.0  # seconds without attempts at an endpoint that does not answer
GONE = 410  # the endpoint wants no more webhooks
FAILED = (outbound_http.Refused, outbound_http.Unreachable)

HEARS = "is_active AND (hears_all OR principal = {principal})"  # SQL: the endpoints that hear of a client's orders
LISTENERS = f"EXISTS (SELECT FROM orders_webhookendpoint WHERE {HEARS})"


class BadEndpoint(Refusal):
    """This address or these events cannot be registered."""

    code = "invalid"


class EndpointOff(Refusal):
    """The endpoint is switched off."""

    code = "endpoint_off"


# Endpoints ----------------------------------------------------------------------------------------------------------


def register(
    *,
    url: str,
    events: Iterable[str] = (),
    principal: str = "",
    hears_all: bool = False,
    actor: str,
    now: datetime,
) -> WebhookEndpoint:
    """
    Register an address for these events, or for all of them; return the endpoint with its `new_secret`.

    It hears of the orders of this principal only or, with `hears_all`, of those of everybody.

    :raises BadEndpoint: if the address is not one that webhooks are sent to, an event is unknown, or processes of the
        release before run, which know of endpoints for everybody only
    """
    if settings.UPGRADING and not hears_all:
        raise BadEndpoint(_g("Not during an upgrade: the release before would send it the orders of all clients."))
    wanted = sorted(set(events))
    if unknown := [kind for kind in wanted if kind not in KINDS]:
        raise BadEndpoint(_g("There is no such event."), errors={"events": unknown})
    try:
        outbound_http.resolve(outbound_http.target(url))
    except FAILED as refused:
        raise BadEndpoint(str(refused), errors={"url": [str(refused)]}) from refused
    with transaction.atomic(using="orders"):
        endpoint = WebhookEndpoint.objects.create(
            url=url,
            events=wanted,
            principal="" if hears_all else principal,
            hears_all=hears_all,
            created_by=actor,
            created_at=now,
        )
        endpoint.new_secret = webhook_secrets.issue(endpoint_id=endpoint.pk, now=now)
    return endpoint


@transaction.atomic(using="orders")
def rotate(*, endpoint_id: str, now: datetime) -> WebhookEndpoint:
    """Give an endpoint a `new_secret`. For a day, webhooks are signed with the previous one too."""
    endpoint = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
    endpoint.new_secret = webhook_secrets.issue(endpoint_id=endpoint.pk, now=now)
    return endpoint


@transaction.atomic(using="orders")
def switch(*, endpoint_id: str, on: bool, reason: str = "") -> WebhookEndpoint:
    """Switch an endpoint on or off."""
    endpoint = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
    endpoint.is_active, endpoint.disabled_because = on, "" if on else reason[:50]
    endpoint.save(update_fields=["is_active", "disabled_because"])
    return endpoint


# Deliveries ---------------------------------------------------------------------------------------------------------


def announce(order: Order, posted: Iterable[OutgoingMessage]) -> None:
    """
    Deliver the events of this order among these messages to the endpoints of its client, and to those of everybody,
    that want them. Call it in a transaction of orders.
    """
    events = [row for row in posted if row.to == EVENTS]
    hears = f"WHERE {HEARS.format(principal='%s')}"
    endpoints = ROWS.select(WebhookEndpoint, hears, order.principal) if events else []
    deliveries = [
        WebhookDelivery(
            endpoint=endpoint,
            event_id=row.message_id,
            type=row.type,
            order_id=row.subject,
            body=_body(row, order),
            created_at=row.created_at,
            next_at=row.created_at,
        )
        for row in events
        for endpoint in endpoints
        if endpoint.wants(row.type)
    ]
    if deliveries:
        WebhookDelivery.objects.bulk_create(deliveries)
        Outgoing.post(*(_message(delivery) for delivery in deliveries))


def _body(row: OutgoingMessage, order: Order) -> str:
    data = {name: value for name, value in row.data.items() if name != "reference"} | {"order_id": order.shown_id}
    return json.dumps({"type": row.type, "timestamp": row.created_at.isoformat(), "data": data})


def _message(delivery: WebhookDelivery) -> DeliverWebhook:
    return DeliverWebhook(delivery_id=str(delivery.pk), order_id=delivery.order_id, attempt=delivery.attempts)


@dataclass(frozen=True)
class Result:
    """The result of sending a delivery. If there is no answer, `error` says why."""

    seconds: float
    answer: outbound_http.Answer | None = None
    error: str = ""
    resting: bool = False  # nothing was sent, because the endpoint did not answer a moment ago
    disabled: bool = False

    @property
    def code(self) -> str:
        """The result in a word, for the metrics."""
        if self.resting or self.disabled:
            return "resting" if self.resting else "endpoint_off"
        if self.answer is None:
            return self.error.partition(":")[0]
        return "taken" if self.answer.is_accepted else "refused"


_breakers: dict[str, CircuitBreaker] = {}


def send(message: DeliverWebhook) -> Result | None:
    """
    Send a delivery; return the result, or none if this attempt is not due any more.

    It runs outside of any transaction and may run again: the id of the delivery is the same each time.
    """
    delivery = WebhookDelivery.objects.select_related("endpoint").filter(pk=message.delivery_id).first()
    if delivery is None or not _is_due(delivery, message):
        return None
    endpoint = delivery.endpoint
    if not endpoint.is_active:
        return Result(0.0, disabled=True)
    # Note [An endpoint that hangs]: without a circuit breaker it would keep the worker from all the others, one timeout
    # after the other.
    breaker = _breakers.setdefault(
        str(endpoint.pk), CircuitBreaker(endpoint.url, failures=(outbound_http.Unreachable,), threshold=3, rest=REST)
    )
    body, began = delivery.body.encode(), time.monotonic()
    now = clock.now("orders")
    keys = webhook_secrets.valid(endpoint_id=endpoint.pk, now=now)
    headers = signing.sign(secrets=keys, message_id=str(delivery.event_id), timestamp=now, body=body)
    headers |= {"Content-Type": "application/json", "User-Agent": "orders-webhooks"}
    try:
        with breaker.attempt():
            answer = outbound_http.post(endpoint.url, headers=headers, body=body)
    except CircuitOpen:
        return Result(0.0, resting=True)
    except FAILED as failed:
        return Result(time.monotonic() - began, error=f"{failed.code}: {failed}"[:200])
    except Exception as unexpected:
        # Whatever a stranger's answer does to us is an attempt that failed: the delivery goes on.
        logger.exception("The answer of %s cannot be read", endpoint.url)
        return Result(time.monotonic() - began, error=f"unreadable: {type(unexpected).__name__}"[:200])
    return Result(time.monotonic() - began, answer=answer)


def _is_due(delivery: WebhookDelivery, message: DeliverWebhook) -> bool:
    return delivery.status == WebhookDelivery.Status.PENDING and delivery.attempts == message.attempt


def record(*, message: DeliverWebhook, result: Result | None, now: datetime) -> None:
    """Record the result of an attempt, and schedule the next one if it takes one."""
    delivery = WebhookDelivery.objects.select_for_update().get(pk=message.delivery_id)
    if result is None or not _is_due(delivery, message):
        return
    if result.resting:
        _schedule(delivery, at=now + timedelta(seconds=REST))
    elif result.disabled:
        delivery.status, delivery.next_at = WebhookDelivery.Status.FAILED, None
    else:
        _log(delivery, result, now=now)
        _follow_up(delivery, result.answer, now=now)
    delivery.save()
    metrics.sent_webhook(result.code)


def _log(delivery: WebhookDelivery, result: Result, *, now: datetime) -> None:
    delivery.attempts += 1
    delivery.tries += 1
    WebhookAttempt.objects.create(
        delivery=delivery,
        number=delivery.attempts,
        at=now,
        seconds=round(result.seconds, 3),
        status_code=result.answer.status if result.answer else None,
        response=result.answer.text if result.answer else "",
        error=result.error,
    )


def _follow_up(delivery: WebhookDelivery, answer: outbound_http.Answer | None, *, now: datetime) -> None:
    delivery.next_at = None
    if answer is not None and answer.is_accepted:
        delivery.status = WebhookDelivery.Status.DELIVERED
    elif answer is not None and answer.status == GONE:
        delivery.status = WebhookDelivery.Status.FAILED
        switch(endpoint_id=str(delivery.endpoint_id), on=False, reason="gone")
    elif delivery.tries > len(RETRY_DELAYS):
        delivery.status = WebhookDelivery.Status.FAILED
    else:
        gap = RETRY_DELAYS[delivery.tries - 1] * (1 + random.random() / 10)
        _schedule(delivery, at=now + max(gap, _requested_wait(answer, now=now)))


def _schedule(delivery: WebhookDelivery, *, at: datetime) -> None:
    delivery.next_at = at
    Outgoing.post(_message(delivery), due_at=at)


def _requested_wait(answer: outbound_http.Answer | None, *, now: datetime) -> timedelta:
    """How long the endpoint asks to wait, at most `MAX_WAIT`."""
    text = answer.retry_after.strip() if answer else ""
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), MAX_WAIT)
    try:
        at = parsedate_to_datetime(text)
        wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return timedelta(0)
    return min(max(wait, timedelta(0)), MAX_WAIT)


@transaction.atomic(using="orders")
def resend(*, delivery_id: str, now: datetime) -> WebhookDelivery:
    """
    Send a delivery now, whatever its status is, and start the schedule of retries anew if it is not accepted.

    :raises EndpointOff: if its endpoint is switched off
    """
    delivery = WebhookDelivery.objects.select_for_update(of=("self",)).select_related("endpoint").get(pk=delivery_id)
    if not delivery.endpoint.is_active:
        raise EndpointOff(_g("%(url)s is switched off.") % {"url": delivery.endpoint.url})
    delivery.status, delivery.tries, delivery.next_at = WebhookDelivery.Status.PENDING, 0, now
    delivery.save(update_fields=["status", "tries", "next_at"])
    Outgoing.post(_message(delivery))
    return delivery
