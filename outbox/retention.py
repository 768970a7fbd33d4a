"""
What is deleted and when: in small batches by ranges of the primary key, each in its own short transaction.

# Note [When an inbox row may go]: it is what keeps a copy of its message from having its effect again, so it stays as
# long as a copy can arrive. Copies come from rows that are not published yet and from dead letters that are replayed:
# those are looked for here. Copies from the outbox of another service or from the broker can't be seen from here; but
# a consumer makes a dead letter of every message that was sent longer ago than `DEDUPE_HORIZON`, which is shorter than
# `INBOX_RETENTION`, so none of those can find its inbox row gone. And a service keeps the inbox rows of what it still
# has to do, so that its history can be shown to the end.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from . import conf
from .ids import floor7
from .models import DeadLetter
from .services import database_of, model_of
from .store import Rows

BATCH = 1000
TIMEOUT = timedelta(seconds=5)  # for a table in one call: the next tick continues


def purge(service: str, *, now: datetime) -> dict[str, int]:
    """Delete what this service need not keep any longer; return how many rows of each kind."""
    return {
        "published": _delete(service, lambda: _published(service, now=now)),
        "handled": _delete(service, lambda: _handled(service, now=now)),
        "resolved": _delete(service, lambda: _resolved(service, now=now)),
    }


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


def _delete(service: str, find: Callable[[], QuerySet[Any]]) -> int:
    """Delete these rows in the order of their keys; rows that are locked are left for another time."""
    stored = Rows(database_of(service))
    deleted, last = 0, UUID(int=0)
    give_up_at = time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() < give_up_at:
        with transaction.atomic(using=stored.using):
            rows = find()
            batch = list(
                rows.filter(pk__gt=last)
                .order_by("pk")
                .select_for_update(skip_locked=True, of=("self",))
                .values_list("pk", flat=True)[:BATCH]
            )
            if batch:
                stored.run(stored.delete_all(rows.model, batch))
        deleted += len(batch)
        if len(batch) < BATCH:
            break
        last = batch[-1]
    return deleted
