"""
One service goes on after its database was set back to an earlier moment, while the others are ahead: see `recover`.

# Note [In this order]: first, what the service knew of each order is made again, from what orders was told and the
gateway says. Then what it had sent is known to it again. Last, what it was sent is sent again: each of these messages
finds things as they were, and is answered as it was; who hears an answer a second time does nothing, by the table of
`orders.saga`. Each step is a transaction for each order and finds what is done already, so a recovery that was
interrupted is begun again.

# Note [Orders]: of an order, its events tell all that became of it. So they come first there, then what orders was
sent, which it handles at once, in an order that its table allows.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.conf import settings
from django.db import connections, transaction
from psycopg.errors import LockNotAvailable

from common.batches import in_batches
from outbox import clock, conf, forgotten, lost, sessions

from . import money, stock, told
from .report import AGAIN, REMEMBERED, Report

SERVICES = {"payments": money.settle, "processing": stock.settle, "orders": told.settle}
WAITED = timedelta(days=1)  # a message that was sent before the moment may have been handled so much after it
TURN = "recovery"  # whose it is: an advisory lock in the database of the service
A_MOMENT = "5s"  # in which the session of a recovery that has ended ends too
SLOWEST = timedelta(minutes=2)  # from when the id of a message was made to its commit


class NotPossible(ValueError):
    """Nothing can be recovered like that; says why."""


def recover(service: str, *, since: datetime, dry_run: bool = False) -> Report:
    """
    Have a service whose database was set back to the moment `since` know again what it knew, and return what was done.

    :param dry_run: only count; what a person has to decide is found by doing it
    :raises NotPossible: if that moment is in the future or longer ago than outboxes remember, or if another process is
        recovering the service
    :raises stream.StreamError: if the events of orders cannot be read
    """
    now = clock.now(service)
    oldest = now - conf.OUTBOX_RETENTION
    if settings.UPGRADING:
        raise NotPossible("Finish the upgrade first (UPGRADING).")
    if since > now:
        raise NotPossible(f"{since.isoformat()} is in the future.")
    if since < oldest:
        raise NotPossible(
            f"Outboxes keep what was sent for {conf.OUTBOX_RETENTION.days} days (OUTBOX_RETENTION_DAYS): what {service}"
            f" was sent before {oldest.isoformat(timespec='seconds')} cannot be had. Restore all databases to one"
            " moment: see docs/backups.md."
        )
    report, begin = Report(), max(oldest, since - WAITED)
    others = [one for one in settings.SERVICES if one != service]
    missing = partial(lost.find, settings.SERVICES, [service], since=begin, until=now)
    with _alone(service), _undone(service) if dry_run else nullcontext():
        SERVICES[service](missing, since=since - SLOWEST, dry_run=dry_run, report=report)
        for handled in in_batches(forgotten.find(others, settings.SERVICES, since=since - SLOWEST, until=now)):
            report.done[REMEMBERED] += len(handled)
            if not dry_run:
                forgotten.remember(service, handled)
        for sent in in_batches(one for one in missing() if one.subject not in report.held_back):
            report.done[AGAIN] += len(sent)
            if not dry_run:
                _send_again(sent)
    return report


@contextmanager
def _alone(service: str) -> Iterator[None]:
    """Run the block while nobody else recovers this service; a session of PostgreSQL's own holds the turn."""
    with sessions.connect(sessions.of_its_own(service)) as session:
        try:
            # The session of one that has just ended, or was killed, may live on for a moment.
            session.execute("SELECT set_config('lock_timeout', %s, false)", [A_MOMENT])
            session.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [TURN])
        except LockNotAvailable:
            raise NotPossible(f"Another process is recovering {service}: wait until it has ended.") from None
        yield


@contextmanager
def _undone(service: str) -> Iterator[None]:
    """Undo what is done to the database of this service in the block, which may take its time."""
    with transaction.atomic(using=service):
        with connections[service].cursor() as cursor:
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield
        transaction.set_rollback(True, using=service)


def _send_again(found: Collection[lost.Sent]) -> None:
    rows: dict[str, list[UUID]] = defaultdict(list)
    for one in found:
        rows[one.sender].append(one.row_id)
    for sender, row_ids in rows.items():
        lost.send_again(sender, row_ids)
