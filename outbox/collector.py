"""
From the broker's dead-letter queues to the DeadLetter table of the service, where an operator looks.

What ends in `<service>.dlq` never reached the failure handling of a consumer: its type is not known, it can't be read,
or it killed every worker that took it.
"""

import contextlib
import hashlib
import json
import logging
from datetime import UTC, datetime
from typing import Any

import amqp
from amqp.exceptions import AccessRefused, NotFound
from django.db import connections, transaction
from django.utils import timezone

from . import broker, clock, conf, unknown
from .consumers import CONSUMERS
from .envelope import MAX_ENVELOPE_BYTES, Envelope
from .errors import Unreadable
from .ids import uuid7, uuid7_from
from .message import MAX_BYTES, REGISTRY
from .models import DeadLetter
from .services import database_of, model_of

logger = logging.getLogger(__name__)

BATCH = 50
MAX_TAKEN = 1000  # in one call; the next tick continues


def collect(service: str) -> int:
    """Store what is in the service's dead-letter queue, acknowledging it after the commit; return how many it took."""
    database = database_of(service)
    connections[database].ensure_connection()  # first, so that a lost database costs no delivery
    connection = broker.connect()
    taken = 0
    try:
        channel = connection.channel()
        channel.auto_decode = False
        while taken < MAX_TAKEN and (batch := _take(channel, f"{service}.dlq")):
            with transaction.atomic(using=database):
                for message in batch:
                    _record(service, message)
            channel.basic_ack(batch[-1].delivery_tag, multiple=True)
            taken += len(batch)
    except NotFound:
        logger.warning("%s.dlq does not exist, declaring it again", service)
        with contextlib.suppress(AccessRefused):  # then the deployment does
            conf.call("BROKER_TOPOLOGY")
    finally:
        connection.close()
    return taken


def _take(channel: Any, queue: str) -> list[amqp.Message]:
    taken: list[amqp.Message] = []
    while len(taken) < BATCH and (message := channel.basic_get(queue)) is not None:
        taken.append(message)
    return taken


def _record(service: str, message: amqp.Message) -> None:
    headers = dict(message.properties.get("application_headers") or {})
    properties = {name: value for name, value in message.properties.items() if name != "application_headers"}
    death = next((death for death in headers.get("x-death") or [] if isinstance(death, dict)), {})
    died_at = _time(death.get("time"))
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    sent_as = broker.type_of(death.get("exchange"), next(iter(death.get("routing-keys") or []), ""))
    envelope, reason, error = _examine(
        service, body, properties, task=headers.get("task"), sent_as=sent_as, death=death
    )
    unknown_here = envelope if envelope and reason == "unknown_type" and envelope.type not in REGISTRY else None
    if unknown_here and unknown.put_back(service, unknown_here, now=clock.now(database_of(service))):
        return
    dead_letter = model_of(service, "DeadLetter").of(
        envelope,
        reason=reason,
        type=str(sent_as or headers.get("task") or properties.get("type") or ""),
        origin=DeadLetter.Origin.BROKER,
        queue=service,
        error=error,
        headers=headers | {"properties": properties},
        body=body,
        died_at=died_at,
    )
    # Note [Taken twice]: a collector that dies between commit and acknowledgement leaves its messages to be taken
    # again. The same message then gets the same id; a twin that is delivered for the first time gets another one.
    lasting = sorted((name, value) for name, value in headers.items() if name != "x-delivery-count")
    digest = hashlib.sha256(repr((lasting, sorted(properties.items()))).encode() + body).digest()
    dead_letter.pk = uuid7_from(digest, at=died_at)
    is_stored = type(dead_letter).objects.filter(pk=dead_letter.pk).exists
    if not message.delivery_info.get("redelivered") and is_stored():
        dead_letter.pk = uuid7()
    dead_letter.record()


def _examine(
    service: str, body: bytes, properties: dict[str, Any], *, task: object, sent_as: str | None, death: dict[str, Any]
) -> tuple[Envelope | None, str, str]:
    """Return the envelope if it can be read, and the reason and the error of the dead letter."""
    envelope, unreadable = None, None
    try:
        envelope = DeadLetter(body=body).envelope()
    except Unreadable as refusal:
        unreadable = refusal
    for claim in (task, envelope and envelope.type):
        if sent_as is not None and isinstance(claim, str) and claim != sent_as:
            # Without the envelope it cannot be replayed: nobody vouches for what it says.
            return None, "forged_type", f"It was sent as {sent_as!r} and says that it is {claim!r}."
    match death.get("reason"):
        case "delivery_limit":
            error = "Delivered to the limit and never acknowledged: its worker died each time."
            return envelope, "killed_its_worker", error
        case "expired" | "maxlen" as reason:
            return envelope, reason, f"The broker dropped it: {reason}."
    if properties.get("content_type") != "application/json":
        return envelope, "undecodable", f"Its content type is {properties.get('content_type')!r}."
    try:
        json.loads(body)
    except (ValueError, RecursionError) as error:
        return envelope, "undecodable", f"Its body is not JSON: {error}"
    if not isinstance(task, str):
        return envelope, "malformed", "It has no header 'task'."
    if task not in CONSUMERS or CONSUMERS[task].service != service:
        return envelope, "unknown_type", f"No handler in {service} takes {task!r}."
    if len(body) > MAX_BYTES + MAX_ENVELOPE_BYTES:
        return envelope, "too_large", f"It has {len(body)} bytes."
    if unreadable is not None:
        return envelope, unreadable.code, str(unreadable)
    return envelope, "rejected", "Its worker rejected it; the log of the worker has the reason."


def _time(value: object) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return timezone.now()
