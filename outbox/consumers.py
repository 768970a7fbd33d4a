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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.exceptions import Reject
from django.db import Error, transaction

from . import arrivals, batches, clock, context, metrics, strict_json, unknown, worker_stop
from .arrivals import Arrived
from .attempts import ATTEMPTS, backoff, last_attempt
from .conflicts import retry_on_conflict
from .deliveries import Delivery, StartedMessage, WorkerLost
from .envelope import Envelope
from .errors import CodedError, NotKnownYet, Unreadable
from .message import EVENTS, REGISTRY, Message
from .models import FORGOTTEN, DeadLetter, IncomingMessage
from .results import REQUEST, Dead, Result
from .retention import remembers
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
    first: Callable[[Sequence[Any]], Iterator[Any]] | None = None  # one call for each of some messages, when it is due
    together: Callable[[Sequence[Arrived]], None] | None = None

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
    message: type[Message],
    *,
    first: Callable[[Any], Any] | None = None,
    first_of_each: Callable[[Sequence[Any]], Iterator[Any]] | None = None,
    together: Callable[[Sequence[Arrived]], None] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Make this function the one handler of a message, in the service that the message is addressed to.

    `first` is called with the message before the transaction begins and without one open (it may call a foreign
    service); the handler then gets its result as second argument. It can run more than once, so it must be idempotent.
    `first_of_each` is given messages that arrived together, or the one that came alone, and yields the result for each:
    for what can be looked up for all of them at once.

    `together` does for many messages, in one transaction, what the handler does for one: see batches.py.

    :raises TypeError: if the message has a handler already, or is an event for the outside world
    """

    def register(handle: Callable[..., None]) -> Callable[..., None]:
        if message.to == EVENTS:
            raise TypeError(f"{message.name} is an event for the outside world: no service handles it.")
        if message.name in CONSUMERS:
            raise TypeError(f"{message.name} has a handler already.")
        each = functools.partial(map, first) if first is not None else first_of_each
        CONSUMERS[message.name] = Consumer(message, handle, each, together)

        @shared_task(name=message.name, bind=True, throws=(Dead,), Request=REQUEST)
        @functools.wraps(handle)
        def task(self: Any, raw: object, *more: object) -> None:
            headers, worker = _headers(self.request), self.request.hostname or ""
            receive_all(CONSUMERS[message.name], [raw, *more], headers=headers, worker=worker).tell_celery()

        return handle

    return register


def receive_all(consumer: Consumer, raws: Sequence[object], *, headers: dict[str, Any], worker: str) -> Result:
    """
    Handle the messages that arrived in one delivery: together if they may be, else each on its own, as `receive` does.

    Returns the first result that is not that a message was handled, if there is one.

    :raises Reject: as `receive` does, for all of them
    """
    service, until = consumer.service, time.monotonic() + DATABASE_TIMEOUT.total_seconds()
    may_be_together = len(raws) > 1 and not Delivery(service, raws, headers, worker).is_repeated
    if may_be_together and batches.handled_together(consumer, raws):
        return Result()
    results = [receive(service, raw, headers=headers, worker=worker, until=until) for raw in raws]
    return next((result for result in results if result.error is not None), Result())


def receive(service: str, raw: object, *, headers: dict[str, Any], worker: str, until: float | None = None) -> Result:
    """
    Handle a message that arrived for this service, once however often it arrives.

    :param raw: its envelope as it arrived
    :param until: how long to wait for the database, on the monotonic clock; by default for `DATABASE_TIMEOUT`
    :raises Reject: to have the broker deliver it again, after waiting for the database or where the worker is to stop
    """
    delivery = Delivery(service, raw, headers, worker)
    give_up_at = time.monotonic() + DATABASE_TIMEOUT.total_seconds() if until is None else until
    pause = 0.5
    while True:
        try:
            return _receive(delivery)
        except Error as error:
            if not is_unavailable(error):
                raise
            metrics.WORKER_ERRORS.inc()
            # Note [An unavailable database is not the message's fault]: so it waits here, unacknowledged, until it is
            # back. Sent back to the broker, it would only come again at once; but not to a worker that is to stop.
            note(error, where=f"{service}, waiting")
            if time.monotonic() > give_up_at or worker_stop.wait(pause * random.uniform(0.75, 1.25)):
                raise Reject(str(error), requeue=True) from error
            pause = min(pause * 2, 5)


def _receive(delivery: Delivery) -> Result:
    envelope, service = None, delivery.service
    try:
        envelope = arrivals.read(delivery.raw)
        if not remembers(service, envelope):
            raise Unreadable(FORGOTTEN, "The message is older than the inbox remembers: it may have been handled.")
        consumer, message = CONSUMERS.get(envelope.type), envelope.message()
        if consumer is None or consumer.service != service:
            raise Unreadable("unknown_type", f"No handler in {service} takes {envelope.type}.")
        delivery.begin(envelope)
        began = time.monotonic()
        is_new = deliver(consumer, envelope, message, delivery)
        arrivals.log_handled(service, envelope, is_new=is_new, seconds=time.monotonic() - began)
        return Result()
    except NotKnownYet as refusal:
        assert envelope is not None, "only a message can be unknown"
        now = clock.now(database_of(service))
        with transaction.atomic(using=database_of(service)):
            waits = unknown.put_back(service, envelope, now=now)
        return Result(refusal, now) if waits else _die(delivery, envelope, refusal, reason=refusal.code)
    except CodedError as refusal:
        with context.acting(envelope.context) if envelope else contextlib.nullcontext():
            return _die(delivery, envelope, refusal, reason=refusal.code)
    except Exception as error:
        if verdict_on(error) is Verdict.WAIT or envelope is None:
            raise
        with context.acting(envelope.context):
            return _fail(delivery, envelope, error)


def deliver(consumer: Consumer, envelope: Envelope, message: Message, delivery: Delivery) -> bool:
    """
    Handle a message unless it was handled before: inbox row, effects and replies in one commit.

    Returns whether it was handled now.
    """
    received_at = clock.now(consumer.database)
    with Arrived(envelope, message).acting():
        if consumer.first is not None and not delivery.answer and not consumer.incoming.seen(envelope):
            delivery.answer = (next(consumer.first([message])),)
        return _commit(consumer, envelope, message, *delivery.answer, delivery=delivery, received_at=received_at)


@retry_on_conflict
def _commit(
    consumer: Consumer, envelope: Envelope, message: Message, *answer: Any, delivery: Delivery, received_at: datetime
) -> bool:
    with transaction.atomic(using=consumer.database):
        is_new = consumer.incoming.record(envelope, received_at=received_at)
        if is_new:
            consumer.handle(message, *answer)
        delivery.end(envelope)
        return is_new


def take_back(service: str, raw: object, envelope: Envelope, *, headers: dict[str, Any]) -> None:
    """
    Send a message of this service once more that the broker has delivered to its limit.

    That is a failed attempt if handling it was begun. One that was only held by workers that died is not to blame.
    """
    delivery = Delivery(service, raw, headers, worker="")
    begun = StartedMessage.of(delivery.rows, envelope)
    with context.acting(envelope.context):
        if begun is None:
            _post_again(service, envelope, attempt=envelope.attempt)
            return
        delivery.has_start, delivery.worker = True, begun.worker
        _fail(delivery, envelope, WorkerLost("Handling it was begun, and its worker was lost each time."))


def _post_again(service: str, envelope: Envelope, *, attempt: int) -> datetime:
    due_at = clock.now(database_of(service)) + backoff(envelope.attempt % ATTEMPTS, spread=random.random())
    with transaction.atomic(using=database_of(service)):
        model_of(service, "Outgoing").post_again(envelope, attempt=attempt, due_at=due_at)
    return due_at


def _fail(delivery: Delivery, envelope: Envelope, error: Exception) -> Result:
    """End an attempt that has failed: the message is sent again later, or it is a dead letter after the last one."""
    metrics.WORKER_ERRORS.inc()
    if envelope.attempt >= last_attempt(envelope.attempt):
        reason = "killed_its_worker" if isinstance(error, WorkerLost) else "failed"
        return _die(delivery, envelope, error, reason=reason)
    logger.warning("%s %s failed, trying again: %s", envelope.type, envelope.id, error, exc_info=True)
    with transaction.atomic(using=delivery.rows.using):
        again_at = _post_again(delivery.service, envelope, attempt=envelope.attempt + 1)
        delivery.end(envelope)
    return Result(error, again_at)


def _die(delivery: Delivery, envelope: Envelope | None, error: Exception, *, reason: str) -> Result:
    dead_letter = model_of(delivery.service, "DeadLetter").of(
        envelope,
        reason=reason,
        type=str(delivery.headers.get("task", "")),
        alike=alike(error),
        origin=DeadLetter.Origin.CONSUMER,
        queue=delivery.service,
        error=f"{type(error).__name__}: {error}",
        traceback="".join(traceback.format_exception(error)),
        worker=delivery.worker or socket.gethostname(),
        headers=delivery.headers,
        body=strict_json.write(delivery.raw),
    )
    with transaction.atomic(using=delivery.rows.using):
        dead_letter.record()
        if envelope is not None:
            delivery.end(envelope)
    return Result(error)


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
