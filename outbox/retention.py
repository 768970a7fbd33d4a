"""
What is deleted and when: in small batches by ranges of the primary key, each in its own short transaction.

# Note [When an inbox row may go]: it is what keeps a copy of its message from having its effect again, so it stays as
# long as a copy can arrive. Copies come from rows that are not published yet and from dead letters that are replayed:
# those are looked for here. Copies from the outbox of another service or from the broker can't be seen from here; but
# nobody handles a message that was first sent longer ago than `DEDUPE_HORIZON`, which is shorter than
# `INBOX_RETENTION`, unless the inbox is known to remember it (see `remembers`). And a service keeps the inbox rows of
# what it still has to do, so that its history can be shown to the end.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from . import clock, conf
from .by_day import ByDay
from .envelope import Envelope
from .ids import floor7
from .models import DeadLetter, StartedMessage
from .pacing import rounds
from .services import database_of, model_of
from .store import Rows

BATCH = 1000
SECONDS = 5.0  # for one call, while there is a backlog: half of the time between two of them
NIL = UUID(int=0)
AGAIN = 3600.0  # seconds after which the rows that had to stay are looked at again


def remembers(service: str, envelope: Envelope) -> bool:
    """
    Whether the inbox of this service still tells if it has handled this message.

    It does for a while after the message was first sent. Later it does if the inbox row is there; or if the message has
    been a dead letter here that was replayed, because that has kept the inbox row, if there ever was one, ever since.
    """
    if clock.now(database_of(service)) - envelope.sent_at <= conf.DEDUPE_HORIZON:
        return True
    replayed = model_of(service, "DeadLetter").objects.filter(message_id=envelope.id, status=DeadLetter.Status.REPLAYED)
    return model_of(service, "Incoming").seen(envelope) or replayed.exists()


def purge(service: str, *, now: datetime) -> dict[str, int]:
    """Delete what this service need not keep any longer; return how many rows of each kind."""
    purged = dict.fromkeys(KINDS, 0)
    left = list(KINDS)
    tables = {kind: ByDay.of(database_of(service), days.table(service)) for kind, days in DAYS.items()}
    for _ in rounds(SECONDS):
        for kind in list(left):
            deleted = _delete_batch(service, kind, now=now, within=tables[kind].rest() if kind in tables else Q())
            purged[kind] += deleted
            if deleted < BATCH:
                left.remove(kind)
        if not left:
            break
    for kind, table in tables.items():
        table.make(now=now)
        before = now - DAYS[kind].kept_for()
        for day in table.over(before=before):
            table.drop(day, **DAYS[kind].staying(service, before=before))
    return purged


# Rows that go one by one ---------------------------------------------------------------------------------------------


def _published(service: str, *, now: datetime) -> QuerySet[Any]:
    before = now - conf.OUTBOX_RETENTION
    rows: QuerySet[Any] = model_of(service, "Outgoing").objects.filter(pk__lt=floor7(before), published_at__lt=before)
    return rows


def _handled(service: str, *, now: datetime) -> QuerySet[Any]:
    before = now - conf.INBOX_RETENTION
    incoming = model_of(service, "Incoming")
    unsent = model_of(service, "Outgoing").objects.filter(published_at=None, message_id=OuterRef("pk"))
    dead = model_of(service, "DeadLetter").objects.filter(message_id=OuterRef("pk"))
    rows: QuerySet[Any] = incoming.objects.filter(
        ~Exists(unsent), ~Exists(dead), pk__lt=floor7(before), handled_at__lt=before
    )
    open_work = incoming.open_work(OuterRef("subject"))
    return rows if open_work is None else rows.filter(Q(subject="") | ~Exists(open_work))


def _resolved(service: str, *, now: datetime) -> QuerySet[Any]:
    # A dead letter that was replayed keeps its inbox row until no copy of the replay can be on its way any longer.
    before = now - conf.INBOX_RETENTION
    rows: QuerySet[Any] = model_of(service, "DeadLetter").objects.filter(pk__lt=floor7(before), resolved_at__lt=before)
    return rows.exclude(status=DeadLetter.Status.DEAD)


def _started(service: str, *, now: datetime) -> QuerySet[Any]:
    """Starts whose end is not known, because another copy of the message was handled meanwhile."""
    return StartedMessage.objects.using(database_of(service)).filter(started_at__lt=now - conf.INBOX_RETENTION)


KINDS: dict[str, Callable[..., QuerySet[Any]]] = {
    "published": _published, "handled": _handled, "resolved": _resolved, "started": _started,
}  # fmt: skip


# Rows that stay when their day goes -----------------------------------------------------------------------------------


def _not_published(service: str, *, before: datetime) -> dict[str, list[QuerySet[Any]]]:
    rows = model_of(service, "Outgoing").objects
    return {"late": [rows.filter(published_at=None), rows.filter(published_at__gte=before)], "early": []}


def _needed(service: str, *, before: datetime) -> dict[str, list[QuerySet[Any]]]:
    """
    The inbox rows that `_handled` leaves.

    # Note [Between two looks]: a row to be sent that appears after what is `early` was looked for finds no inbox row,
    # and so is a dead letter for a person to decide about (see `remembers`): nothing has its effect twice. Rows of
    # dead letters are looked for under the lock, as `remembers` takes it that they are there if they ever were.
    """
    incoming = model_of(service, "Incoming")
    dead = model_of(service, "DeadLetter").objects.filter(message_id=OuterRef("pk"))
    unsent = model_of(service, "Outgoing").objects.filter(published_at=None, message_id=OuterRef("pk"))
    late = [incoming.objects.filter(handled_at__gte=before), incoming.objects.filter(Exists(dead))]
    early = [incoming.objects.filter(Exists(unsent))]
    if (open_work := incoming.open_work(OuterRef("subject"))) is not None:
        early.append(incoming.objects.filter(Exists(open_work)).exclude(subject=""))
    return {"late": late, "early": early}


@dataclass(frozen=True)
class _Days:
    """How the days of a table go: how long rows are kept, and which of them have to stay."""

    model: str
    kept_for: Callable[[], timedelta]
    staying: Callable[..., dict[str, list[QuerySet[Any]]]]

    def table(self, service: str) -> str:
        return str(model_of(service, self.model)._meta.db_table)


DAYS = {
    "published": _Days("Outgoing", lambda: conf.OUTBOX_RETENTION, _not_published),
    "handled": _Days("Incoming", lambda: conf.INBOX_RETENTION, _needed),
}  # fmt: skip


@dataclass
class _Progress:
    """
    Where to go on, and when to begin at the beginning again.

    # Note [Going on]: like the relay (see due_rows.py), a purge that begins at the beginning of the index walks over
    # the entries of all the rows that were deleted and not vacuumed yet.
    """

    last: UUID = NIL
    until: float = field(default_factory=lambda: time.monotonic() + AGAIN)


_progress: dict[tuple[str, str], _Progress] = {}


def _delete_batch(service: str, kind: str, *, now: datetime, within: Q) -> int:
    """Delete the next of these rows in the order of their keys; rows that are locked are left for another time."""
    here = _progress.get((service, kind))
    if here is None or here.until < time.monotonic():
        here = _progress[service, kind] = _Progress()
    stored = Rows(database_of(service))
    with transaction.atomic(using=stored.using):
        rows = KINDS[kind](service, now=now)
        batch = list(
            rows.filter(within, pk__gt=here.last)
            .order_by("pk")
            .select_for_update(skip_locked=True, of=("self",))
            .values_list("pk", flat=True)[:BATCH]
        )
        if batch:
            stored.run(stored.delete_all(rows.model, batch))
    if batch:
        here.last = batch[-1]
    return len(batch)
