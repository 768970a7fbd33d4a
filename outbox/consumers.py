"""
How a service handles messages: `@consumes(Reserve)` makes a Celery task on the service's queue.

Inbox row, effects and replies commit together. A copy does nothing. A message whose handler fails is posted again with
a later due time; after the last attempt it becomes a dead letter.
"""

import contextlib
import functools
import logging
import random
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.exceptions import Reject
from django.db import Error, transaction

from . import clock, conf, context, metrics, strict_json, tracing, unknown
from .attempts import ATTEMPTS, backoff, last_attempt
from .conflicts import retry_on_conflict
from .envelope import MAX_ENVELOPE_BYTES, Envelope
from .errors import CodedError, NotKnownYet, Unreadable
from .message import EVENTS, MAX_BYTES, REGISTRY, Message
from .models import DeadLetter, IncomingMessage
from .services import all_services, database_of, model_of
from .sqlstates import Verdict, is_unavailable, note, verdict_on

logger = logging.getLogger(__name__)

DATABASE_TIMEOUT = timedelta(
    minutes=20
)  # for an unavailable database; the broker takes a message back after 30 minutes


@dataclass(frozen=True)
class Consumer:
    """The one handler of a message type, and what is called before it."""

    message: type[Message]
    handle: Callable[..., None]
    first: Callable[[Any], Any] | None

    @property
    def service(self) -> str:
        return self.message.to

    @property
    def database(self) -> str:
        return database_of(self.service)

    @property
    def incoming(self) -> type[IncomingMessage]:
        incoming: type[IncomingMessage] = model_of(self.service, "Incoming")
        return incoming


CONSUMERS: dict[str, Consumer] = {}


def consumes(
    message: type[Message], *, first: Callable[[Any], Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Make this function the one handler of a message, in the service that the message is addressed to.

    `first` is called with the message before the transaction begins and without one open (it may call a foreign
    service); the handler then gets its result as second argument. It can run more than once, so it must be idempotent.

    :raises TypeError: if the message has a handler already, or is an event for the outside world
    """

    def register(handle: Callable[..., None]) -> Callable[..., None]:
        if message.to == EVENTS:
            raise TypeError(f"{message.name} is an event for the outside world: no service handles it.")
        if message.name in CONSUMERS:
            raise TypeError(f"{message.name} has a handler already.")
        CONSUMERS[message.name] = Consumer(message, handle, first)

        @shared_task(name=message.name, bind=True)
        @functools.wraps(handle)
        def task(self: Any, raw: object) -> None:
            receive(message.to, raw, headers=_headers(self.request), worker=self.request.hostname or "")

        return handle

    return register


def receive(service: str, raw: object, *, headers: dict[str, Any], worker: str) -> None:
    """
    Handle a message that arrived for this service, once however often it arrives.

    :param raw: its envelope as it arrived
    :raises Reject: to have the broker deliver it again, after waiting for the database for `DATABASE_TIMEOUT`
    """
    give_up_at = time.monotonic() + DATABASE_TIMEOUT.total_seconds()
    pause = 0.5
    while True:
        try:
            return _receive(service, raw, headers=headers, worker=worker)
        except Error as error:
            if not is_unavailable(error):
                raise
            metrics.WORKER_ERRORS.inc()
            # Note [An unavailable database is not the message's fault]: sent back, the message would use up the
            # broker's delivery limit within milliseconds; so it waits here, unacknowledged, until it is back.
            if time.monotonic() > give_up_at:
                raise Reject(str(error), requeue=True) from error
            note(error, where=f"{service}, waiting")
            time.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(pause * 2, 5)


def _receive(service: str, raw: object, *, headers: dict[str, Any], worker: str) -> None:
    envelope = None
    try:
        if len(strict_json.write(raw)) > MAX_BYTES + MAX_ENVELOPE_BYTES:
            raise Unreadable("too_large", "The message is larger than a message may be.")
        envelope = Envelope.parse(raw)
        consumer, message = CONSUMERS.get(envelope.type), envelope.message()
        if consumer is None or consumer.service != service:
            raise Unreadable("unknown_type", f"No handler in {service} takes {envelope.type}.")
        if clock.now(database_of(service)) - envelope.sent_at > conf.DEDUPE_HORIZON:
            # Its inbox row may have been purged, so nothing tells whether it had its effect: a person decides.
            raise Unreadable("past_dedupe_horizon", "The message is older than the inbox remembers.")
        began = time.monotonic()
        is_new = deliver(consumer, envelope, message)
        _log_handled(service, envelope, is_new=is_new, seconds=time.monotonic() - began)
    except NotKnownYet as refusal:
        assert envelope is not None, "only a message can be unknown"
        with transaction.atomic(using=database_of(service)):
            waits = unknown.put_back(service, envelope, now=clock.now(database_of(service)))
        if not waits:
            _record_dead_letter(service, raw, envelope, refusal, reason=refusal.code, headers=headers, worker=worker)
    except CodedError as refusal:
        with context.acting(envelope.context) if envelope else contextlib.nullcontext():
            _record_dead_letter(service, raw, envelope, refusal, reason=refusal.code, headers=headers, worker=worker)
    except Exception as error:
        if verdict_on(error) is Verdict.WAIT or envelope is None:
            raise
        with context.acting(envelope.context):
            _try_again(service, raw, envelope, error, headers=headers, worker=worker)


def _log_handled(service: str, envelope: Envelope, *, is_new: bool, seconds: float) -> None:
    metrics.CONSUMER_SECONDS.labels(envelope.type).observe(seconds)
    if not is_new:
        metrics.INBOX_DUPLICATES.labels(service).inc()
    with context.acting(envelope.context):
        outcome = "handled" if is_new else "was handled before"
        logger.info("%s %s", envelope.type, outcome, extra={"seconds": round(seconds, 4)})


def deliver(consumer: Consumer, envelope: Envelope, message: Message) -> bool:
    """
    Handle a message unless it was handled before: inbox row, effects and replies in one commit.

    Returns whether it was handled now.
    """
    received_at = clock.now(consumer.database)
    attributes: dict[str, Any] = {"messaging__destination__name": consumer.service, "attempt": envelope.attempt}
    with context.acting(envelope.context), tracing.span(envelope.type, kind="consumer", **attributes):
        answer: tuple[Any, ...] = ()
        if consumer.first is not None:
            if consumer.incoming.seen(envelope):
                return False
            answer = (consumer.first(message),)
        return _commit(consumer, envelope, message, *answer, received_at=received_at)


@retry_on_conflict
def _commit(consumer: Consumer, envelope: Envelope, message: Message, *answer: Any, received_at: datetime) -> bool:
    with transaction.atomic(using=consumer.database):
        if not consumer.incoming.record(envelope, received_at=received_at):
            return False
        consumer.handle(message, *answer)
        return True


def _try_again(
    service: str, raw: object, envelope: Envelope, error: Exception, *, headers: dict[str, Any], worker: str
) -> None:
    metrics.WORKER_ERRORS.inc()
    if envelope.attempt >= last_attempt(envelope.attempt):
        _record_dead_letter(service, raw, envelope, error, reason="failed", headers=headers, worker=worker)
        return
    logger.warning("%s %s failed, trying again: %s", envelope.type, envelope.id, error, exc_info=True)
    due_at = clock.now(database_of(service)) + backoff(envelope.attempt % ATTEMPTS, spread=random.random())
    with transaction.atomic(using=database_of(service)):
        model_of(service, "Outgoing").post_again(envelope, attempt=envelope.attempt + 1, due_at=due_at)


def _record_dead_letter(
    service: str,
    raw: object,
    envelope: Envelope | None,
    error: Exception,
    *,
    reason: str,
    headers: dict[str, Any],
    worker: str,
) -> None:
    dead_letter = model_of(service, "DeadLetter").of(
        envelope,
        reason=reason,
        type=str(headers.get("task", "")),
        alike=alike(error),
        origin=DeadLetter.Origin.CONSUMER,
        queue=service,
        error=f"{type(error).__name__}: {error}",
        traceback="".join(traceback.format_exception(error)),
        worker=worker or socket.gethostname(),
        headers=headers,
        body=strict_json.write(raw),
    )
    with transaction.atomic(using=database_of(service)):
        dead_letter.record()


def alike(error: Exception) -> tuple[str, str]:
    """Return what makes two errors of handlers the same failure: the class, and the function that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return type(error).__name__, f"{Path(last[0].filename).name}:{last[0].name}" if last else ""


def _headers(request: Any) -> dict[str, Any]:
    """What came with the message: Celery keeps the headers of a message as attributes of its request."""
    kept = ("task", "id", "root_id", "parent_id", "correlation_id", "delivery_info", "x-delivery-count")
    found = vars(request)
    return {name: found[name] for name in kept if found.get(name) is not None}


def unhandled() -> list[str]:
    """Return the names of messages that are addressed to a service of this project without having a handler there."""
    services = all_services()
    return sorted(name for name, kind in REGISTRY.items() if kind.to in services and name not in CONSUMERS)
