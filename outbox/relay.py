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
from typing import Any

import psycopg
from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from . import heartbeat, metrics, tracing
from .attempts import LAST_ATTEMPT, backoff, replays
from .broker import LOST, BrokerTooOld, Outcome, Publisher
from .consumers import model_of
from .dead_letter_models import fingerprint
from .models import CHANNEL, DeadLetter, OutgoingMessage
from .store import Rows, Statement

logger = logging.getLogger(__name__)

BATCH = 200
DUE = f"WHERE published_at IS NULL AND due_at <= %s ORDER BY due_at, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
NEXT = "WHERE published_at IS NULL ORDER BY due_at LIMIT 1"
STAMP = "UPDATE outbox_outgoingmessage SET published_at = %s WHERE id = ANY(%s)"
POLL = 1.0  # seconds; NOTIFY wakes the relay earlier
RESTS = 3  # times as long as a batch took
LONGEST_REST = 0.1  # seconds
QUIET = 0.1  # seconds without a ring
LONGEST_PAUSE = 2  # by `backoff`: four seconds between attempts to reach a server that is gone
OVERDUE = timedelta(seconds=1)  # what a running relay would have sent by now


@dataclass
class Relay:
    """Sends what one service has posted."""

    service: str
    publisher: Publisher = field(default_factory=Publisher)

    def drain(self, *, overdue: timedelta = timedelta(0)) -> datetime | None:
        """Send all that was due this long ago; when the next letter is due, if one waits."""
        while (due := self.next_due()) is not None and due <= timezone.now() - overdue:
            self.publisher.open()
            if not self.send_batch(now=timezone.now(), overdue=overdue):
                return None  # another relay has them in hand
        return due

    def send_batch(self, *, now: datetime, overdue: timedelta = timedelta(0)) -> int:
        """Claim, publish and stamp one batch; how many letters were claimed."""
        outgoing, stored = model_of(self.service, "Outgoing"), Rows(self.service)
        with transaction.atomic(using=self.service):
            rows: Sequence[OutgoingMessage] = stored.select(outgoing, DUE, now - overdue)
            if not rows:
                return 0
            lag = now - rows[0].due_at
            with tracing.span(f"relay {self.service}", kind="producer", links=(row.traceparent for row in rows)):
                outcome = self.publisher.publish([(row.letter(), row.to) for row in rows])
            if outcome.confirmed:
                sent = [rows[index].pk for index in outcome.confirmed]
                stored.run(Statement(STAMP, [timezone.now(), sent]))
            unsent = [
                row
                for index, row in enumerate(rows)
                if index not in outcome.confirmed
                and self._put_off(row, why=outcome.refused.get(index), cut_off=outcome.cut_off)
            ]
            if unsent:
                outgoing.objects.bulk_update(unsent, ["due_at", "publish_attempts", "refusals", "last_error"])
        self._count(len(rows), outcome, lag=lag)
        if outcome.refused:
            self._declare()
        return len(rows)

    def _count(self, size: int, outcome: Outcome, *, lag: timedelta) -> None:
        metrics.RELAY_BATCH.labels(self.service).observe(size)
        metrics.RELAY_LAG.labels(self.service).observe(lag.total_seconds())
        metrics.EVENTS_PUBLISHED.inc(len(outcome.confirmed))
        metrics.EVENTS_FAILED.inc(size - len(outcome.confirmed))

    def _put_off(self, row: OutgoingMessage, *, why: str | None, cut_off: str) -> bool:
        """
        Make a row due later; false if the broker has refused it to the end, and it is buried.

        # Note [No answer is no refusal]: a broker that can't be reached or doesn't answer says nothing about the
        # letter, so an outage of any length kills none; it only waits longer between attempts.
        """
        if why is not None and row.refusals >= LAST_ATTEMPT:
            self._bury(row, why=why)
            return False
        row.due_at = timezone.now() + backoff(row.publish_attempts, spread=random.random())
        row.publish_attempts += 1
        row.refusals += why is not None
        row.last_error = (why or cut_off)[:500]
        logger.warning("%s to %s was not sent, trying again: %s", row, row.to, row.last_error)
        return True

    def _bury(self, row: OutgoingMessage, *, why: str) -> None:
        letter = row.letter()
        model_of(self.service, "DeadLetter")(
            origin=DeadLetter.Origin.RELAY,
            queue=row.to,
            message_id=row.message_id,
            type=row.type,
            subject=row.subject,
            reason="unpublishable",
            error=why,
            fingerprint=fingerprint(row.type, "unpublishable", why),
            attempts=row.refusals + 1,
            replays=replays(row.attempt),
            headers={"publish_attempts": row.publish_attempts + 1, "posted_at": row.created_at.isoformat()},
            body=letter.body(),
            died_at=timezone.now(),
        ).bury()
        row.delete()
        logger.error("%s to %s is dead: %s", row, row.to, why)

    def _declare(self) -> None:
        """Queues may have been deleted: declare them again before the next attempt."""
        try:
            import_string(settings.BROKER_TOPOLOGY)()
        except LOST as error:
            logger.warning("The broker can't be reached: %s", error)

    def next_due(self) -> datetime | None:
        waiting: OutgoingMessage | None = Rows(self.service).first(model_of(self.service, "Outgoing"), NEXT)
        return waiting.due_at if waiting else None

    def run(self, stop: threading.Event) -> None:
        """
        Work until told to stop, through every loss of the broker or the database.

        # Note [Rings come in swarms]: the first is answered at once, the next ones together, after a rest that is
        # longer the longer the batch took: the busier the system, the larger the batches, and the less they cost.
        # When the next letter is due is asked only once it is quiet.
        """
        failures, rung, rested_at = 0, False, 0.0
        with _Bell(self.service) as bell:
            while not stop.is_set():
                heartbeat.beat()
                try:
                    if rung:
                        stop.wait(max(0.0, rested_at - time.monotonic()))
                        began, wait = time.monotonic(), QUIET
                        self.publisher.open()
                        while self.send_batch(now=timezone.now()) == BATCH:
                            pass
                        sent_at = time.monotonic()
                        rested_at = sent_at + min(LONGEST_REST, RESTS * (sent_at - began))
                    else:
                        due = self.drain()
                        wait = POLL if due is None else min(POLL, max(0.0, (due - timezone.now()).total_seconds()))
                    failures, rung = 0, False
                    rung = bell.wait(wait)
                except BrokerTooOld:
                    raise
                except (*LOST, OperationalError, InterfaceError) as error:
                    pause = backoff(failures, spread=random.random()).total_seconds()
                    failures = min(failures + 1, LONGEST_PAUSE)
                    logger.warning("%s: trying again in %.1f s: %s", self.service, pause, error)
                    connections[self.service].close()
                    stop.wait(pause)
        self.publisher.close()
        connections[self.service].close()


class _Bell:
    """
    Hears the NOTIFY of a database. Deaf (behind PgBouncer, say) it only waits: the poll is the truth.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> "_Bell":
        return self

    def __exit__(self, *exception: object) -> None:
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def wait(self, seconds: float) -> bool:
        """Return when somebody rings, at the latest after this time; whether somebody did."""
        try:
            if self._connection is None:
                self._connection = self._listen()
                return False  # what was posted before we listened rang unheard: look again at once
            return bool(list(self._connection.notifies(timeout=seconds, stop_after=1)))
        except psycopg.Error as error:
            self._hang_up()
            raise OperationalError(str(error)) from error

    def _listen(self) -> psycopg.Connection[Any]:
        parameters = dict(connections[self.service].get_connection_params())
        for ours in ("cursor_factory", "context", "prepare_threshold"):
            parameters.pop(ours, None)
        connection = psycopg.connect(**parameters, autocommit=True)
        connection.execute(f"LISTEN {CHANNEL}")
        return connection
