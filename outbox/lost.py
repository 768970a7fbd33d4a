"""
Messages that were sent and that their receiver has not got: because the broker lost them, or because the database of
the receiver is that of an earlier moment.

# Note [Sending again is safe]: the same message is sent, under the id and the due time that it has always had. If a
copy of it turns up after all, the inbox drops one of the two; and what is older than the inbox remembers is handled by
nobody unseen, as ever (see retention.py).

# Note [The last copy]: a message that failed, waits for another release or was replayed was sent again by its receiver,
which may have corrected it. The last copy is the one to send; and while that one waits to be sent, nothing is lost.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connections, transaction

from . import clock
from .due_rows import BEGINNING
from .message import EVENTS
from .models import OutgoingMessage
from .notifications import WakeUp
from .services import database_of, model_of

PAGE = 10_000
BATCH = 500  # rows that are locked at a time
CHANGED = ("published_at", "first_due_at", "due_at", "publish_attempts", "refusals", "last_error")
NIL = UUID(int=0)
SENT = """
SELECT id, message_id, "to", type, subject FROM outbox_outgoingmessage
WHERE published_at >= %s AND published_at < %s AND "to" = ANY(%s) AND id > %s ORDER BY id LIMIT %s
"""
NOT_HERE = """
SELECT asked FROM unnest(%s::uuid[]) AS asked
WHERE NOT EXISTS (SELECT 1 FROM outbox_incomingmessage AS seen WHERE seen.message_id = asked)
  AND NOT EXISTS (SELECT 1 FROM outbox_deadletter AS dead WHERE dead.message_id = asked AND dead.status <> 'replayed')
"""
COPIES = """
SELECT DISTINCT ON (message_id) message_id, id, published_at < %s FROM outbox_outgoingmessage
WHERE id > %s AND message_id = ANY(%s) AND id <> message_id ORDER BY message_id, attempt DESC, id DESC
"""


@dataclass(frozen=True)
class Sent:
    """A message that was sent, and the row of the outbox of `sender` that sends it again."""

    sender: str
    receiver: str
    row_id: UUID
    message_id: UUID
    type: str
    subject: str


def find(
    senders: Iterable[str],
    receivers: Collection[str],
    *,
    since: datetime = BEGINNING,
    until: datetime,
    after: UUID = NIL,
) -> Iterator[Sent]:
    """
    Yield each message that one of these services has sent, and its receiver has neither handled nor as a dead letter.

    :param since: when the first of them was confirmed by the broker, at the earliest
    :param until: and the last one, which should be a while ago: what waits in a queue is not lost
    :param after: only messages that were posted later than this one
    """
    found: set[UUID] = set()
    for sender in senders:
        for page in _pages(sender, receivers, since=since, until=until, after=after):
            for receiver in receivers:
                sent = {one.message_id: one for one in page if one.receiver == receiver}
                missing = unhandled(receiver, list(sent)) - found
                found |= missing
                copies = _copies(receiver, missing, until=until)
                for message_id in sorted(missing):
                    row_id, is_lost = copies.get(message_id, (None, True))
                    if row_id is not None:
                        sent[message_id] = replace(sent[message_id], sender=receiver, row_id=row_id)
                    if is_lost:
                        yield sent[message_id]


def unhandled(receiver: str, message_ids: Collection[UUID]) -> set[UUID]:
    """Return those of these messages that this service has neither handled nor keeps as dead letters."""
    return {one for (one,) in _rows(receiver, NOT_HERE, list(message_ids))} if message_ids else set()


def events(sender: str, *, since: datetime, until: datetime) -> Iterator[Sent]:
    """Yield the events that `sender` has published in this time; which of them somebody has got, nobody knows here."""
    for page in _pages(sender, [EVENTS], since=since, until=until, after=NIL):
        yield from page


def send_again(service: str, row_ids: Sequence[UUID]) -> int:
    """Have the relay send these rows of a service again; return how many of them it will: not those it will anyway."""
    outgoing, using, number = model_of(service, "Outgoing"), database_of(service), 0
    for begin in range(0, len(row_ids), BATCH):
        with transaction.atomic(using=using):
            rows = list(
                outgoing.objects.select_for_update().filter(
                    pk__in=row_ids[begin : begin + BATCH], published_at__isnull=False
                )
            )
            _make_due(rows, now=clock.now(using))
            outgoing.objects.bulk_update(rows, CHANGED)
            if rows:
                WakeUp.after_commit(using)
        number += len(rows)
    return number


def _make_due(rows: Sequence[OutgoingMessage], *, now: datetime) -> None:
    for row in rows:
        row.first_due_at = row.sent_since()
        row.due_at, row.published_at, row.last_error = now, None, ""
        row.publish_attempts = row.refusals = 0


def _pages(
    sender: str, receivers: Collection[str], *, since: datetime, until: datetime, after: UUID
) -> Iterator[list[Sent]]:
    while rows := _rows(sender, SENT, since, until, list(receivers), after, PAGE):
        yield [Sent(sender, to, row_id, message_id, *about) for row_id, message_id, to, *about in rows]
        after = rows[-1][0]


def _copies(receiver: str, message_ids: set[UUID], *, until: datetime) -> dict[UUID, tuple[UUID, bool]]:
    """Return the last copy that the receiver has sent to itself, and whether it was sent before `until`."""
    if not message_ids:
        return {}
    rows = _rows(receiver, COPIES, until, min(message_ids), list(message_ids))
    return {message_id: (row_id, bool(is_sent)) for message_id, row_id, is_sent in rows}


def _rows(service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connections[database_of(service)].cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())
