"""
From the broker's dead-letter queues to the service's one place to look: its DeadLetter table.

What ends in `<service>.dlq` never reached a handler's own account of its failure: nobody knows its name, it can't be
read, or it killed every worker that took it.
"""

import hashlib
import json
import logging
from datetime import UTC, datetime
from typing import Any

import amqp
from amqp.exceptions import NotFound
from django.conf import settings
from django.db import connections, transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from . import broker
from .attempts import ATTEMPTS, replays
from .consumers import CONSUMERS, model_of
from .dead_letter_models import fingerprint
from .ids import uuid7, uuid7_from
from .message import ENVELOPE_BYTES, MAX_BYTES, Letter, Unreadable
from .models import DeadLetter

logger = logging.getLogger(__name__)

BATCH = 50
MOST = 1000  # in one go; the next tick goes on


def collect(service: str) -> int:
    """Take what lies in the service's dead-letter queue, acknowledging it after the commit; how many letters."""
    connections[service].ensure_connection()  # first, so that a lost database costs no delivery
    connection = broker.connect()
    taken = 0
    try:
        channel = connection.channel()
        channel.auto_decode = False
        while taken < MOST and (batch := _take(channel, f"{service}.dlq")):
            with transaction.atomic(using=service):
                for message in batch:
                    _bury(service, message)
            channel.basic_ack(batch[-1].delivery_tag, multiple=True)
            taken += len(batch)
    except NotFound:
        logger.warning("%s.dlq is gone, declaring it again", service)
        import_string(settings.BROKER_TOPOLOGY)()
    finally:
        connection.close()
    return taken


def _take(channel: Any, queue: str) -> list[amqp.Message]:
    taken: list[amqp.Message] = []
    while len(taken) < BATCH and (message := channel.basic_get(queue)) is not None:
        taken.append(message)
    return taken


def _bury(service: str, message: amqp.Message) -> None:
    headers = dict(message.properties.get("application_headers") or {})
    properties = {name: value for name, value in message.properties.items() if name != "application_headers"}
    death = next((death for death in headers.get("x-death") or [] if isinstance(death, dict)), {})
    died_at = _moment(death.get("time"))
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    letter, reason, error = _examine(service, body, properties, task=headers.get("task"), death=death)
    kind = letter.type if letter else str(headers.get("task") or properties.get("type") or "")
    dead = model_of(service, "DeadLetter")(
        origin=DeadLetter.Origin.BROKER,
        queue=service,
        message_id=letter.id if letter else None,
        type=kind,
        subject=letter.subject if letter else "",
        reason=reason,
        error=error,
        fingerprint=fingerprint(kind, reason),
        attempts=letter.attempt % ATTEMPTS + 1 if letter else 1,
        replays=replays(letter.attempt) if letter else 0,
        headers=headers | {"properties": properties},
        body=body,
        died_at=died_at,
    )
    # Note [Taken twice]: a collector that dies between commit and acknowledgement leaves its letters to be taken
    # again. The same letter then gets the same id; a twin that was delivered for the first time gets another one.
    lasting = sorted((name, value) for name, value in headers.items() if name != "x-delivery-count")
    digest = hashlib.sha256(repr((lasting, sorted(properties.items()))).encode() + body).digest()
    dead.pk = uuid7_from(digest, at=died_at)
    if not message.delivery_info.get("redelivered") and type(dead).objects.filter(pk=dead.pk).exists():
        dead.pk = uuid7()
    if dead.bury():
        logger.error("%s is dead: %s: %s", letter.id if letter else "A letter", reason, error)


def _examine(
    service: str, body: bytes, properties: dict[str, Any], *, task: object, death: dict[str, Any]
) -> tuple[Letter | None, str, str]:
    """The letter if it can be read, and why it died."""
    letter, unreadable = None, None
    try:
        letter = DeadLetter(body=body).letter()
    except Unreadable as refusal:
        unreadable = refusal
    match death.get("reason"):
        case "delivery_limit":
            return letter, "killed_its_worker", "Delivered to the limit and never answered: its worker died each time."
        case "expired" | "maxlen" as reason:
            return letter, reason, f"The broker gave it up: {reason}."
    if properties.get("content_type") != "application/json":
        return letter, "undecodable", f"Its content type is {properties.get('content_type')!r}."
    try:
        json.loads(body)
    except (ValueError, RecursionError) as error:
        return letter, "undecodable", f"Its body is not JSON: {error}"
    if not isinstance(task, str):
        return letter, "malformed", "It has no header 'task'."
    if task not in CONSUMERS or CONSUMERS[task].service != service:
        return letter, "unknown_type", f"Nobody in {service} handles {task!r}."
    if len(body) > MAX_BYTES + ENVELOPE_BYTES:
        return letter, "too_large", f"It has {len(body)} bytes."
    if unreadable is not None:
        return letter, unreadable.code, str(unreadable)
    return letter, "rejected", "Its worker rejected it; the worker's log says why."


def _moment(value: object) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return timezone.now()
