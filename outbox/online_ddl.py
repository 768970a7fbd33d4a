"""
Operations of migrations that nobody has to wait for: `CONCURRENTLY`, and changes of rows in batches.

# Note [Every operation can be run again]: none of OPERATIONS fits into a transaction, so a migration that dies leaves
some of them done. Each looks for what is there: an index that was not finished (PostgreSQL marks it as invalid) is
dropped and made anew, one that is finished stays, and rows that are changed already are not changed again. So the next
run goes on where the last one stopped. They belong in migrations with `atomic = False` that hold nothing else.
"""

import time
from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently, NotInTransactionMixin, RemoveIndexConcurrently
from django.db import connections, router
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations import AddConstraint, AddField, AlterField, RemoveConstraint
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models import Index, UniqueConstraint

STATE_OF_INDEX = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
MAKE_UNIQUE = (
    "CREATE UNIQUE INDEX CONCURRENTLY %(name)s ON %(table)s (%(columns)s)%(include)s%(nulls_distinct)s%(condition)s"
)
LIKE = "_like"  # the end of the name of an index that Django makes of a text for LIKE
LONGEST_PAUSE = 5.0  # seconds between two looks at rows that are locked
DROP = "DROP INDEX CONCURRENTLY IF EXISTS {}"


def _is_missing(editor: BaseDatabaseSchemaEditor, name: str) -> bool:
    """Return whether this index has to be made, after dropping one that was not finished."""
    if editor.collect_sql:
        return True
    with editor.connection.cursor() as cursor:
        cursor.execute(STATE_OF_INDEX, [editor.quote_name(name)])
        row = cursor.fetchone()
    if row == (False,):
        _drop(editor, name)
    return row in (None, (False,))


def _model_of(operation: Any, app_label: str, editor: Any, state: ProjectState) -> Any:
    """
    Return the model that an operation is for, or None if its table is in another database.

    :raises NotSupportedError: in a transaction
    """
    operation._ensure_not_in_transaction(editor)
    model = state.apps.get_model(app_label, operation.model_name)
    return model if operation.allow_migrate_model(editor.connection.alias, model) else None


def _drop(editor: BaseDatabaseSchemaEditor, name: str) -> None:
    editor.execute(DROP.format(editor.quote_name(name)))


class AddIndexOnline(AddIndexConcurrently):
    """Make an index while the table is read and written."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = _model_of(self, app_label, schema_editor, to_state)
        if model is not None and _is_missing(schema_editor, self.index.name):
            schema_editor.add_index(model, self.index, concurrently=True)


def make_index(model: Any, index: Index, *, using: str) -> None:
    """Make an index outside of migrations while the table is read and written, unless it is there."""
    with connections[using].schema_editor(atomic=False) as editor:
        if _is_missing(editor, index.name):
            editor.execute(str(index.create_sql(model, editor, concurrently=True)), params=None)


def drop_index(name: str, *, using: str) -> None:
    """Drop an index outside of migrations while its table is read and written, if it is there."""
    with connections[using].schema_editor(atomic=False) as editor:
        _drop(editor, name)


class RemoveIndexOnline(RemoveIndexConcurrently):
    """Drop an index while the table is read and written."""


class _OwnIndexes(NotInTransactionMixin):
    """Drop what Django makes for an indexed field by itself: of a text two indexes, the second of them for LIKE."""

    atomic = False
    suffixes: tuple[str, ...] = ("", LIKE)

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = _model_of(self, app_label, schema_editor, to_state)
        if model is not None:
            columns = [model._meta.get_field(self.name).column]  # type: ignore[attr-defined]
            for suffix in self.suffixes:
                _drop(schema_editor, schema_editor._create_index_name(model._meta.db_table, columns, suffix=suffix))

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = _model_of(self, app_label, schema_editor, to_state)
        if model is not None:
            field = model._meta.get_field(self.name)  # type: ignore[attr-defined]
            for statement in schema_editor._field_indexes_sql(model, field):
                if _is_missing(schema_editor, str(statement.parts["name"]).strip('"')):
                    statement.template = statement.template.replace("INDEX", "INDEX CONCURRENTLY", 1)
                    schema_editor.execute(statement, params=None)


class RemoveFieldIndexOnline(_OwnIndexes, AlterField):
    """Drop the index of a field (`db_index`) while the table is read and written. The field is given without it."""


class RemoveLikeIndexOnline(_OwnIndexes, Operation):
    """Drop the second index of a text while the table is read and written, where nobody looks for beginnings of it."""

    reversible = True
    suffixes = (LIKE,)

    def __init__(self, model_name: str, name: str) -> None:
        self.model_name, self.name = model_name, name

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        pass

    def describe(self) -> str:
        return f"Remove the index for LIKE of {self.name} on {self.model_name}"


class AddUniqueOnline(NotInTransactionMixin, AddConstraint):
    """
    Make a unique constraint while the table is read and written.

    It is a unique index, as Django makes for a constraint with a condition; `RemoveUniqueOnline` removes it.
    """

    atomic = False

    def __init__(self, model_name: str, constraint: UniqueConstraint) -> None:
        if constraint.deferrable:
            raise ValueError("A unique index cannot be deferred.")
        super().__init__(model_name, constraint)

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = _model_of(self, app_label, schema_editor, to_state)
        if model is not None and _is_missing(schema_editor, self.constraint.name):
            statement: Any = self.constraint.create_sql(model, schema_editor)
            statement.template = MAKE_UNIQUE
            schema_editor.execute(statement, params=None)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if _model_of(self, app_label, schema_editor, to_state) is not None:
            _drop(schema_editor, self.constraint.name)


class RemoveUniqueOnline(NotInTransactionMixin, RemoveConstraint):
    """Remove a unique constraint that is a unique index, while the table is read and written."""

    atomic = False

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if _model_of(self, app_label, schema_editor, to_state) is not None:
            _drop(schema_editor, self.name)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        constraint = to_state.models[app_label, self.model_name_lower].get_constraint_by_name(self.name)
        AddUniqueOnline(self.model_name, constraint).database_forwards(app_label, schema_editor, from_state, to_state)


class RowsStayLocked(Exception):
    """Rows that a migration has to change are locked again and again, or its condition stays true."""


class _InBatches(NotInTransactionMixin, Operation):
    """
    Change the rows that satisfy a condition, a batch a transaction.

    A batch passes over rows that somebody else has locked, so it waits for nobody while it holds locks of its own;
    they are looked at again until no row satisfies the condition. A table that does not exist has no rows.
    """

    atomic = False
    reversible = True

    def __init__(
        self, table: str, statement: str, *, where: str, key: str = "id", batch: int = 1000, rounds: int = 60
    ) -> None:
        self.table, self.statement, self.where, self.key = table, statement, where, key
        self.batch, self.rounds = batch, rounds

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        pass

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        self._ensure_not_in_transaction(schema_editor)
        if schema_editor.collect_sql or not router.allow_migrate(schema_editor.connection.alias, app_label):
            return
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NULL", [schema_editor.quote_name(self.table)])
            if cursor.fetchone() == (True,):
                return
            for number in range(self.rounds):
                self._walk(cursor)
                cursor.execute(f"SELECT EXISTS (SELECT FROM {self.table} WHERE {self.where})")
                if cursor.fetchone() == (False,):
                    return
                time.sleep(min(0.1 * 2**number, LONGEST_PAUSE))
        raise RowsStayLocked(f"rows of {self.table} where {self.where} are left after {self.rounds} rounds")

    def _walk(self, cursor: Any) -> None:
        """Change what is not locked, from the lowest key to the highest."""
        key, table = self.key, self.table
        after: list[Any] = []
        while True:
            beyond = f"AND {key} > %s" if after else ""
            cursor.execute(
                f"WITH picked AS (SELECT {key} FROM {table} WHERE ({_literal(self.where)}) {beyond}"
                f" ORDER BY {key} LIMIT {self.batch} FOR UPDATE SKIP LOCKED),"
                f" changed AS ({_literal(self.statement)} WHERE {key} IN (SELECT {key} FROM picked))"
                f" SELECT {key} FROM picked ORDER BY {key} DESC LIMIT 1",
                after,
            )
            row = cursor.fetchone()
            if row is None:
                return
            after = [row[0]]

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        pass

    def describe(self) -> str:
        return f"In batches: {self.statement} WHERE {self.where}"


class UpdateOnline(_InBatches):
    """Update the rows of a table in batches: `to` is SQL, after which `where` has to be false."""

    def __init__(self, table: str, *, to: str, where: str, **options: Any) -> None:
        super().__init__(table, f"UPDATE {table} SET {to}", where=where, **options)


class DeleteOnline(_InBatches):
    """Delete the rows of a table in batches."""

    def __init__(self, table: str, *, where: str = "true", **options: Any) -> None:
        super().__init__(table, f"DELETE FROM {table}", where=where, **options)


def _literal(text: str) -> str:
    """SQL without parameters as a part of SQL that has some."""
    return text.replace("%", "%%")


class AddFieldNotValid(AddField):
    """
    Add a field whose column has a check, such as a positive number, without reading the table.

    It belongs in a migration with a transaction. A later one validates the check: `ValidateConstraint` with the name
    `<table>_<column>_check`.
    """

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self.allow_migrate_model(schema_editor.connection.alias, model):
            return
        field = model._meta.get_field(self.name)
        check = field.db_parameters(schema_editor.connection)["check"]
        schema_editor.sql_check_constraint = ""
        try:
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        finally:
            del schema_editor.sql_check_constraint
        if check:
            table, name = model._meta.db_table, f"{model._meta.db_table}_{field.column}_check"
            quoted = schema_editor.quote_name
            schema_editor.execute(
                f"ALTER TABLE {quoted(table)} ADD CONSTRAINT {quoted(name)} CHECK ({check}) NOT VALID", params=None
            )


OPERATIONS = (
    AddIndexOnline, RemoveIndexOnline, RemoveFieldIndexOnline, RemoveLikeIndexOnline, AddUniqueOnline,
    RemoveUniqueOnline, UpdateOnline, DeleteOnline,
)  # fmt: skip
