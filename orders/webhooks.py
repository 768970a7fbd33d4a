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

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _g

from common import signing
from common.circuit_breaker import CircuitBreaker, CircuitOpen
from common.errors import Refusal
from common.principal import Principal
from outbox import clock
from outbox.ids import uuid7, uuid_of
from outbox.message import EVENTS
from outbox.models import OutgoingMessage

from . import metrics, origin, outbound_http, webhook_endpoints, webhook_secrets
from .messages import DeliverWebhook
from .models import ROWS, Order, Outgoing, WebhookAttempt, WebhookDelivery, WebhookEndpoint

logger = logging.getLogger(__name__)

RETRY_DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
MAX_WAIT = timedelta(days=1)
REST = 60.0  # seconds without attempts at an endpoint that does not answer
# Note [Many that wait for one endpoint]: only one of them is tried each minute. If each asked as often whether it is
# its turn, thousands that wait for an endpoint that is gone would cost more than all orders. So each asks after a
# quarter of the time for which it has waited.
LONGEST_REST = timedelta(hours=1)
GONE = 410  # the endpoint wants no more webhooks
PING = "ping"  # the type of what is sent to try an endpoint


HEARS = "is_active AND (hears_all OR principal = {principal})"  # SQL: the endpoints that hear of a client's orders
LISTENERS = f"EXISTS (SELECT FROM orders_webhookendpoint WHERE {HEARS})"

OURS = frozenset({"reference", origin.NAME})  # what events tell that is not for a client


class EndpointOff(Refusal):
    """The endpoint is switched off."""

    code = "endpoint_off"


class NoSuchDelivery(Refusal):
    """There is no such delivery to this endpoint."""

    code = "delivery_not_found"


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
    data = {name: value for name, value in row.data.items() if name not in OURS} | {"order_id": order.shown_id}
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
    delivery = WebhookDelivery.objects.select_related("endpoint").filter(pk=uuid_of(message.delivery_id)).first()
    if delivery is None or not _is_due(delivery, message):
        return None
    endpoint = delivery.endpoint
    if not endpoint.is_active:
        return Result(0.0, disabled=True)
    # Note [An endpoint that hangs]: without a circuit breaker it would keep the worker from all the others, one timeout
    # after the other.
    breaker = _breaker_of(endpoint)
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
    except webhook_endpoints.FAILED as failed:
        return Result(time.monotonic() - began, error=f"{failed.code}: {failed}"[:200])
    except Exception as unexpected:
        # Whatever a stranger's answer does to us is an attempt that failed: the delivery goes on.
        logger.exception("The answer of %s cannot be read", endpoint.url)
        return Result(time.monotonic() - began, error=f"unreadable: {type(unexpected).__name__}"[:200])
    return Result(time.monotonic() - began, answer=answer)


def _breaker_of(endpoint: WebhookEndpoint) -> CircuitBreaker:
    """The circuit breaker of an endpoint: a new one if its address has changed."""
    breaker = _breakers.get(str(endpoint.pk))
    if breaker is None or breaker.name != endpoint.url:
        breaker = CircuitBreaker(endpoint.url, failures=(outbound_http.Unreachable,), threshold=3, rest=REST)
        _breakers[str(endpoint.pk)] = breaker
    return breaker


def _is_due(delivery: WebhookDelivery, message: DeliverWebhook) -> bool:
    return delivery.status == WebhookDelivery.Status.PENDING and delivery.attempts == message.attempt


def record(*, message: DeliverWebhook, result: Result | None, now: datetime) -> None:
    """Record the result of an attempt, and schedule the next one if it takes one."""
    delivery = WebhookDelivery.objects.select_for_update().filter(pk=message.delivery_id).first()
    if delivery is None or result is None or not _is_due(delivery, message):  # one that is archived has ended
        return
    if result.resting:
        waited = now - delivery.created_at
        _schedule(delivery, at=now + max(timedelta(seconds=REST), min(waited / 4, LONGEST_REST)))
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
        webhook_endpoints.switch(endpoint_id=str(delivery.endpoint_id), on=False, reason="gone")
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


def deliveries_to(endpoint: WebhookEndpoint) -> QuerySet[WebhookDelivery]:
    """What was sent to an endpoint, or will be."""
    return WebhookDelivery.objects.filter(endpoint=endpoint)


@transaction.atomic(using="orders")
def ping(*, endpoint_id: str, principal: Principal, now: datetime) -> WebhookDelivery:
    """
    Send an endpoint a webhook of the type `ping`, whatever events it wants, to try it.

    :raises NoSuchEndpoint: if there is none that the principal may see
    :raises EndpointOff: if it is switched off
    """
    endpoint = webhook_endpoints.get(endpoint_id=endpoint_id, principal=principal, lock=True)
    _check_is_on(endpoint)
    data = {"endpoint_id": str(endpoint.pk)}
    delivery = WebhookDelivery.objects.create(
        endpoint=endpoint,
        event_id=uuid7(),
        type=PING,
        order_id="",
        body=json.dumps({"type": PING, "timestamp": now.isoformat(), "data": data}),
        created_at=now,
        next_at=now,
    )
    Outgoing.post(_message(delivery))
    return delivery


def _check_is_on(endpoint: WebhookEndpoint) -> None:
    if not endpoint.is_active:
        raise EndpointOff(_g("%(url)s is switched off.") % {"url": endpoint.url})


@transaction.atomic(using="orders")
def resend(*, delivery_id: str, endpoint_id: str | None = None, now: datetime) -> WebhookDelivery:
    """
    Send a delivery now, whatever its status is, and start the schedule of retries anew if it is not accepted.

    :param endpoint_id: which it was sent to, if that is not certain
    :raises NoSuchDelivery: if there is none to this endpoint
    :raises EndpointOff: if its endpoint is switched off
    """
    rows = WebhookDelivery.objects.select_for_update(of=("self",)).select_related("endpoint")
    rows = rows if endpoint_id is None else rows.filter(endpoint__pk=endpoint_id)
    delivery = rows.filter(pk=delivery_id).first()
    if delivery is None:
        raise NoSuchDelivery(_g("There is no such delivery to this endpoint."))
    _check_is_on(delivery.endpoint)
    delivery.status, delivery.tries, delivery.next_at = WebhookDelivery.Status.PENDING, 0, now
    delivery.save(update_fields=["status", "tries", "next_at"])
    Outgoing.post(_message(delivery))
    return delivery
