"""
From the outbox to the broker: due rows -> confirmed publish -> stamped.

Several relays may work side by side on one database: each locks the rows of its batch, the others skip them. A relay
that dies leaves its rows unlocked and unstamped; the next one sends them again, and the inbox ignores the copy.
"""

import logging
import random
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from amqp.exceptions import AccessRefused
from django.db import Error, connections, transaction

from . import batches, clock, conf, heartbeat, metrics, tracing
from .attempts import LAST_ATTEMPT, backoff
from .broker import LOST, BrokerTooOld, Outcome, Publisher
from .due_rows import DueRows
from .models import DeadLetter, OutgoingMessage
from .notifications import Listener
from .rest import Rest
from .services import database_of, model_of
from .sqlstates import is_unavailable, note
from .store import Rows, Statement

logger = logging.getLogger(__name__)

BATCH = 200  # messages that are with the broker at a time
CHANGED = ("due_at", "first_due_at", "publish_attempts", "refusals", "last_error")  # of a row that is put off
LEASE = timedelta(seconds=30)  # for rows that the broker has not answered
ANSWERS = 0.1  # seconds between two looks for the answers of a slow broker
POLL = 1.0  # seconds; NOTIFY wakes the relay earlier
QUIET = 0.1  # seconds without a notification
MAX_PAUSE = 2  # by `backoff`: four seconds between attempts to reach a server that is gone
OVERDUE = timedelta(seconds=1)  # a running relay would have sent this by now
WITHOUT_FLUSH = Statement("SET LOCAL synchronous_commit TO off", [])


@dataclass
class _Batch:
    """What was sent at a time: the rows of it that are not settled, by the index of what they traveled in."""

    outcome: Outcome
    rows: dict[int, list[OutgoingMessage]]

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))


@dataclass
class Relay:
    """Sends what one service has posted."""

    service: str
    publisher: Publisher = field(default_factory=Publisher)
    _unanswered: list["_Batch"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._due = DueRows(self.service)

    @property
    def database(self) -> str:
        return database_of(self.service)

    def _now(self) -> datetime:
        return clock.now(self.database)

    def drain(self, *, overdue: timedelta = timedelta(0)) -> datetime | None:
        """Send everything that was due this long ago; return when the next message is due, if one waits."""
        self.settle()
        while (due := self.next_due()) is not None and due <= self._now() - overdue:
            heartbeat.beat()
            self.publisher.open()
            if not self.send_batch(now=self._now(), overdue=overdue):
                return None  # another relay has locked them, or the broker has enough to answer
            self.settle()
        return due

    def send_batch(self, *, now: datetime, overdue: timedelta = timedelta(0), types: Collection[str] = ()) -> int:
        """Lock, publish and stamp one batch, if need be of these types alone; return how many messages were locked."""
        free = BATCH - sum(map(len, self._unanswered))
        if free <= 0:
            return 0
        with transaction.atomic(using=self.database):
            if types:
                rows = self._due.claim_of(types, now=now, limit=free)
            else:
                rows = self._due.claim(now=now, overdue=overdue, limit=free)
            if not rows:
                return 0
            lag = max(now - min(row.due_since for row in rows), timedelta(0))
            with tracing.span(f"relay {self.service}", kind="producer", links=(row.traceparent for row in rows)):
                packed = batches.packed(rows)
                outcome = self.publisher.publish([([row.envelope() for row in some], some[0].to) for some in packed])
            batch = _Batch(outcome, dict(enumerate(packed)))
            waiting = self._record(batch)
        metrics.RELAY_BATCH.labels(self.service).observe(len(rows))
        metrics.RELAY_LAG.labels(self.service).observe(lag.total_seconds())
        if waiting:
            self._unanswered.append(_Batch(outcome, waiting))
        if outcome.refused:
            self._declare_topology()
        return len(rows)

    def _send_burst(self) -> int:
        """Send what is due now, in as many batches as it takes; return how many messages were locked."""
        sent = size = self.send_batch(now=self._now())
        while size == BATCH:
            sent += (size := self.send_batch(now=self._now()))
        return sent

    def settle(self) -> None:
        """Read what the broker has answered late, and stamp what it has confirmed."""
        self.publisher.read_answers()
        is_refused = any(batch.outcome.refused.keys() & batch.rows.keys() for batch in self._unanswered)
        for batch in self._unanswered:
            with transaction.atomic(using=self.database):
                waiting = self._record(batch)
            batch.rows = waiting
        self._unanswered = [batch for batch in self._unanswered if batch.rows]
        if is_refused:
            self._declare_topology()

    def _record(self, batch: "_Batch") -> dict[int, list[OutgoingMessage]]:
        """
        Store what the broker has said about the messages of a batch; return those that it has not answered.

        # Note [A lease on what is unanswered]: such a row is made due again later and later, as long as the connection
        # lives, so that no relay sends it again meanwhile. If this relay dies, another one does when the lease is over.

        # Note [A stamp may be lost]: its commit does not wait for the disk, where orders that are under way commit as
        # well. What a server that crashes has forgotten is sent again, as if the relay had died before it was stamped.
        """
        outcome, stored = batch.outcome, Rows(self.database)
        outgoing = model_of(self.service, "Outgoing")
        sent, failed, waiting = [], [], {}
        for index, rows in batch.rows.items():
            if index in outcome.confirmed:
                sent += [row.pk for row in rows]
            elif index in outcome.refused or index in outcome.declined or index in outcome.suspected or outcome.cut_off:
                failed += [(index, row) for row in rows]
            elif index in outcome.waiting:
                waiting[index] = rows
        if sent:
            stored.run(WITHOUT_FLUSH, stored.update_all(outgoing, sent, published_at=self._now()))
        changed = []
        for index, row in failed:
            unknown = outcome.declined.get(index) or outcome.suspected.get(index) or outcome.cut_off
            if self._put_off(row, why=outcome.refused.get(index), cut_off=unknown):
                changed.append(row)
        changed += [row for rows in waiting.values() for row in rows if self._lease(row)]
        if changed:
            outgoing.objects.bulk_update(changed, CHANGED)
        metrics.EVENTS_PUBLISHED.inc(len(sent))
        metrics.EVENTS_FAILED.inc(len(failed))
        return waiting

    def _lease(self, row: OutgoingMessage) -> bool:
        """Make a row due later that the broker has not answered; return false if it is late enough already."""
        now = self._now()
        if row.publish_attempts and row.due_at > now + LEASE / 2:
            return False
        row.postpone(now + LEASE, why="The broker has not answered yet.")
        return True

    def _put_off(self, row: OutgoingMessage, *, why: str | None, cut_off: str) -> bool:
        """
        Make a row due later; return false if the broker has refused it for the last time, and it is a dead letter.

        # Note [No answer is no refusal]: a broker that can't be reached or doesn't answer has not judged the message,
        # nor has one that can't take it now (nack): a queue is full, or between two leaders. So an outage of any length
        # makes no dead letters; there are only longer pauses between attempts.
        """
        if why is not None and row.refusals >= LAST_ATTEMPT:
            self._give_up(row, why=why)
            return False
        row.refusals += why is not None
        pause = backoff(row.publish_attempts, spread=random.random())
        row.postpone(self._now() + pause, why=why or cut_off)
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
        return self._due.next_due()

    def run(self, stop: threading.Event) -> None:
        """
        Work until `stop` is set, through every loss of the broker or the database.

        # Note [Notifications come in bursts]: the first is answered at once, the next ones together, after a rest that
        # is longer the longer batches take: the busier the system, the larger the batches, and the less they cost.
        # After a few messages it hardly rests, as there is little to be saved, and an order would wait at each step.
        # Only when no more arrive does it ask when the next message is due.

        # Note [Replies do not wait]: a rest is for what requests post one by one. What a handler sends to a service
        # comes as one batch already, of the messages that it was given together, so it is sent at once; all else goes
        # on waiting, or its batches would become smaller.
        """
        failures, rested_at, rest = 0, 0.0, Rest()
        is_posted, replies = False, set[str]()
        with Listener(self.database) as listener:
            while not stop.is_set():
                heartbeat.beat()
                try:
                    self.settle()
                    began = time.monotonic()
                    if is_posted and began < rested_at:
                        if replies:
                            self.publisher.open()
                            self.send_batch(now=self._now(), types=replies)
                        wait = rested_at - time.monotonic()
                    elif is_posted:
                        self.publisher.open()
                        sent, sent_at = self._send_burst(), time.monotonic()
                        rested_at = sent_at + rest.after(sent, took=sent_at - began, quiet=began - rested_at)
                        is_posted, wait = False, QUIET
                    else:
                        due = self.drain()
                        wait = POLL if due is None else (due - self._now()).total_seconds()
                    failures, replies = 0, set()
                    heard = listener.wait(max(0.0, min(wait, ANSWERS if self._unanswered else POLL)))
                    if heard is not None:
                        is_posted, replies = True, heard
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
                    if isinstance(error, Error):
                        listener.close()  # a server that is frozen, or a standby by now, notifies nobody either
                    stop.wait(pause)
        self.publisher.close()
        connections[self.database].close()
