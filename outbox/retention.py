"""
What the mailboxes forget, and when: in small batches by ranges of the primary key, each its own short transaction.

# Note [When an inbox key may go]: a key is what keeps a copy of its letter from having its effect again, so it stays
# as long as a copy can come. Copies come from rows not yet published and from dead letters that are replayed: here
# they are seen. From another service's outbox or the broker they may come unseen; but the consumer buries every letter
# that set out longer ago than `DEDUPE_HORIZON`, which is shorter than `INBOX_RETENTION`, so none of those can find
# its key gone. And what a service has still under way keeps its keys, so that its story can be told to the end.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from .consumers import model_of
from .ids import floor7
from .models import DeadLetter

BATCH = 1000
PATIENCE = timedelta(seconds=5)  # a table in one run: the next tick goes on


def purge(service: str, *, now: datetime) -> dict[str, int]:
    """Delete what this service need not remember any longer; how many rows of each kind."""
    return {
        "published": _delete(service, lambda: _published(service, now=now)),
        "handled": _delete(service, lambda: _handled(service, now=now)),
        "resolved": _delete(service, lambda: _resolved(service, now=now)),
    }


def _published(service: str, *, now: datetime) -> QuerySet[Any]:
    before = now - settings.OUTBOX_RETENTION
    rows: QuerySet[Any] = model_of(service, "Outgoing").objects.filter(pk__lt=floor7(before), published_at__lt=before)
    return rows


def _handled(service: str, *, now: datetime) -> QuerySet[Any]:
    before = now - settings.INBOX_RETENTION
    incoming = model_of(service, "Incoming")
    unsent = model_of(service, "Outgoing").objects.filter(published_at=None, message_id=OuterRef("pk"))
    dead = model_of(service, "DeadLetter").objects.filter(message_id=OuterRef("pk"))
    rows: QuerySet[Any] = incoming.objects.filter(
        ~Exists(unsent), ~Exists(dead), pk__lt=floor7(before), handled_at__lt=before
    )
    under_way = incoming.open_work(OuterRef("subject"))
    return rows if under_way is None else rows.filter(Q(subject="") | ~Exists(under_way))


def _resolved(service: str, *, now: datetime) -> QuerySet[Any]:
    # A dead letter that was replayed keeps its key until no copy of the replay can be on its way any longer.
    before = now - settings.INBOX_RETENTION
    rows: QuerySet[Any] = model_of(service, "DeadLetter").objects.filter(pk__lt=floor7(before), resolved_at__lt=before)
    return rows.exclude(status=DeadLetter.Status.DEAD)


def _delete(service: str, rows: Callable[[], QuerySet[Any]]) -> int:
    """Delete these rows in the order of their keys; rows that somebody holds are left for another time."""
    deleted, last = 0, UUID(int=0)
    give_up_at = time.monotonic() + PATIENCE.total_seconds()
    while time.monotonic() < give_up_at:
        with transaction.atomic(using=service):
            batch = list(
                rows()
                .filter(pk__gt=last)
                .order_by("pk")
                .select_for_update(skip_locked=True, of=("self",))
                .values_list("pk", flat=True)[:BATCH]
            )
            rows().model._base_manager.filter(pk__in=batch)._raw_delete(service)
        deleted += len(batch)
        if len(batch) < BATCH:
            break
        last = batch[-1]
    return deleted
