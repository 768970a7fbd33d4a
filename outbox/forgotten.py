"""
Messages that were handled and that no outbox knows: their sender was set back to a moment before it posted them.

# Note [Known again, without what it said]: an inbox keeps the type of a message and what it was about, not its data.
So the row that its sender gets is there to be counted and shown. It is as good as published; if it had to be sent again
after all, because its receiver is set back as well, it would be a dead letter, for a person to look at.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connections, transaction

from . import conf
from .envelope import Envelope
from .ids import floor7, time7
from .message import EVENTS
from .models import OutgoingMessage
from .services import database_of, model_of
from .store import Rows

PAGE = 10_000
NOTE = "recovered: it was handled, and what it said is lost"
HANDLED = """
SELECT message_id, type, subject, handled_at FROM outbox_incomingmessage
WHERE handled_at < %s AND message_id > %s ORDER BY message_id LIMIT %s
"""
POSTED = "SELECT id FROM outbox_outgoingmessage WHERE id = ANY(%s)"  # a message has the id of the row that posted it


@dataclass(frozen=True)
class Handled:
    """A message that `receiver` has handled."""

    receiver: str
    message_id: UUID
    type: str
    subject: str
    handled_at: datetime


def find(
    receivers: Collection[str], senders: Collection[str], *, since: datetime, until: datetime
) -> Iterator[Handled]:
    """
    Yield each message that one of `receivers` has handled before `until`, and none of `senders` has posted.

    :param since: when the first of them was posted, at the earliest: ids of messages have the time when they were
    """
    for receiver in receivers:
        after = floor7(since)
        while page := [Handled(receiver, *row) for row in _rows(receiver, HANDLED, until, after, PAGE)]:
            unknown = {one.message_id for one in page}
            for sender in senders:
                unknown -= {one for (one,) in _rows(sender, POSTED, list(unknown))}
            yield from (one for one in page if one.message_id in unknown)
            after = page[-1].message_id


def remember(sender: str, found: Sequence[Handled]) -> int:
    """Let the outbox of `sender` know these messages again; return how many it did not know."""
    outgoing, using = model_of(sender, "Outgoing"), database_of(sender)
    with transaction.atomic(using=using):
        return sum(
            len(Rows(using).insert_new(*(_row(outgoing, one) for one in found[begin : begin + 500])))
            for begin in range(0, len(found), 500)
        )


def remember_events(sender: str, events: Sequence[Envelope], *, now: datetime) -> int:
    """
    Let the outbox of `sender` know events again that were read where they were told; return how many it did not know.

    Call it in a transaction of that service.
    """
    outgoing = model_of(sender, "Outgoing")
    rows = [outgoing.of(one, id=UUID(one.id), to=EVENTS, due_at=one.sent_at, published_at=now) for one in events]
    return len(Rows(database_of(sender)).insert_new(*rows)) if rows else 0


def _row(outgoing: type[OutgoingMessage], one: Handled) -> OutgoingMessage:
    posted_at = time7(one.message_id)
    return outgoing(
        id=one.message_id,
        message_id=one.message_id,
        type=one.type,
        subject=one.subject,
        to=one.receiver,
        data={conf.OUTBOX_SUBJECT_FIELD: one.subject} if conf.OUTBOX_SUBJECT_FIELD else {},
        correlation_id=str(one.message_id),
        created_at=posted_at,
        due_at=posted_at,
        published_at=one.handled_at,
        last_error=NOTE,
    )


def _rows(service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connections[database_of(service)].cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())
