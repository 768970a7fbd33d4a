"""
How a service hears: `@consumes(messages.Charge)` makes a Celery task on the service's queue.

Inbox row, effects and replies commit together. A copy does nothing. A failure waits in the outbox and comes again;
after the last attempt the letter is dead, with its whole story.
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
from django.apps import apps
from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, transaction
from django.utils import timezone

from . import context, metrics, tracing
from .attempts import ATTEMPTS, backoff, last_attempt, replays
from .conflicts import retry_on_conflict
from .dead_letter_models import fingerprint
from .message import ENVELOPE_BYTES, MAX_BYTES, REGISTRY, Letter, Message, Unreadable, write
from .models import DeadLetter, IncomingMessage, OutgoingMessage

logger = logging.getLogger(__name__)

CONNECTION_LOST = ("08", "57P", "53300")  # connection exceptions, server shutting down, too many connections
PATIENCE = timedelta(minutes=20)  # with a lost database; the broker takes a letter back after 30 minutes


class Undeliverable(Exception):
    """Raised by a handler for a letter that trying again can't help: it goes to the dead letters at once."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True)
class Consumer:
    """Who handles a message: one handler a message type."""

    service: str
    message: type[Message]
    handle: Callable[..., None]
    first: Callable[[Any], Any] | None

    @property
    def incoming(self) -> type[IncomingMessage]:
        return model_of(self.service, "Incoming")

    @property
    def outgoing(self) -> type[OutgoingMessage]:
        return model_of(self.service, "Outgoing")


CONSUMERS: dict[str, Consumer] = {}


def model_of(service: str, name: str) -> Any:
    """A service's own `Outgoing`, `Incoming` or `DeadLetter`."""
    return apps.get_model(service, name)


def consumes(
    message: type[Message], *, first: Callable[[Any], Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Make this function the one handler of a message.

    `first` is called with the message before the transaction begins and without one open (it may call a foreign
    service); the handler then gets its result as second argument. It can run more than once: let it be idempotent.
    """

    def register(handle: Callable[..., None]) -> Callable[..., None]:
        service = handle.__module__.split(".")[0]
        if message.to != service:
            raise TypeError(f"{message.name} is addressed to {message.to}, not to {service}.")
        if message.name in CONSUMERS:
            raise TypeError(f"{message.name} has a handler already.")
        CONSUMERS[message.name] = Consumer(service, message, handle, first)

        @shared_task(name=message.name, bind=True)
        @functools.wraps(handle)
        def task(self: Any, envelope: object) -> None:
            receive(service, envelope, headers=_headers(self.request), worker=self.request.hostname or "")

        return handle

    return register


def receive(service: str, envelope: object, *, headers: dict[str, Any], worker: str) -> None:
    """Handle what came for this service, however often it comes; leaves nothing unanswered but a lost database."""
    give_up_at = time.monotonic() + PATIENCE.total_seconds()
    pause = 0.5
    while True:
        try:
            return _receive(service, envelope, headers=headers, worker=worker)
        except (OperationalError, InterfaceError) as error:
            metrics.WORKER_ERRORS.inc()
            # Note [A lost database is not the letter's fault]: sent back, the letter would use up the broker's
            # delivery limit within milliseconds; so it waits here, unacknowledged, until the database is back.
            if time.monotonic() > give_up_at:
                raise Reject(str(error), requeue=True) from error
            logger.warning("The database %s is not answering, waiting: %s", service, error)
            connections[service].close()
            time.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(pause * 2, 5)


def _receive(service: str, envelope: object, *, headers: dict[str, Any], worker: str) -> None:
    letter = None
    try:
        if len(write(envelope)) > MAX_BYTES + ENVELOPE_BYTES:
            raise Unreadable("too_large", "The letter is larger than a letter may be.")
        letter = Letter.open(envelope)
        consumer, message = CONSUMERS.get(letter.type), letter.read()
        if consumer is None or consumer.service != service:
            raise Unreadable("unknown_type", f"Nobody in {service} handles {letter.type}.")
        if timezone.now() - letter.sent_at > settings.DEDUPE_HORIZON:
            # Its inbox key may have been purged, so nobody can tell whether it had its effect: a person decides.
            raise Unreadable("past_dedupe_horizon", "The letter is older than the inbox remembers.")
        began = time.monotonic()
        fresh = deliver(consumer, letter, message)
        _handled(service, letter, fresh=fresh, seconds=time.monotonic() - began)
    except (Unreadable, Undeliverable) as refusal:
        with context.acting(context_of(letter)) if letter else contextlib.nullcontext():
            _bury(service, envelope, letter, refusal, reason=refusal.code, headers=headers, worker=worker)
    except Exception as error:
        if _lost_connection(error):
            raise
        if letter is None:
            raise
        with context.acting(context_of(letter)):
            _come_again(service, envelope, letter, error, headers=headers, worker=worker)


def _handled(service: str, letter: Letter, *, fresh: bool, seconds: float) -> None:
    metrics.CONSUMER_SECONDS.labels(letter.type).observe(seconds)
    if not fresh:
        metrics.INBOX_DUPLICATES.labels(service).inc()
    with context.acting(context_of(letter)):
        logger.info(
            "%s %s", letter.type, "handled" if fresh else "was handled before", extra={"seconds": round(seconds, 4)}
        )


def deliver(consumer: Consumer, letter: Letter, message: Message) -> bool:
    """Handle this letter unless it was handled before: inbox row, effects and replies in one commit."""
    received_at = timezone.now()
    with (
        context.acting(context_of(letter)),
        tracing.span(
            letter.type, kind="consumer", messaging__destination__name=consumer.service, attempt=letter.attempt
        ),
    ):
        answer: tuple[Any, ...] = ()
        if consumer.first is not None:
            if consumer.incoming.seen(letter):
                return False
            answer = (consumer.first(message),)
        return _have_effect(consumer, letter, message, *answer, received_at=received_at)


@retry_on_conflict
def _have_effect(consumer: Consumer, letter: Letter, message: Message, *answer: Any, received_at: datetime) -> bool:
    with transaction.atomic(using=consumer.service):
        if not consumer.incoming.first_time(letter, received_at=received_at):
            return False
        consumer.handle(message, *answer)
        return True


def context_of(letter: Letter) -> context.Context:
    """On whose behalf this letter is handled."""
    return context.Context(
        correlation_id=letter.correlationid,
        causation_id=letter.id,
        traceparent=letter.traceparent,
        order_id=letter.subject or None,
    )


def _come_again(
    service: str, envelope: object, letter: Letter, error: Exception, *, headers: dict[str, Any], worker: str
) -> None:
    metrics.WORKER_ERRORS.inc()
    if letter.attempt >= last_attempt(letter.attempt):
        _bury(service, envelope, letter, error, reason="failed", headers=headers, worker=worker)
        return
    logger.warning("%s %s failed, trying again: %s", letter.type, letter.id, error, exc_info=True)
    due_at = timezone.now() + backoff(letter.attempt % ATTEMPTS, spread=random.random())
    with transaction.atomic(using=service):
        model_of(service, "Outgoing").post_again(letter, attempt=letter.attempt + 1, due_at=due_at)


def _bury(
    service: str,
    envelope: object,
    letter: Letter | None,
    error: Exception,
    *,
    reason: str,
    headers: dict[str, Any],
    worker: str,
) -> None:
    kind = letter.type if letter else str(headers.get("task", ""))
    with transaction.atomic(using=service):
        model_of(service, "DeadLetter")(
            origin=DeadLetter.Origin.CONSUMER,
            queue=service,
            message_id=letter.id if letter else None,
            type=kind,
            subject=letter.subject if letter else "",
            reason=reason,
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
            fingerprint=failure(kind, reason, error),
            attempts=letter.attempt % ATTEMPTS + 1 if letter else 1,
            replays=replays(letter.attempt) if letter else 0,
            worker=worker or socket.gethostname(),
            headers=headers,
            body=write(envelope),
            died_at=timezone.now(),
        ).bury()
    logger.error("%s is dead: %s: %s", letter.id if letter else "A letter", reason, error)


def failure(kind: str, reason: str, error: Exception) -> str:
    """The fingerprint of a failure: what failed, how, and in which function."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f"{Path(last[0].filename).name}:{last[0].name}" if last else ""
    return fingerprint(kind, reason, type(error).__name__, where)


def _lost_connection(error: BaseException) -> bool:
    """Whether a database went away, rather than the handler having failed."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    state = getattr(error.__cause__, "sqlstate", None)
    return state is None or state.startswith(CONNECTION_LOST)


def _headers(request: Any) -> dict[str, Any]:
    """What came with the letter: Celery keeps the headers of a message as attributes of its request."""
    kept = ("task", "id", "root_id", "parent_id", "correlation_id", "delivery_info", "x-delivery-count")
    found = vars(request)
    return {name: found[name] for name in kept if found.get(name) is not None}


def unheard() -> list[str]:
    """Commands and events that are addressed to a service in which nobody handles them."""
    return sorted(name for name, kind in REGISTRY.items() if kind.to in settings.SERVICES and name not in CONSUMERS)
