"""
What replaying a dead letter would do: its handler runs, and everything that it did is read and rolled back.

# Note [How the changes are found]: every row that a transaction has written carries the transaction's number. So
# whatever wrote it, the ORM, raw SQL or a trigger, is found, without triggers or locks of our own. The handler runs
# in a savepoint; after it is rolled back, the same rows are read as they were.
"""

import contextlib
import json
import traceback
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from django.db import connections, transaction
from django.utils.translation import gettext as _g

from . import clock, context, corrections
from .consumers import CONSUMERS, Consumer, alike
from .dead_letter_models import fingerprint
from .envelope import Envelope
from .errors import CodedError, OutboxError, Unreadable
from .message import Message
from .models import DeadLetter, IncomingMessage, OutgoingMessage

STATEMENT_TIMEOUT = "15s"
OUTGOING, INCOMING = OutgoingMessage._meta.db_table, IncomingMessage._meta.db_table
MESSAGE_COLUMNS = ("type", "to", "subject", "data", "due_at")


class NoPreview(OutboxError):
    """The message can't be handled here: it can't be read, or its handler isn't in this service."""

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
    same_failure: bool = False  # as that of the dead letter
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Undo(Exception):
    pass


def preview(dead: DeadLetter, *, data: Any = None) -> Preview:
    """
    Run the handler of this message in a transaction of the service's database that is rolled back.

    A foreign service that is to be called before the handler is not called: the handler gets None as its answer.

    :param data: the corrected data of the message; None: as they are
    :raises NoPreview: if there is nothing to run
    :raises NotCorrectable: if the corrected data are not those of such a message
    """
    consumer, envelope, message = _handler_of(dead, data)
    shown = Preview()
    if consumer.first is not None:
        shown.notes.append(_g("The foreign service is not called; this is what happens without its answer."))
    using = consumer.database
    with transaction.atomic(using=using), connections[using].cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [STATEMENT_TIMEOUT])
        cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        (since,) = cursor.fetchone()
        written: list[_Written] = []
        with contextlib.suppress(_Undo), transaction.atomic(using=using):
            counted = _tables(cursor)
            _run(consumer, envelope, message, shown)
            written += _written(cursor, since=since, counted=counted)
            raise _Undo
        for table in written:
            _compare(table, shown, cursor, since=since)
        transaction.set_rollback(True, using=using)
    shown.same_failure = bool(shown.error) and shown.fingerprint == dead.fingerprint
    return shown


def _handler_of(dead: DeadLetter, data: Any) -> tuple[Consumer, Envelope, Message]:
    service = dead._meta.app_label
    try:
        envelope = dead.envelope()
        if data is not None:
            envelope = corrections.correct(envelope, data)
        consumer = CONSUMERS.get(envelope.type)
        if consumer is None or consumer.service != service or dead.origin == DeadLetter.Origin.RELAY:
            raise NoPreview(_g("%(type)s has no handler in %(service)s.") % {"type": envelope.type, "service": service})
        return consumer, envelope, envelope.message()
    except Unreadable as refusal:
        raise NoPreview(_g("It can't be read: %(why)s") % {"why": refusal}) from refusal


def _run(consumer: Consumer, envelope: Envelope, message: Message, shown: Preview) -> None:
    try:
        with transaction.atomic(using=consumer.database), context.acting(replace(envelope.context, is_replay=True)):
            if not consumer.incoming.record(envelope, received_at=clock.now(consumer.database)):
                shown.notes.append(_g("It has had its effect before: a replay does nothing."))
            elif consumer.first is None:
                consumer.handle(message)
            else:
                consumer.handle(message, None)
            connections[consumer.database].check_constraints()
    except Exception as error:
        shown.error = f"{type(error).__name__}: {error}"
        shown.traceback = "".join(traceback.format_exception(error))
        reason = error.code if isinstance(error, CodedError) else "failed"
        shown.fingerprint = fingerprint(envelope.type, reason, *alike(error))


@dataclass(frozen=True)
class _Written:
    """A table that was written to: its new rows, whether some were deleted, and if so which were only locked."""

    name: str
    rows: list[dict[str, Any]]
    deleted: bool
    locked: list[dict[str, Any]]


# Whether this number is of a transaction from `since` on with this status: that distinguishes ours from others that
# have committed meanwhile. `age` counts backwards and takes into account that numbers wrap around.
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
    """Return how many rows have been written and deleted, by table; of one in partitions, those of all of them."""
    cursor.execute(
        "SELECT pg_class.relname, sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint, sum(n_tup_del)::bigint"
        " FROM pg_stat_xact_user_tables AS part JOIN pg_class ON oid = coalesce(pg_partition_root(relid), relid)"
        " WHERE schemaname = current_schema() GROUP BY 1 ORDER BY 1"
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


def _compare(table: _Written, shown: Preview, cursor: Any, *, since: str) -> None:
    """Add the changes of a table to the preview."""
    if table.name == INCOMING:
        return
    if table.name == OUTGOING:
        shown.messages += [{name: row[name] for name in MESSAGE_COLUMNS} for row in table.rows]
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
    """Return the primary key of a table and its type, if it has one."""
    cursor.execute(
        "SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_index i"
        " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
        " WHERE i.indrelid = to_regclass(quote_ident(%s)) AND i.indisprimary",
        [table],
    )
    found: tuple[str, str] | None = cursor.fetchone()
    return found
