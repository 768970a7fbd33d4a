"""
Making outbox and inbox partitioned by day, and back, while everybody uses them: run by their owner.

Today's table becomes the partition of all that comes before a midnight to come. That it holds nothing else is promised
by a constraint that is validated while the table is read and written; so to attach it takes an instant, however large
it is. All that excludes others is one round trip and gives up at once where it gets no lock.

# Note [A promise that is left behind]: after that midnight the constraint would refuse every row. So who converts holds
an advisory lock, and `outbox_make_days`, which workers call, drops the constraint where nobody holds it.

# Note [Back]: rows of many partitions become one table only by moving. So no more days are made: what comes goes to the
rest, and days go as ever. What is small moves there at once. When only the rest is left, it takes the table's place.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connections
from psycopg import sql

from .by_day import AHEAD, LATE, ByDay
from .errors import OutboxError
from .ids import floor7
from .patient_ddl import WAIT, run

COLUMNS = {"outbox_outgoingmessage": ("id", "published_at"), "outbox_incomingmessage": ("message_id", "handled_at")}
TABLES = tuple(COLUMNS)
LONGEST = "10h"  # for a statement: there are two long ones, and a day until the promise would refuse rows
SMALL = 16 * 1024 * 1024  # bytes of a partition that moves at once
NO_MORE_DAYS = "no more days"  # the comment that outbox_make_days looks for

IS_PARTITIONED = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)"
IN_THE_WAY = """
SELECT 'the trigger ' || tgname FROM pg_trigger WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal
UNION ALL SELECT 'the foreign key ' || conname FROM pg_constraint
WHERE contype = 'f' AND %(table)s::regclass IN (conrelid, confrelid)
UNION ALL SELECT 'the index ' || indexrelid::regclass FROM pg_index
WHERE indrelid = %(table)s::regclass AND (NOT indisvalid OR indisunique AND NOT indisprimary)
UNION ALL SELECT DISTINCT 'the view ' || ev_class::regclass FROM pg_rewrite JOIN pg_depend ON objid = pg_rewrite.oid
WHERE refobjid = %(table)s::regclass AND classid = 'pg_rewrite'::regclass AND ev_class <> %(table)s::regclass
"""
INDEXES = """
SELECT relname, pg_get_indexdef(indexrelid), indisprimary FROM pg_index JOIN pg_class ON oid = indexrelid
WHERE indrelid = %s::regclass AND relname <> %s ORDER BY relname
"""
INDEXES_OF_REST = """
SELECT mine.relname, whole.relname FROM pg_index
JOIN pg_inherits ON inhrelid = indexrelid
JOIN pg_class AS mine ON mine.oid = inhrelid JOIN pg_class AS whole ON whole.oid = inhparent
WHERE indrelid = %s::regclass
"""
RIGHTS = """
SELECT format('GRANT %%s%%s ON %%I TO %%s%%s', privilege_type, columns, %(table)s,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
    CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
FROM (
    SELECT relowner, '' AS columns, acl.* FROM pg_class, aclexplode(relacl) AS acl WHERE oid = %(table)s::regclass
    UNION ALL
    SELECT relowner, format(' (%%I)', attname), acl.*
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl) AS acl
    WHERE pg_class.oid = %(table)s::regclass
) AS granted WHERE grantee <> relowner
"""
POLICIES = """
SELECT format('ALTER TABLE %%I ENABLE ROW LEVEL SECURITY', %(table)s)
FROM pg_class WHERE oid = %(table)s::regclass AND relrowsecurity
UNION ALL
SELECT format('ALTER TABLE %%I FORCE ROW LEVEL SECURITY', %(table)s)
FROM pg_class WHERE oid = %(table)s::regclass AND relforcerowsecurity
UNION ALL
SELECT format('CREATE POLICY %%I ON %%I AS %%s FOR %%s TO %%s', policyname, %(table)s, permissive, cmd,
        (SELECT string_agg(CASE role WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(role) END, ', ')
         FROM unnest(roles) AS role))
    || coalesce(' USING (' || qual || ')', '') || coalesce(' WITH CHECK (' || with_check || ')', '')
FROM pg_policies WHERE schemaname = 'public' AND tablename = %(table)s
"""
OPTIONS = "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = %s::regclass"
SAMPLES = """
SELECT string_agg(format('ALTER COLUMN %%I SET STATISTICS %%s', attname, attstattarget), ', ')
FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attstattarget >= 0
"""
TURN = "hashtextextended('by day: ' || %s, 0)"


class CannotConvert(OutboxError):
    """The table cannot be partitioned by day, or not be made one again, as it is."""

    code = "cannot_convert"


Say = Callable[[str], None]


def convert(using: str, table: str, *, now: datetime, say: Say) -> None:
    """
    Partition a table by day, unless it is.

    It can be stopped at any point, and be run again.

    :raises CannotConvert: if it cannot be, or if somebody else is doing so
    """
    with _turn(using, table):
        if _only(using, IS_PARTITIONED, table):
            run(using, _format("COMMENT ON TABLE {} IS NULL", table))
            ByDay.of(using, table).make(now=now)
            say(f"{table}: is partitioned by day")
            return
        key, stamp = COLUMNS[table]
        midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=AHEAD)
        bound = floor7(midnight)
        promise, late = f"{table}_by_day", f"{table}_before_late"
        run(using, _format("DROP INDEX CONCURRENTLY IF EXISTS {}", late), seconds=WAIT)
        _ensure_possible(using, table, key, bound)
        try:
            run(using, _format("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", table, promise))
            run(
                using, _format("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} < {}) NOT VALID", table, promise, key, bound)
            )
            say(f"{table}: is read once, which takes a while; nobody waits")
            run(
                using,
                _format(
                    "CREATE INDEX CONCURRENTLY {} ON {} ({}) WHERE {} >= {}", late, table, key, stamp, midnight + LATE
                ),
                seconds=WAIT,
            )
            run(using, _format("ALTER TABLE {} VALIDATE CONSTRAINT {}", table, promise), seconds=WAIT)
            if clock_is_past(using, midnight - timedelta(hours=1)):
                raise CannotConvert(
                    f"{table} took too long: it was to be ready an hour before {midnight:%Y-%m-%d %H:%M}."
                )
            run(
                using,
                *_swap(using, table, bound=bound, late=late),
                _format("SELECT outbox_make_days({}, {})", (table,), (midnight.date(),)),
            )
        except BaseException:
            # If this fails too, what workers call does it.
            run(using, _format("ALTER TABLE ONLY {} DROP CONSTRAINT IF EXISTS {}", table, promise))
            raise
        run(using, _format("ANALYZE {}", table), seconds=WAIT)
        say(f"{table}: is partitioned by day; {table}_before has what comes before {midnight:%Y-%m-%d}")


def revert(using: str, table: str, *, at_once: bool, say: Say) -> bool:
    """
    Make a table one again, unless it is; return false if days are left, which have to go first.

    :param at_once: move the rows of all days, however many there are, while everybody waits
    :raises CannotConvert: if somebody else is doing so
    """
    with _turn(using, table):
        if not _only(using, IS_PARTITIONED, table):
            say(f"{table}: is one table")
            return True
        run(using, _format("COMMENT ON TABLE {} IS {}", table, (NO_MORE_DAYS,)))
        for part in ByDay.of(using, table).parts:
            if at_once or _only(using, "SELECT pg_relation_size(%s::regclass)", part.name) <= SMALL:
                run(
                    using,
                    _format("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", table),
                    _format("ALTER TABLE {} DETACH PARTITION {}", table, part.name),
                    _format("INSERT INTO {} SELECT * FROM {}", table, part.name),
                    _format("DROP TABLE {}", part.name),
                )
        if left := ByDay.of(using, table).parts:
            say(f"{table}: waits for {', '.join(part.name for part in left)} to go; run this again then")
            return False
        run(using, *_swap_back(using, table))
        run(using, _format("ANALYZE {}", table), seconds=WAIT)
        say(f"{table}: is one table")
        return True


def clock_is_past(using: str, moment: datetime) -> bool:
    return bool(_only(using, "SELECT clock_timestamp() >= %s", moment))


def _ensure_possible(using: str, table: str, key: str, bound: UUID) -> None:
    if found := [what for (what,) in _rows(using, IN_THE_WAY, {"table": table})]:
        raise CannotConvert(f"{table} has what is not carried over: {', '.join(found)}.")
    number, example = _rows(using, f"SELECT count(*), min({key}::text) FROM {table} WHERE {key} >= %s", [bound])[0]  # noqa: S608
    if number:
        raise CannotConvert(f"{table} has {number} rows whose ids are no UUIDv7 of the past, such as {example}.")


def _swap(using: str, table: str, *, bound: UUID, late: str) -> Iterator[sql.Composed]:
    before, rest = f"{table}_before", f"{table}_rest"
    indexes = _rows(using, INDEXES, [table, late])
    options, samples = _only(using, OPTIONS, table), _only(using, SAMPLES, table)
    rights = _rights(using, table)
    yield _format("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table)
    yield _format("ALTER TABLE {} RENAME TO {}", table, before)
    for name, _definition, _is_primary in indexes:
        yield _format("ALTER INDEX {} RENAME TO {}", name, f"{name[:56]}_before")
    yield _format(
        "CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE ({})",
        table,
        before,
        COLUMNS[table][0],
    )
    yield _format("ALTER TABLE {} DROP CONSTRAINT {}", table, f"{table}_by_day")
    for name, definition, is_primary in indexes:
        yield (
            _format("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY ({})", table, name, COLUMNS[table][0])
            if is_primary
            else sql.Composed([sql.SQL(definition)])
        )
    yield from rights
    yield _format("CREATE TABLE {} (LIKE {} INCLUDING ALL)", rest, table)
    if options:
        yield _format("ALTER TABLE {} SET ({})", rest, sql.SQL(options))
    yield _format("ALTER TABLE {} ATTACH PARTITION {} DEFAULT", table, rest)
    yield _format("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM (MINVALUE) TO ({})", table, before, bound)
    if samples:
        yield _format("ALTER TABLE {} {}", table, sql.SQL(samples))
    yield _format("ALTER TABLE {} DROP CONSTRAINT {}", before, f"{table}_by_day")


def _swap_back(using: str, table: str) -> Iterator[sql.Composed]:
    rest = f"{table}_rest"
    indexes = _rows(using, INDEXES_OF_REST, [rest])
    rights = _rights(using, table)
    yield _format("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", table)
    yield _format("ALTER TABLE {} DETACH PARTITION {}", table, rest)
    yield _format("DROP TABLE {}", table)
    yield _format("ALTER TABLE {} RENAME TO {}", rest, table)
    for mine, whole in indexes:
        yield _format("ALTER INDEX {} RENAME TO {}", mine, whole)
    yield from rights


def _rights(using: str, table: str) -> list[sql.Composed]:
    """Read, before a swap, who may do what with a table: the statements that say so of the one that takes its place."""
    found = (one for query in (RIGHTS, POLICIES) for (one,) in _rows(using, query, {"table": table}))
    return [sql.Composed([sql.SQL(one)]) for one in found]


def _format(template: str, *parts: Any) -> sql.Composed:
    """SQL with names (texts), values (in a tuple of one, or no texts) and SQL in its places."""

    def part(one: Any) -> sql.Composable:
        match one:
            case str():
                return sql.Identifier(one)
            case sql.Composable():
                return one
            case tuple():
                return sql.Literal(one[0])
            case UUID():
                return sql.Literal(str(one))
            case _:
                return sql.Literal(one)

    return sql.SQL(template).format(*map(part, parts))


@contextmanager
def _turn(using: str, table: str) -> Iterator[None]:
    """Run the block while nobody else converts this table, and no worker makes days of it."""
    if not _only(using, f"SELECT pg_try_advisory_lock({TURN})", table):
        raise CannotConvert(f"Somebody else is changing {table} at the moment.")
    try:
        with connections[using].cursor() as cursor:
            cursor.execute(f"SET statement_timeout = '{LONGEST}'")
        yield
    finally:
        with connections[using].cursor() as cursor:
            cursor.execute("RESET statement_timeout")
            cursor.execute("RESET lock_timeout")
        _only(using, f"SELECT pg_advisory_unlock({TURN})", table)


def _rows(using: str, query: str, parameters: Any) -> list[tuple[Any, ...]]:
    with connections[using].cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())


def _only(using: str, query: str, parameter: Any) -> Any:
    """Return the one value of a query."""
    return _rows(using, query, [parameter])[0][0]
