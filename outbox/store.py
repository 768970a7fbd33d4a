"""
Rows without the query builder, and several statements in one round trip: for the few hot paths of a system.

# Note [Why not query sets here]: building one costs several times what it costs to run it, and each statement on its
# own costs a round trip. The hot paths write their SQL; everything else uses the ORM. Columns come from the models.

# Note [Prepared where a session may keep it]: parsing and planning a small statement costs more than running it. What
# runs alone is sent without its parameters in its text, and psycopg has a session prepare it once it has run it a few
# times: `prepare_threshold` in the options of a database. Without that nothing is prepared, as behind PgBouncer in
# transaction mode. Several statements that only store rows, each in a table of its own, become one.
#
# Note [No pipeline]: it would prepare several statements in one round trip as well. But between two messages of a
# pipeline no limit of the server runs, and psycopg sends one more behind its end, for which the server stops the limit
# of an idle transaction. A process that is frozen there would keep its locks for ever. So a round trip is sent at once.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, lru_cache
from types import NoneType
from typing import Any, NamedTuple, Self, TypeVar
from uuid import UUID

import psycopg
from django.db import NotSupportedError, connections, models, transaction
from psycopg.adapt import Transformer

Row = TypeVar("Row", bound=models.Model)
FEW = 200  # parameters; a statement with more of them stores many rows, and hardly ever as many again
MOST = 30_000  # parameters that are sent apart from the text; the protocol has twice as many


class Statement(NamedTuple):
    """SQL and its parameters."""

    sql: str
    parameters: Sequence[Any]
    table: str = ""  # in which it stores rows, if it reads no other


class Column(NamedTuple):
    """A column of a model that statements store values in."""

    field: Any
    name: str  # of the attribute
    unchanged: Collection[type]  # types of values that are stored as they are
    read: Callable[[Any, Any, Any], Any] | None  # what makes a value of that which is stored, where they differ


@cache
def _columns(kind: type[models.Model], *, given: bool = False) -> tuple[tuple[Column, ...], str]:
    """The columns of a model, and their names in SQL; `given` leaves out those that the database numbers."""
    fields = [f for f in kind._meta.concrete_fields if not (given and isinstance(f, models.AutoField))]
    return tuple(map(_column, fields)), ", ".join(f'"{field.column}"' for field in fields)


@cache
def _column(field: Any) -> Column:
    """The column of a field."""
    is_set_here = getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
    unchanged = () if is_set_here else UNCHANGED.get(type(field), ())
    return Column(field, field.attname, unchanged, getattr(field, "from_db_value", None))


@dataclass(frozen=True)
class Rows:
    """The rows of one database."""

    using: str

    def select(self, kind: type[Row], where: str, *parameters: Any, **more: str) -> list[Row]:
        """
        Return the rows of a model.

        :param where: `WHERE …` and what may follow it
        :param more: further attributes to set, each with its SQL
        """
        columns, names = _columns(kind)
        selected = ", ".join([names, *more.values()])
        found = self.fetch(f'SELECT {selected} FROM "{kind._meta.db_table}" {where}', *parameters)
        return [self._read(kind, columns, values, more) for values in found]

    def first(self, kind: type[Row], where: str, *parameters: Any, **more: str) -> Row | None:
        """Return the first of the rows that `select` returns, if there is one."""
        found = self.select(kind, where, *parameters, **more)
        return found[0] if found else None

    def fetch(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return what one query finds."""
        with self._prepared(sql, parameters) as cursor:
            return list(cursor.fetchall())

    def _read(self, kind: type[Row], columns: Sequence[Column], values: Sequence[Any], more: Iterable[str]) -> Row:
        connection = connections[self.using]
        stored = [
            column.read(value, None, connection) if column.read is not None else value
            for column, value in zip(columns, values, strict=False)
        ]
        row = kind.from_db(self.using, [column.name for column in columns], stored)
        for name, value in zip(more, values[len(columns) :], strict=True):
            setattr(row, name, value)
        return row

    def insert(self, *rows: models.Model, or_nothing: bool = False) -> Statement:
        """Store new rows of one model; `or_nothing` skips those that exist."""
        into, values, parameters = self._insert(rows)
        sql = f"INSERT INTO {into} VALUES {', '.join([f'({values})'] * len(rows))}"
        return Statement(sql + " ON CONFLICT DO NOTHING" * or_nothing, parameters, rows[0]._meta.db_table)

    def insert_new(self, *rows: models.Model) -> list[Any]:
        """Store those of these rows of one model that do not exist, and return their primary keys."""
        new = self.insert(*rows, or_nothing=True)
        return [key for (key,) in self.fetch(f'{new.sql} RETURNING "{rows[0]._meta.pk.column}"', *new.parameters)]

    def insert_if(self, update: Statement, row: models.Model) -> Statement:
        """Store a new row if this UPDATE touches one."""
        into, values, parameters = self._insert([row])
        sql = f"WITH touched AS ({update.sql} RETURNING 1) INSERT INTO {into} SELECT {values} FROM touched"
        return Statement(sql, [*update.parameters, *parameters])

    def _insert(self, rows: Sequence[models.Model]) -> tuple[str, str, list[Any]]:
        columns, names = _columns(type(rows[0]), given=True)
        for row in rows:
            row._state.adding, row._state.db = False, self.using
        parameters = self._values(rows, columns, add=True)
        return f'"{rows[0]._meta.db_table}" ({names})', ", ".join(["%s"] * len(columns)), parameters

    def update(self, row: models.Model, *names: str) -> Statement:
        """Store these fields of a row."""
        return self.update_each([row], *names)

    def update_each(self, rows: Sequence[models.Model], *names: str) -> Statement:
        """Store these fields of several rows of one model, of each its own."""
        meta, given, pk = rows[0]._meta, "", "%s"
        fields: list[Any] = [meta.get_field(name) for name in names]
        parameters = self._values(rows, [_column(field) for field in (*fields, meta.pk)], add=False)
        if len(rows) == 1:
            changes = ", ".join(f'"{field.column}" = %s' for field in fields)
        else:
            # The types of the first row are those of all; without their lengths, so that no cast cuts a text short.
            types = [str(field.db_type(connections[self.using])).partition("(")[0] for field in (*fields, meta.pk)]
            first = ", ".join(f"%s::{kind}" for kind in types)
            others = f", ({', '.join(['%s'] * len(types))})" * (len(rows) - 1)
            columns = ", ".join(f'"{field.column}"' for field in (*fields, meta.pk))
            changes = ", ".join(f'"{field.column}" = given."{field.column}"' for field in fields)
            given, pk = f" FROM (VALUES ({first}){others}) AS given({columns})", f'given."{meta.pk.column}"'
        table = meta.db_table
        sql = f'UPDATE "{table}" SET {changes}{given} WHERE "{table}"."{meta.pk.column}" = {pk}'
        return Statement(sql, parameters, table)

    def _values(self, rows: Sequence[models.Model], columns: Sequence[Column], *, add: bool) -> list[Any]:
        """The values of these rows as statements take them, row by row."""
        connection = connections[self.using]
        return [
            value
            if type(value := getattr(row, column.name)) in column.unchanged
            else column.field.get_db_prep_save(column.field.pre_save(row, add), connection)
            for row in rows
            for column in columns
        ]

    def update_all(self, kind: type[models.Model], keys: Sequence[Any], **values: Any) -> Statement:
        """Store these values in the rows with these primary keys."""
        fields: list[Any] = [kind._meta.get_field(name) for name in values]
        columns = ", ".join(f'"{field.column}" = %s' for field in fields)
        return Statement(f'UPDATE "{kind._meta.db_table}" SET {columns} {_with_keys(kind)}', [*values.values(), keys])

    def delete_all(self, kind: type[models.Model], keys: Sequence[Any]) -> Statement:
        """Delete the rows with these primary keys; nothing else is deleted with them, and no signal is sent."""
        return Statement(f'DELETE FROM "{kind._meta.db_table}" {_with_keys(kind)}', [keys])

    @contextmanager
    def batch(self, joined: "Batch | None" = None) -> Iterator["Batch"]:
        """
        Collect statements, and run them in one round trip when the block ends; none of them if it raises.

        :param joined: a batch to collect them in instead, which runs them when its own block ends
        """
        if joined is not None:
            yield joined
            return
        batch = Batch()
        yield batch
        batch.touched = self.run(*(step(self) for step in batch.steps))

    def run(self, *statements: Statement) -> list[int]:
        """Run these in order, in one round trip; return how many rows each of them touched."""
        if not statements:
            return []
        parameters = [value for one in statements for value in one.parameters]
        tables = {one.table for one in statements}
        if len(parameters) <= MOST:
            if len(statements) == 1:
                with self._prepared(statements[0].sql, parameters) as cursor:
                    return [cursor.rowcount]
            if all(tables) and len(tables) == len(statements):
                (counts,) = self.fetch(_together([one.sql for one in statements]), *parameters)
                return list(counts)
        with connections[self.using].cursor() as cursor:
            cursor.execute(";\n".join(self._bound(*statements)))
            touched = [cursor.rowcount]
            while cursor.nextset():
                touched.append(cursor.rowcount)
        return touched

    def run_alone(self, *statements: Statement) -> list[int]:
        """
        Do the same in a transaction of their own; within another transaction behind a savepoint.

        PostgreSQL takes what comes in one round trip for one transaction, so none has to be begun and ended.
        """
        if connections[self.using].in_atomic_block:
            with transaction.atomic(using=self.using):
                return self.run(*statements)
        return self.run(*statements)

    @contextmanager
    def _prepared(self, sql: str, parameters: Sequence[Any]) -> Iterator[Any]:
        """
        The cursor of a statement that has run, which is prepared if the session has run it often.

        # Note [Columns of another type]: a session refuses what it has prepared when a column has got another type, or
        # just a greater length. Outside of a transaction it prepares it anew here. A transaction is repeated by whoever
        # began it; with its ROLLBACK psycopg lets go of all that is prepared.
        """
        connection = connections[self.using]
        connection.ensure_connection()
        of_psycopg = _Cursor(connection.connection)  # Django's own would put the parameters into the text
        with connection._prepare_cursor(of_psycopg) as cursor:  # type: ignore[attr-defined]
            try:
                cursor.execute(sql, parameters)
            except NotSupportedError:
                if connection.in_atomic_block:
                    raise
                cursor.execute("DEALLOCATE ALL", ())
                cursor.execute(sql, parameters)
            yield cursor

    def _bound(self, *statements: Statement) -> Iterator[str]:
        """
        The SQL of each with its parameters in it; call it while a cursor is open.

        # Note [Bound without a search]: psycopg looks for the placeholders of a statement with more than 50 parameters
        # each time anew, which took longer than all else that it does with one.
        """
        literal = Transformer(connections[self.using].connection).as_literal
        for one in statements:
            values = [b"NULL" if value is None else literal(value) for value in one.parameters]
            yield (one.sql.encode() % tuple(values)).decode()


class _Cursor(psycopg.RawCursor[Any]):
    """Has its session prepare a statement that is run often, and is likely to be run with as many parameters again."""

    def execute(self, sql: str, parameters: Sequence[Any]) -> Self:  # type: ignore[override]
        if len(parameters) <= FEW:
            return super().execute(_numbered(sql), parameters)
        return super().execute(_numbered.__wrapped__(sql), parameters, prepare=False)


@lru_cache(1000)
def _numbered(sql: str) -> bytes:
    """SQL with its placeholders as PostgreSQL has them, so that psycopg need not look for them."""
    first, *others = sql.split("%s")
    return (first + "".join(f"${number}{text}" for number, text in enumerate(others, start=1))).encode()


def _together(parts: Sequence[str]) -> str:
    """
    One statement that does what these do, and returns how many rows each of them touched.

    None sees what the others do, and in which order they are done is not said.
    """
    named = ", ".join(f"part{number} AS ({sql} RETURNING 1)" for number, sql in enumerate(parts))
    counts = ", ".join(f"(SELECT count(*) FROM part{number})" for number in range(len(parts)))
    return f"WITH {named} SELECT {counts}"


TEXT: Collection[type] = {str, NoneType}
NUMBER: Collection[type] = {int, NoneType}
UNCHANGED: dict[type, Collection[type]] = {  # types of values that a field stores as they are
    models.CharField: TEXT,
    models.TextField: TEXT,
    models.IntegerField: NUMBER,
    models.BigIntegerField: NUMBER,
    models.PositiveIntegerField: NUMBER,
    models.PositiveSmallIntegerField: NUMBER,
    models.BooleanField: {bool, NoneType},
    models.DateTimeField: {datetime, NoneType},
    models.UUIDField: {UUID, NoneType},
}


def _with_keys(kind: type[models.Model]) -> str:
    return f'WHERE "{kind._meta.pk.column}" = ANY(%s)'


@dataclass
class Batch:
    """
    Statements that run together: see `Rows.batch`.

    New rows of one model are stored by one statement, where the first of them was added; likewise changes of the same
    fields, with the values that rows have at the end of the block.
    """

    steps: list[Callable[[Rows], Statement]] = field(default_factory=list)
    touched: list[int] = field(default_factory=list)  # after the block: how many rows each statement touched
    _collected: dict[Any, dict[Any, Any]] = field(default_factory=dict)

    def add(self, statement: Statement) -> int:
        """Add a statement, and return its number in `touched`."""
        self.steps.append(lambda _rows: statement)
        return len(self.steps) - 1

    def insert(self, *rows: models.Model) -> None:
        """Store new rows of one model."""
        self._collect(type(rows[0]), rows, lambda store, all_: store.insert(*all_))

    def update(self, row: models.Model, *names: str) -> None:
        """Store these fields of a row."""
        self._collect((type(row), names), [row], lambda store, all_: store.update_each(all_, *names))

    def delete(self, kind: type[models.Model], key: Any, *, where: str) -> None:
        """Delete the row with this primary key, which this batch does not store, if it meets this SQL condition."""

        def statement(store: Rows, keys: list[Any]) -> Statement:
            every = store.delete_all(kind, keys)
            # Not the name of the table: it may be one statement with what stores other rows of it.
            return Statement(f"{every.sql} AND {where}", every.parameters, f"deleted {kind.__name__}")

        self._gather((kind, where), {key: key}, statement)

    def _collect(
        self, key: Any, rows: Sequence[models.Model], statement: Callable[[Rows, list[models.Model]], Statement]
    ) -> None:
        self._gather(key, {id(row): row for row in rows}, statement)

    def _gather(self, key: Any, found: Mapping[Any, Any], statement: Callable[[Rows, list[Any]], Statement]) -> None:
        if key not in self._collected:
            collected = self._collected[key] = {}
            self.steps.append(lambda store: statement(store, list(collected.values())))
        self._collected[key] |= found
