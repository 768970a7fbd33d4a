"""
From the broker's dead-letter queues to the DeadLetter table of the service, where an operator looks.

What ends in `<service>.dlq` never reached the failure handling of a consumer: its type is not known, or it can't be
read. What the broker has delivered to its limit is sent again: its limit is no verdict (see deliveries.py).
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

from . import broker, clock, conf, strict_json, unknown
from .broker import UNREADABLE_HEADERS
from .consumers import CONSUMERS, take_back
from .dead_letter_models import storable
from .envelope import MAX_ENVELOPE_BYTES
from .errors import Unreadable
from .ids import uuid7, uuid7_from
from .message import MAX_BYTES, REGISTRY
from .models import FORGOTTEN, DeadLetter
from .pacing import rounds
from .retention import remembers
from .services import database_of, model_of
from .sqlstates import is_unavailable

logger = logging.getLogger(__name__)

BATCH = 100
MAX_IN_A_BATCH = 200  # messages; what holds more was not made by a relay, and is kept as it is
SECONDS = 2.5  # for one call, while there is a backlog: half of the time between two of them


def collect(service: str) -> int:
    """Store what is in the service's dead-letter queue, acknowledging it after the commit; return how many it took."""
    database = database_of(service)
    connections[database].ensure_connection()  # first, so that a lost database costs no delivery
    connection = broker.connect()
    taken = 0
    try:
        channel = connection.channel()
        channel.auto_decode = False
        for _ in rounds(SECONDS):
            if not (batch := _take(channel, f"{service}.dlq")):
                break
            with transaction.atomic(using=database):
                for message in batch:
                    for body in _bodies(message):
                        _record(service, message, body)
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


def _bodies(message: amqp.Message) -> list[bytes]:
    """Return the body of this message; of a batch, those that its messages would have had alone: see batches.py."""
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    with contextlib.suppress(ValueError, RecursionError, Unreadable):
        match json.loads(body):
            case [[{}, {}, *_] as arguments, {} as named, {} as follows] if len(arguments) <= MAX_IN_A_BATCH:
                if all(isinstance(one, dict) for one in arguments):
                    return [strict_json.write([[one], named, follows]) for one in arguments]
    return [body]


def _record(service: str, message: amqp.Message, body: bytes) -> None:
    """Store a dead letter of this message; or send it again, if the broker gave it up and nothing is wrong with it."""
    database = database_of(service)
    try:
        with transaction.atomic(using=database):
            found = _Found(service, message, body)
            if not (found.is_taken_back() or found.is_put_back()):
                found.store()
    except Exception as error:
        if is_unavailable(error):
            raise  # and the message stays
        # Note [Whatever it is]: what cannot be read is stored as bytes, so that no message stops the collector.
        logger.exception("%s: a message in the dead-letter queue cannot be examined", service)
        with transaction.atomic(using=database):
            _Found(service, message, body, unreadable=error).store()


class _Found:
    """A message in a dead-letter queue, and what can be known of it."""

    def __init__(
        self, service: str, message: amqp.Message, body: bytes, *, unreadable: Exception | None = None
    ) -> None:
        self.service, self.is_repeated = service, bool(message.delivery_info.get("redelivered"))
        self.body = body
        self.properties = {} if unreadable else dict(message.properties)
        headers = self.properties.pop("application_headers", None)
        self.headers = headers if isinstance(headers, dict) else {}
        deaths = self.headers.get("x-death")
        deaths = [death for death in deaths if isinstance(death, dict)] if isinstance(deaths, list) else []
        self.death: dict[Any, Any] = deaths[0] if deaths else {}
        self.envelope, self.unreadable = None, unreadable
        if unreadable is None:
            try:
                self.envelope = DeadLetter(body=self.body).envelope()
            except Unreadable as refusal:
                self.unreadable = refusal
        keys = self.death.get("routing-keys")
        key = keys[0] if isinstance(keys, list) and keys else ""
        self.sent_as = broker.type_of(self.death.get("exchange"), key)
        self.forged = self._forged()
        if self.forged:
            self.envelope = None  # nobody vouches for what it says, so it cannot be sent again

    def _forged(self) -> str:
        """Return in which way it is not what it was sent as, if it is not."""
        for claim in (self.headers.get("task"), self.envelope and self.envelope.type):
            if self.sent_as is not None and isinstance(claim, str) and claim != self.sent_as:
                return f"It was sent as {self.sent_as!r} and says that it is {claim!r}."
        return ""

    def is_taken_back(self) -> bool:
        """Send it again if the broker has delivered it too often for its taste, and it can be handled here."""
        envelope = self.envelope
        if self.death.get("reason") != "delivery_limit" or envelope is None or not self._has_handler(envelope.type):
            return False
        take_back(self.service, envelope.as_dict(), envelope, headers=storable(self.headers))
        return True

    def is_put_back(self) -> bool:
        """Have it wait if only another release knows it."""
        envelope = self.envelope
        if envelope is None or envelope.type in REGISTRY or self._reason()[0] != "unknown_type":
            return False
        return unknown.put_back(self.service, envelope, now=clock.now(database_of(self.service)))

    def _has_handler(self, kind: object) -> bool:
        return isinstance(kind, str) and kind in CONSUMERS and CONSUMERS[kind].service == self.service

    def store(self) -> None:
        died_at = _time(self.death.get("time"))
        reason, error = self._reason()
        dead_letter = model_of(self.service, "DeadLetter").of(
            self.envelope,
            reason=reason,
            type=str(self.sent_as or self.headers.get("task") or self.properties.get("type") or ""),
            origin=DeadLetter.Origin.BROKER,
            queue=self.service,
            error=error,
            headers=self.headers | {"properties": self.properties},
            body=self.body,
            died_at=died_at,
        )
        # Note [Taken twice]: a collector that dies between commit and acknowledgement leaves its messages to be taken
        # again. The same message then gets the same id; a twin that is delivered for the first time gets another one.
        lasting = sorted(repr(one) for one in self.headers.items() if one[0] != "x-delivery-count")
        digest = hashlib.sha256(repr((lasting, sorted(self.properties.items()))).encode(errors="replace") + self.body)
        dead_letter.pk = uuid7_from(digest.digest(), at=died_at)
        is_stored = type(dead_letter).objects.filter(pk=dead_letter.pk).exists
        if not self.is_repeated and is_stored():
            dead_letter.pk = uuid7()
        dead_letter.record()

    def _reason(self) -> tuple[str, str]:
        """Return the reason and the error of the dead letter."""
        reason, error = self._cause()
        if self.envelope is not None and not remembers(self.service, self.envelope):
            return FORGOTTEN, f"{error} And it is older than the inbox remembers: it may have been handled."
        return reason, error

    def _cause(self) -> tuple[str, str]:
        if self.forged:
            return "forged_type", self.forged
        match self.death.get("reason"):
            case "delivery_limit":
                return "killed_its_worker", "Delivered to the limit and never acknowledged."
            case "expired" | "maxlen" as reason:
                return reason, f"The broker dropped it: {reason}."
        if self.unreadable is not None and not isinstance(self.unreadable, Unreadable):
            return "undecodable", f"It cannot be examined: {type(self.unreadable).__name__}: {self.unreadable}"
        if UNREADABLE_HEADERS in self.headers:
            return "undecodable", f"Its headers cannot be read: {self.headers[UNREADABLE_HEADERS]}"
        if self.properties.get("content_type") != "application/json":
            return "undecodable", f"Its content type is {self.properties.get('content_type')!r}."
        try:
            json.loads(self.body)
        except (ValueError, RecursionError) as error:
            return "undecodable", f"Its body is not JSON: {error}"
        task = self.headers.get("task")
        if not isinstance(task, str):
            return "malformed", "It has no header 'task'."
        if not self._has_handler(task):
            return "unknown_type", f"No handler in {self.service} takes {task!r}."
        if len(self.body) > MAX_BYTES + MAX_ENVELOPE_BYTES:
            return "too_large", f"It has {len(self.body)} bytes."
        if self.unreadable is not None:
            return self.unreadable.code, str(self.unreadable)
        return "rejected", "Its worker rejected it; the log of the worker has the reason."


def _time(value: object) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return timezone.now()
