"""
From the outbox to the broker: due rows -> confirmed publish -> stamped.

Several relays may work side by side on one database: each locks the rows of its batch, the others skip them. A relay
that dies leaves its rows unlocked and unstamped; the next one sends them again, and the inbox ignores the copy.
"""

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

import psycopg
from amqp.exceptions import AccessRefused, NotFound
from django.db import Error, OperationalError, connections, transaction

from . import clock, conf, heartbeat, metrics, tracing
from .attempts import LAST_ATTEMPT, backoff
from .broker import LOST, BrokerTooOld, Outcome, Publisher
from .models import CHANNEL, DeadLetter, OutgoingMessage
from .services import database_of, model_of
from .sqlstates import is_unavailable, note
from .store import Rows

logger = logging.getLogger(__name__)

BATCH = 200
DUE = f"WHERE published_at IS NULL AND due_at <= %s ORDER BY due_at, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
NEXT = "WHERE published_at IS NULL ORDER BY due_at LIMIT 1"
POLL = 1.0  # seconds; NOTIFY wakes the relay earlier
REST_FACTOR = 3  # times as long as a batch took
MAX_REST = 0.1  # seconds
QUIET = 0.1  # seconds without a notification
MAX_PAUSE = 2  # by `backoff`: four seconds between attempts to reach a server that is gone
OVERDUE = timedelta(seconds=1)  # a running relay would have sent this by now


@dataclass
class Relay:
    """Sends what one service has posted."""

    service: str
    publisher: Publisher = field(default_factory=Publisher)

    @property
    def database(self) -> str:
        return database_of(self.service)

    def _now(self) -> datetime:
        return clock.now(self.database)

    def drain(self, *, overdue: timedelta = timedelta(0)) -> datetime | None:
        """Send everything that was due this long ago; return when the next message is due, if one waits."""
        while (due := self.next_due()) is not None and due <= self._now() - overdue:
            self.publisher.open()
            if not self.send_batch(now=self._now(), overdue=overdue):
                return None  # another relay has locked them
        return due

    def send_batch(self, *, now: datetime, overdue: timedelta = timedelta(0)) -> int:
        """Lock, publish and stamp one batch; return how many messages were locked."""
        outgoing, stored = model_of(self.service, "Outgoing"), Rows(self.database)
        with transaction.atomic(using=stored.using):
            rows: Sequence[OutgoingMessage] = stored.select(outgoing, DUE, now - overdue)
            if not rows:
                return 0
            lag = now - rows[0].due_at
            with tracing.span(f"relay {self.service}", kind="producer", links=(row.traceparent for row in rows)):
                outcome = self.publisher.publish([(row.envelope(), row.to) for row in rows])
            if outcome.confirmed:
                sent = [rows[index].pk for index in outcome.confirmed]
                stored.run(stored.update_all(outgoing, sent, published_at=self._now()))
            unsent = [
                row
                for index, row in enumerate(rows)
                if index not in outcome.confirmed
                and self._put_off(row, why=outcome.refused.get(index), cut_off=outcome.cut_off)
            ]
            if unsent:
                outgoing.objects.bulk_update(unsent, ["due_at", "publish_attempts", "refusals", "last_error"])
        self._count(len(rows), outcome, lag=lag)
        if outcome.refused or outcome.cut_off.startswith(NotFound.__name__):
            self._declare_topology()
        return len(rows)

    def _count(self, size: int, outcome: Outcome, *, lag: timedelta) -> None:
        metrics.RELAY_BATCH.labels(self.service).observe(size)
        metrics.RELAY_LAG.labels(self.service).observe(lag.total_seconds())
        metrics.EVENTS_PUBLISHED.inc(len(outcome.confirmed))
        metrics.EVENTS_FAILED.inc(size - len(outcome.confirmed))

    def _put_off(self, row: OutgoingMessage, *, why: str | None, cut_off: str) -> bool:
        """
        Make a row due later; return false if the broker has refused it for the last time, and it is a dead letter.

        # Note [No answer is no refusal]: a broker that can't be reached or doesn't answer has not judged the message,
        # so an outage of any length makes no dead letters; there are only longer pauses between attempts.
        """
        if why is not None and row.refusals >= LAST_ATTEMPT:
            self._give_up(row, why=why)
            return False
        row.due_at = self._now() + backoff(row.publish_attempts, spread=random.random())
        row.publish_attempts += 1
        row.refusals += why is not None
        row.last_error = (why or cut_off)[:500]
        logger.warning("%s to %s was not sent, trying again: %s", row, row.to, row.last_error)
        return True

    def _give_up(self, row: OutgoingMessage, *, why: str) -> None:
        envelope = row.envelope()
        model_of(self.service, "DeadLetter").of(
            envelope,
            reason="unpublishable",
            alike=[why],
            origin=DeadLetter.Origin.RELAY,
            queue=row.to,
            error=why,
            attempts=row.refusals + 1,
            headers={"publish_attempts": row.publish_attempts + 1, "posted_at": row.created_at.isoformat()},
            body=envelope.encode(),
        ).record()
        row.delete()

    def _declare_topology(self) -> None:
        """Declare queues again before the next attempt: they may have been deleted."""
        try:
            conf.call("BROKER_TOPOLOGY")
        except AccessRefused:
            logger.warning("This user of the broker may not declare queues: run manage.py declare_topology.")
        except LOST as error:
            logger.warning("The broker can't be reached: %s", error)

    def next_due(self) -> datetime | None:
        """Return when the next message is due, if one waits."""
        waiting: OutgoingMessage | None = Rows(self.database).first(model_of(self.service, "Outgoing"), NEXT)
        return waiting.due_at if waiting else None

    def run(self, stop: threading.Event) -> None:
        """
        Work until `stop` is set, through every loss of the broker or the database.

        # Note [Notifications come in bursts]: the first is answered at once, the next ones together, after a rest that
        # is longer the longer the batch took: the busier the system, the larger the batches, and the less they cost.
        # Only when no more arrive does it ask when the next message is due.
        """
        failures, notified, rested_at = 0, False, 0.0
        with _Listener(self.database) as listener:
            while not stop.is_set():
                heartbeat.beat()
                try:
                    if notified:
                        stop.wait(max(0.0, rested_at - time.monotonic()))
                        began, wait = time.monotonic(), QUIET
                        self.publisher.open()
                        while self.send_batch(now=self._now()) == BATCH:
                            pass
                        sent_at = time.monotonic()
                        rested_at = sent_at + min(MAX_REST, REST_FACTOR * (sent_at - began))
                    else:
                        due = self.drain()
                        wait = POLL if due is None else min(POLL, max(0.0, (due - self._now()).total_seconds()))
                    failures, notified = 0, False
                    notified = listener.wait(wait)
                except BrokerTooOld:
                    raise
                except (*LOST, Error) as error:
                    pause = backoff(failures, spread=random.random()).total_seconds()
                    failures = min(failures + 1, MAX_PAUSE)
                    if not isinstance(error, Error):
                        logger.warning("%s: trying again in %.1f s: %s", self.service, pause, error)
                    elif is_unavailable(error):
                        note(error, where=f"relay {self.service}, trying again in {pause:.1f} s")
                    else:
                        raise
                    connections[self.database].close()
                    stop.wait(pause)
        self.publisher.close()
        connections[self.database].close()


class _Listener:
    """Waits for the NOTIFY of a database. Where none arrives (behind PgBouncer, say) it only waits: the relay polls."""

    def __init__(self, database: str) -> None:
        self.database = database
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def wait(self, seconds: float) -> bool:
        """Return after a notification, or at the latest after this time; whether there was one."""
        try:
            if self._connection is None:
                self._connection = self._listen()
                return False  # the notifications of earlier commits are lost: look again at once
            return bool(list(self._connection.notifies(timeout=seconds, stop_after=1)))
        except psycopg.Error as error:
            self._close()
            raise OperationalError(str(error)) from error  # its SQLSTATE stays with its cause

    def _listen(self) -> psycopg.Connection[Any]:
        parameters = dict(connections[self.database].get_connection_params())
        for of_django in ("cursor_factory", "context", "prepare_threshold"):
            parameters.pop(of_django, None)
        connection = psycopg.connect(**parameters, autocommit=True)
        connection.execute(f"LISTEN {CHANNEL}")
        return connection
