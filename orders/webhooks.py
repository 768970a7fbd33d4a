"""
Telling others of orders: signed webhooks in the Standard Webhooks form, tried again until they are taken.

A fact of an order becomes a delivery for each endpoint that wants it, in the transaction that posts the fact.
"""

import base64
import json
import random
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _g

from common import signing
from common.circuit_breaker import Breaker, CircuitOpen
from common.errors import Refusal
from outbox.message import EVENTS
from outbox.models import OutgoingMessage

from . import metrics
from . import outbound_http as outward
from .messages import DeliverWebhook
from .models import ROWS, Outgoing, Status, WebhookAttempt, WebhookDelivery, WebhookEndpoint

KINDS = ("order.created", *(f"order.{status}" for status in Status.values if status not in ("pending", "reserved")))
GAPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
LONGEST_WAIT = timedelta(days=1)
BOTH_SECRETS = timedelta(days=1)  # a rotated secret signs as well for so long
REST = 60.0  # seconds in which an endpoint that doesn't answer is left alone
GONE = 410  # the endpoint wants to be told nothing more
FAILED = (outward.Refused, outward.Unreachable)

LISTENERS = "EXISTS (SELECT FROM orders_webhookendpoint WHERE is_active)"  # whether anybody is to be told


class BadEndpoint(Refusal):
    """The endpoint can't be told of orders."""

    code = "invalid"


class EndpointOff(Refusal):
    """The endpoint is told nothing at present."""

    code = "endpoint_off"


# Endpoints ----------------------------------------------------------------------------------------------------------


def register(*, url: str, events: Iterable[str] = (), actor: str, now: datetime) -> WebhookEndpoint:
    """
    Have an address told of these events, or of all.

    :raises BadEndpoint: if it is not one that we send to, or an event is unknown
    """
    wanted = sorted(set(events))
    if unknown := [kind for kind in wanted if kind not in KINDS]:
        raise BadEndpoint(_g("There is no such event."), errors={"events": unknown})
    try:
        outward.resolve(outward.target(url))
    except FAILED as refused:
        raise BadEndpoint(str(refused), errors={"url": [str(refused)]}) from refused
    return WebhookEndpoint.objects.create(url=url, events=wanted, secret=new_secret(), created_by=actor, created_at=now)


def new_secret() -> str:
    return signing.PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


@transaction.atomic(using="orders")
def rotate(*, endpoint_id: str, now: datetime) -> WebhookEndpoint:
    """Give an endpoint a new secret; for a day, the old one signs as well."""
    endpoint = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
    endpoint.previous_secret, endpoint.previous_until = endpoint.secret, now + BOTH_SECRETS
    endpoint.secret = new_secret()
    endpoint.save(update_fields=["secret", "previous_secret", "previous_until"])
    return endpoint


@transaction.atomic(using="orders")
def switch(*, endpoint_id: str, on: bool, reason: str = "") -> WebhookEndpoint:
    """Tell an endpoint of orders from now on, or no more."""
    endpoint = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
    endpoint.is_active, endpoint.disabled_because = on, "" if on else reason[:50]
    endpoint.save(update_fields=["is_active", "disabled_because"])
    return endpoint


# Deliveries ---------------------------------------------------------------------------------------------------------


def announce(posted: Iterable[OutgoingMessage]) -> None:
    """Deliver the facts among these letters to the endpoints that want them. Call it in the transaction of orders."""
    facts = [row for row in posted if row.to == EVENTS]
    endpoints = ROWS.select(WebhookEndpoint, "WHERE is_active") if facts else []
    deliveries = [
        WebhookDelivery(
            endpoint=endpoint,
            event_id=row.message_id,
            type=row.type,
            order_id=row.subject,
            body=_body(row),
            created_at=row.created_at,
            next_at=row.created_at,
        )
        for row in facts
        for endpoint in endpoints
        if endpoint.wants(row.type)
    ]
    if deliveries:
        WebhookDelivery.objects.bulk_create(deliveries)
        Outgoing.post(*(_letter(delivery) for delivery in deliveries))


def _body(row: OutgoingMessage) -> str:
    return json.dumps({"type": row.type, "timestamp": row.created_at.isoformat(), "data": row.data})


def _letter(delivery: WebhookDelivery) -> DeliverWebhook:
    return DeliverWebhook(delivery_id=str(delivery.pk), order_id=delivery.order_id, attempt=delivery.attempts)


@dataclass(frozen=True)
class Tried:
    """What came of sending a delivery; without a status no answer came, and `error` says why."""

    seconds: float
    answer: outward.Answer | None = None
    error: str = ""
    resting: bool = False  # the endpoint didn't answer a moment ago, so it was left alone
    disabled: bool = False

    @property
    def result(self) -> str:
        """What came of it, in a word."""
        if self.resting or self.disabled:
            return "resting" if self.resting else "endpoint_off"
        if self.answer is None:
            return self.error.partition(":")[0]
        return "taken" if self.answer.is_taken else "refused"


_breakers: dict[str, Breaker] = {}


def send(message: DeliverWebhook) -> Tried | None:
    """Send a delivery. Runs outside of any transaction, and may run again: its id is the same each time."""
    delivery = WebhookDelivery.objects.select_related("endpoint").filter(pk=message.delivery_id).first()
    if delivery is None or not _is_due(delivery, message):
        return None
    endpoint = delivery.endpoint
    if not endpoint.is_active:
        return Tried(0.0, disabled=True)
    # Note [An endpoint that hangs]: it would keep the worker from all the others, one timeout after the other.
    breaker = _breakers.setdefault(
        str(endpoint.pk), Breaker(endpoint.url, failures=(outward.Unreachable,), threshold=3, rest=REST)
    )
    body, began = delivery.body.encode(), time.monotonic()
    now = timezone.now()
    keys = [endpoint.secret]
    if endpoint.previous_until is not None and endpoint.previous_until > now:
        keys.append(endpoint.previous_secret)
    headers = signing.sign(secrets=keys, message_id=str(delivery.event_id), timestamp=now, body=body)
    headers |= {"Content-Type": "application/json", "User-Agent": "orders-webhooks"}
    try:
        with breaker.attempt():
            answer = outward.post(endpoint.url, headers=headers, body=body)
    except CircuitOpen:
        return Tried(0.0, resting=True)
    except FAILED as failed:
        return Tried(time.monotonic() - began, error=f"{failed.code}: {failed}"[:200])
    return Tried(time.monotonic() - began, answer=answer)


def _is_due(delivery: WebhookDelivery, message: DeliverWebhook) -> bool:
    return delivery.status == WebhookDelivery.Status.PENDING and delivery.attempts == message.attempt


def record(*, message: DeliverWebhook, tried: Tried | None, now: datetime) -> None:
    """Log what came of a delivery, and see to the next attempt if it takes one."""
    delivery = WebhookDelivery.objects.select_for_update().get(pk=message.delivery_id)
    if tried is None or not _is_due(delivery, message):
        return
    if tried.resting:
        _again(delivery, at=now + timedelta(seconds=REST))
    elif tried.disabled:
        delivery.status, delivery.next_at = WebhookDelivery.Status.FAILED, None
    else:
        _log(delivery, tried, now=now)
        _follow(delivery, tried.answer, now=now)
    delivery.save()
    metrics.sent_webhook(tried.result)


def _log(delivery: WebhookDelivery, tried: Tried, *, now: datetime) -> None:
    delivery.attempts += 1
    delivery.tries += 1
    WebhookAttempt.objects.create(
        delivery=delivery,
        number=delivery.attempts,
        at=now,
        seconds=round(tried.seconds, 3),
        status_code=tried.answer.status if tried.answer else None,
        response=tried.answer.text if tried.answer else "",
        error=tried.error,
    )


def _follow(delivery: WebhookDelivery, answer: outward.Answer | None, *, now: datetime) -> None:
    delivery.next_at = None
    if answer is not None and answer.is_taken:
        delivery.status = WebhookDelivery.Status.DELIVERED
    elif answer is not None and answer.status == GONE:
        delivery.status = WebhookDelivery.Status.FAILED
        switch(endpoint_id=str(delivery.endpoint_id), on=False, reason="gone")
    elif delivery.tries > len(GAPS):
        delivery.status = WebhookDelivery.Status.FAILED
    else:
        gap = GAPS[delivery.tries - 1] * (1 + random.random() / 10)
        _again(delivery, at=now + max(gap, _asked_to_wait(answer, now=now)))


def _again(delivery: WebhookDelivery, *, at: datetime) -> None:
    delivery.next_at = at
    Outgoing.post(_letter(delivery), due_at=at)


def _asked_to_wait(answer: outward.Answer | None, *, now: datetime) -> timedelta:
    """How long the endpoint asks us to wait, within reason."""
    text = answer.retry_after.strip() if answer else ""
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), LONGEST_WAIT)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return timedelta(0)
    return min(max((at if at.tzinfo else at.replace(tzinfo=UTC)) - now, timedelta(0)), LONGEST_WAIT)


@transaction.atomic(using="orders")
def resend(*, delivery_id: str, now: datetime) -> WebhookDelivery:
    """
    Send a delivery now, whatever has become of it, and go through the schedule anew if it isn't taken.

    :raises EndpointOff: if its endpoint is switched off
    """
    delivery = WebhookDelivery.objects.select_for_update(of=("self",)).select_related("endpoint").get(pk=delivery_id)
    if not delivery.endpoint.is_active:
        raise EndpointOff(_g("%(url)s is switched off.") % {"url": delivery.endpoint.url})
    delivery.status, delivery.tries, delivery.next_at = WebhookDelivery.Status.PENDING, 0, now
    delivery.save(update_fields=["status", "tries", "next_at"])
    Outgoing.post(_letter(delivery))
    return delivery
