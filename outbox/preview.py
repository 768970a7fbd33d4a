"""
What a dead letter would do: its handler runs on it, and everything it did is read and rolled back.

# Note [How the changes are found]: every row that a transaction has written carries the transaction's number. So
# whatever wrote it, the ORM, raw SQL or a trigger, is seen, without triggers or locks of our own. The handler runs
# in a savepoint; after it is rolled back, the same rows are read as they were.
"""

import contextlib
import json
import traceback
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import connections, transaction
from django.utils import timezone
from django.utils.translation import gettext as _g

from common.errors import Refusal

from . import context
from .consumers import CONSUMERS, Consumer, Undeliverable, context_of, failure
from .message import Letter, Message, Unreadable
from .models import DeadLetter

STATEMENT_TIMEOUT = "15s"
OUTGOING, INCOMING = "outbox_outgoingmessage", "outbox_incomingmessage"
SAID = ("type", "to", "subject", "data", "due_at")


class NoPreview(Refusal):
    """This letter can't be run: it can't be read, or its handler isn't in this service."""

    code = "no_preview"


@dataclass(frozen=True)
class Change:
    """One row before and after; an inserted row has no before, a deleted one no after."""

    table: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass
class Preview:
    """What would happen."""

    changes: list[Change] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    traceback: str = ""
    fingerprint: str = ""
    same_failure: bool = False  # it would die of the same thing again
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Undo(Exception):
    pass


def preview(dead: DeadLetter) -> Preview:
    """
    Run the handler on this letter in a transaction of the service's database that is rolled back.

    A foreign service that the handler asks first is not asked: the handler goes on without its answer.

    :raises NoPreview: if there is nothing to run
    """
    consumer, letter, message = _handler_of(dead)
    shown = Preview()
    if consumer.first is not None:
        shown.notes.append(_g("The foreign service is not asked; this is what happens without its answer."))
    with transaction.atomic(using=consumer.service), connections[consumer.service].cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [STATEMENT_TIMEOUT])
        cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        (since,) = cursor.fetchone()
        written: list[_Written] = []
        with contextlib.suppress(_Undo), transaction.atomic(using=consumer.service):
            counted = _tables(cursor)
            _run(consumer, letter, message, shown)
            written += _written(cursor, since=since, counted=counted)
            raise _Undo
        for table in written:
            _tell(table, shown, cursor, since=since)
        transaction.set_rollback(True, using=consumer.service)
    shown.same_failure = bool(shown.error) and shown.fingerprint == dead.fingerprint
    return shown


def _handler_of(dead: DeadLetter) -> tuple[Consumer, Letter, Message]:
    service = dead._state.db
    try:
        letter = dead.letter()
        consumer = CONSUMERS.get(letter.type)
        if consumer is None or consumer.service != service or dead.origin == DeadLetter.Origin.RELAY:
            raise NoPreview(_g("%(type)s has no handler in %(service)s.") % {"type": letter.type, "service": service})
        return consumer, letter, letter.read()
    except Unreadable as refusal:
        raise NoPreview(_g("It can't be read: %(why)s") % {"why": refusal}) from refusal


def _run(consumer: Consumer, letter: Letter, message: Message, shown: Preview) -> None:
    try:
        with transaction.atomic(using=consumer.service), context.acting(context_of(letter)):
            if not consumer.incoming.first_time(letter, received_at=timezone.now()):
                shown.notes.append(_g("It has had its effect before: a replay does nothing."))
            elif consumer.first is None:
                consumer.handle(message)
            else:
                consumer.handle(message, None)
            connections[consumer.service].check_constraints()
    except Exception as error:
        shown.error = f"{type(error).__name__}: {error}"
        shown.traceback = "".join(traceback.format_exception(error))
        reason = error.code if isinstance(error, Undeliverable | Unreadable) else "failed"
        shown.fingerprint = failure(letter.type, reason, error)


@dataclass(frozen=True)
class _Written:
    """A table that was written to: its new rows, whether some were deleted, and then also which were only locked."""

    name: str
    rows: list[dict[str, Any]]
    deleted: bool
    locked: list[dict[str, Any]]


# Whether this number is of a transaction from `since` on with this status: it tells ours from those of others that
# have committed meanwhile. `age` counts backwards and knows that numbers wrap around.
_OURS = """
    CASE WHEN age({number}) <= age(%(since)s::xid8::xid) AND {bound} THEN pg_xact_status(
        (%(since)s::numeric + age(%(since)s::xid8::xid)::bigint - age({number})::bigint)::text::xid8
    ) = '{status}' ELSE false END
"""
_WRITTEN_BY_US = _OURS.format(number="xmin", bound="true", status="in progress")
_TAKEN_BY_US = _OURS.format(  # xmax can be another kind of number, in another range
    number="xmax",
    bound="age(xmax) >= age(pg_snapshot_xmax(pg_current_snapshot())::xid)",
    status="aborted",
)


def _tables(cursor: Any) -> dict[str, tuple[int, int]]:
    """How many rows have been written and deleted by table."""
    cursor.execute(
        "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del, n_tup_del FROM pg_stat_xact_user_tables"
        " WHERE schemaname = current_schema() ORDER BY relname"
    )
    return {name: (written, deleted) for name, written, deleted in cursor.fetchall()}


def _written(cursor: Any, *, since: str, counted: dict[str, tuple[int, int]]) -> list[_Written]:
    found = []
    for name, (written, deleted) in _tables(cursor).items():
        before = counted.get(name, (0, 0))
        if written > before[0]:
            rows = _rows(name, cursor, where=_WRITTEN_BY_US, since=since)
            gone = deleted > before[1]
            locked = _rows(name, cursor, where="age(xmax) <= age(%(since)s::xid8::xid)", since=since) if gone else []
            found.append(_Written(name, rows, gone, locked))
    return found


def _rows(table: str, cursor: Any, *, where: str, **parameters: Any) -> list[dict[str, Any]]:
    cursor.execute(f'SELECT to_jsonb(t) FROM "{table}" t WHERE {where}', parameters)  # noqa: S608 - the catalogue's name
    return [json.loads(row) for (row,) in cursor.fetchall()]


def _tell(table: _Written, shown: Preview, cursor: Any, *, since: str) -> None:
    """Put the rows of a table beside what they were."""
    if table.name == INCOMING:
        return
    if table.name == OUTGOING:
        shown.messages += [{name: row[name] for name in SAID} for row in table.rows]
        return
    primary = _key(table.name, cursor)
    if primary is None:
        shown.changes += [Change(table.name, None, row) for row in table.rows]
        return
    key, kind = primary
    keys = [str(row[key]) for row in table.rows]
    befores = _rows(table.name, cursor, where=f'"{key}" = ANY(%(keys)s::{kind}[])', keys=keys)
    before = {row[key]: row for row in befores}
    shown.changes += [Change(table.name, before.get(row[key]), row) for row in table.rows]
    if table.deleted:
        stayed = before.keys() | {row[key] for row in table.locked}
        taken = _rows(table.name, cursor, where=_TAKEN_BY_US, since=since)
        shown.changes += [Change(table.name, row, None) for row in taken if row[key] not in stayed]


def _key(table: str, cursor: Any) -> tuple[str, str] | None:
    """The primary key of a table, and its type, if it has one."""
    cursor.execute(
        "SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_index i"
        " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
        " WHERE i.indrelid = to_regclass(quote_ident(%s)) AND i.indisprimary",
        [table],
    )
    found: tuple[str, str] | None = cursor.fetchone()
    return found
