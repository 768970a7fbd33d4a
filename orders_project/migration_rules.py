"""
What a migration must not do, because processes of the previous release use the tables while it runs.

`findings` looks at the SQL of every migration that has come since the last release, by one table of rules. Each release
records its last migrations in `docs/contracts/VERSION/migrations.txt`. A test holds all of them against the rules.

# Note [SQL, not operations]: what an operation does depends on the field before and after, and RunSQL can do anything.
The SQL says what happens. Only what Django would run counts, so a field that is removed from the state alone is free.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.postgres.operations import ValidateConstraint
from django.db import connections, router
from django.db.migrations import AlterField, Migration, RunPython
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

from outbox import online_ddl

RELEASED = Path(settings.BASE_DIR) / "docs" / "contracts"
FILE = "migrations.txt"
APART = "In a migration of its own with atomic = False: "


@dataclass(frozen=True)
class Rule:
    """SQL that must not be run on a table that is in use: the reason, and what to write instead."""

    name: str
    sql: str
    why: str
    instead: str


RULES = (
    Rule(
        "index",
        r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)",
        "nobody can write to the table while the index is made",
        f"{APART}AddIndexOnline, or AddUniqueOnline for a constraint.",
    ),
    Rule(
        "index dropped",
        r"DROP INDEX (?!CONCURRENTLY)",
        "everybody waits behind it for those who use the table",
        f"{APART}RemoveIndexOnline, or RemoveUniqueOnline for a constraint.",
    ),
    Rule(
        "unique",
        r"ADD (CONSTRAINT \S+ )?(UNIQUE|PRIMARY KEY|EXCLUDE)\b(?! USING INDEX)|ADD COLUMN .*\b(UNIQUE|PRIMARY KEY)\b",
        "nobody can use the table while an index is made",
        f"{APART}AddUniqueOnline.",
    ),
    Rule(
        "constraint",
        r"ADD (CONSTRAINT \S+ )?(CHECK|FOREIGN KEY)\b(?!.* NOT VALID)",
        "the whole table is read while nobody can write to it",
        "AddConstraintNotValid, and ValidateConstraint in a later migration with atomic = False.",
    ),
    Rule(
        "checked column",
        r"ADD COLUMN .*(\bCHECK\b|\bDEFAULT\b.*\bREFERENCES\b)",
        "the whole table is read while nobody can use it",
        "AddFieldNotValid, and ValidateConstraint in a later migration with atomic = False.",
    ),
    Rule(
        "not null",
        r"ALTER COLUMN \S+ SET NOT NULL",
        "the whole table is read while nobody can use it, and the previous release may write NULL",
        "A CheckConstraint by AddConstraintNotValid and ValidateConstraint.",
    ),
    Rule(
        "default",
        r"ADD COLUMN (?!.*\bDEFAULT\b).*\bNOT NULL\b|ALTER COLUMN \S+ DROP DEFAULT",
        "the previous release does not know the column, so it could no longer add a row",
        "Give the field a db_default, or null=True.",
    ),
    Rule(
        "rewrite",
        r"ADD COLUMN .*(\bGENERATED\b|\b\w*SERIAL\b|"
        r"\bDEFAULT \(*(?!(?:now|statement_timestamp|transaction_timestamp)\()\w+\()",
        "every row gets a value of its own, so the whole table is written anew while nobody can use it",
        "Add the field with null=True, and fill it by UpdateOnline.",
    ),
    Rule(
        "type",
        r"ALTER COLUMN \S+ (SET DATA )?TYPE\b",
        "the table is written anew while nobody can use it, and the previous release expects the type before",
        "Add a second field, fill it by UpdateOnline, and remove the first one a release later.",
    ),
    Rule(
        "rename",
        r"ALTER TABLE .*\bRENAME\b(?! CONSTRAINT)",
        "the previous release knows it by the name before",
        "Give the field or model its new name in the code only (db_column, db_table).",
    ),
    Rule(
        "drop",
        r"\bDROP (COLUMN|TABLE)\b",
        "the previous release still uses it",
        "Remove it from the state alone (SeparateDatabaseAndState), and drop it a release later.",
    ),
    Rule(
        "lock",
        r"\b(VACUUM FULL|CLUSTER|TRUNCATE|LOCK TABLE|REINDEX (?!.*CONCURRENTLY)|SET (UN)?LOGGED|SET TABLESPACE|"
        r"SET ACCESS METHOD)",
        "nobody can use the table meanwhile",
        "DeleteOnline to empty a table; leave the rest to an administrator.",
    ),
    Rule(
        "rows",
        r"(^|'|\)|\bBEGIN|\bLOOP|\bTHEN)\s*(UPDATE|DELETE FROM|MERGE)\b",
        "all rows stay locked until the migration ends",
        f"{APART}UpdateOnline or DeleteOnline.",
    ),
)
DATA_APART = Rule(
    "python", "", "its rows and the locks of the schema would be held together", "Put it into a migration of its own."
)
RESUMED = Rule(
    "resumed",
    "",
    "without a transaction a migration that dies begins again from the start, and this cannot be done twice",
    "Put it into a migration with a transaction; for indexes use the operations of outbox/online_ddl.py.",
)
ONE_TABLE = Rule(
    "tables",
    "",
    "the first table stays locked while the migration waits for the next one",
    "Split the migration, one table each.",
)
VALIDATED_APART = Rule(
    "validated",
    "",
    "the table is read under the lock of the statements before",
    "Put ValidateConstraint into a later migration with atomic = False.",
)

ONLINE = (*online_ddl.OPERATIONS, ValidateConstraint)
NOISE = re.compile(r"--[^\n]*|/\*.*?\*/|AS \$(\w*)\$.*?\$\1\$", re.DOTALL)  # comments, and the bodies of functions
NAME = r'(?:IF (?:NOT )?EXISTS |ONLY )*"?(\w+)"?'
# In ALTER TABLE, COLUMN may be left out.
SHORT = re.compile(
    r"\b(ADD|DROP|ALTER) "
    r"(?!COLUMN|CONSTRAINT|UNIQUE|PRIMARY|EXCLUDE|CHECK|FOREIGN|DEFAULT|NOT|EXPRESSION|IDENTITY|TABLE)",
    re.IGNORECASE,
)
MADE = re.compile(rf"CREATE TABLE {NAME}", re.IGNORECASE)
TABLE = re.compile(rf"^(?:ALTER TABLE|UPDATE|DELETE FROM|TRUNCATE(?: TABLE)?|DROP TABLE|.*? ON) {NAME}", re.IGNORECASE)
LOCKING = re.compile(
    rf"ALTER TABLE {NAME}(?! VALIDATE)|CREATE (?:OR REPLACE )?TRIGGER .*? ON {NAME}|REFERENCES {NAME}", re.IGNORECASE
)
DROPPED = re.compile(rf"DROP COLUMN {NAME}", re.IGNORECASE)
SIZED = re.compile(r"(varchar|character varying)\((\d+)\)")


@dataclass(frozen=True)
class Finding:
    """Something that a migration must not do."""

    migration: str
    operation: str
    sql: str
    rule: Rule

    def __str__(self) -> str:
        return f"{self.migration}: {self.operation}: {self.rule.why}. {self.rule.instead} SQL: {self.sql[:200]}"


def last_migrations() -> str:
    """Return the last migration of each of our apps, a line each: what a release records."""
    leaves = MigrationLoader(None).graph.leaf_nodes()
    return "".join(f"{app} {name}\n" for app, name in sorted(leaves) if _is_ours(app))


def released() -> list[tuple[str, str]]:
    """Return the last migrations of the newest release, as (app, name)."""
    newest = max(RELEASED.glob(f"*/{FILE}"), key=lambda path: [int(part) for part in path.parent.name.split(".")])
    return [(app, name) for app, name in map(str.split, newest.read_text().splitlines())]


def since_release() -> tuple[ProjectState, list[Migration]]:
    """Return the state of the models in the newest release, and the migrations that have come since, in their order."""
    loader = MigrationLoader(None)
    graph, ends = loader.graph, released()
    before = {node for end in ends for node in graph.forwards_plan(end)}
    all_ = dict.fromkeys(node for leaf in sorted(graph.leaf_nodes()) for node in graph.forwards_plan(leaf))
    return loader.project_state(ends), [graph.nodes[node] for node in all_ if node not in before]


def findings(state: ProjectState, migrations: Iterable[Migration]) -> Iterator[Finding]:
    """Yield what these migrations must not do where the models were in this state in the previous release."""
    used = {
        model._meta.db_table: {str(field.column) for field in model._meta.local_concrete_fields}
        for model in state.apps.get_models(include_auto_created=True)
    }
    made: set[str] = set()
    for migration in migrations:
        if not _is_ours(migration.app_label):
            migration.mutate_state(state, preserve=False)
            continue
        steps = list(_steps(migration, state))
        made |= {table for step in steps for sql in step.statements for table in MADE.findall(sql)}
        for step in steps:
            yield from _of_step(migration, step, used=used, made=made)
        yield from _of_whole(migration, steps, made=made)


@dataclass(frozen=True)
class _Step:
    """An operation of a migration, and the SQL that it runs."""

    operation: Any
    statements: tuple[str, ...]
    is_longer: bool = False  # whether it only raises the length that a text may have

    def finding(self, migration: Migration, rule: Rule, sql: str = "") -> Finding:
        return Finding(str(migration), self.operation.describe(), sql or "; ".join(self.statements), rule)


def _steps(migration: Migration, state: ProjectState) -> Iterator[_Step]:
    """Yield the operations with their SQL, and bring the state forward."""
    alias = next(alias for alias in connections if router.allow_migrate(alias, migration.app_label))
    connection = connections[alias].copy()
    try:
        with connection.schema_editor(collect_sql=True, atomic=False) as editor:
            for operation in migration.operations:
                before = state.clone()
                operation.state_forwards(migration.app_label, state)
                editor.collected_sql.clear()
                if not isinstance(operation, RunPython):
                    operation.database_forwards(migration.app_label, editor, before, state)
                    while editor.deferred_sql:  # what a transaction would run at its end
                        editor.execute(editor.deferred_sql.pop(0), None)
                is_longer = isinstance(operation, AlterField) and _is_longer(
                    operation, migration, before, state, connection
                )
                yield _Step(operation, tuple(_split("\n".join(editor.collected_sql))), is_longer)
    finally:
        connection.close()


def _split(text: str) -> Iterator[str]:
    """Yield the statements of SQL, each in one line."""
    for statement in NOISE.sub(" ", text).split(";"):
        if line := " ".join(statement.split()):
            yield SHORT.sub(r"\1 COLUMN ", line) if line.upper().startswith("ALTER TABLE") else line


def _is_longer(
    operation: AlterField, migration: Migration, before: ProjectState, after: ProjectState, connection: Any
) -> bool:
    """Return whether a field becomes a longer text, which changes no row, and which the previous release can read."""
    key = (migration.app_label, operation.model_name_lower)
    old, new = (
        state.apps.get_model(*key)._meta.get_field(operation.name).db_type(connection) or ""
        for state in (before, after)
    )
    length, longer = SIZED.fullmatch(old), SIZED.fullmatch(new)
    if length is None:
        return False
    return new == "text" or (longer is not None and int(longer[2]) >= int(length[2]))


def _of_step(migration: Migration, step: _Step, *, used: dict[str, set[str]], made: set[str]) -> Iterator[Finding]:
    for sql in step.statements:
        table = (TABLE.search(sql) or ("", ""))[1]
        if table in made:
            continue
        for rule in RULES:
            if not re.search(rule.sql, sql, re.IGNORECASE):
                continue
            if (rule.name == "type" and step.is_longer) or (rule.name == "drop" and not _is_used(sql, table, used)):
                continue
            yield step.finding(migration, rule, sql)
    if not migration.atomic and step.statements and not isinstance(step.operation, ONLINE):
        yield step.finding(migration, RESUMED)


def _is_used(sql: str, table: str, used: dict[str, set[str]]) -> bool:
    columns = DROPPED.findall(sql)
    return any(column in used.get(table, ()) for column in columns) if columns else table in used


def _of_whole(migration: Migration, steps: list[_Step], *, made: set[str]) -> Iterator[Finding]:
    """What a migration must not do together."""
    changing = [step for step in steps if step.statements or isinstance(step.operation, online_ddl.OPERATIONS)]
    for step in steps:
        if isinstance(step.operation, RunPython) and changing:
            yield step.finding(migration, DATA_APART, "RunPython")
    if not migration.atomic:
        return
    locked: set[str] = set()
    for step in steps:
        for sql in step.statements:
            tables = {table for names in LOCKING.findall(sql) for table in names if table} - made
            if locked and tables - locked:
                yield step.finding(migration, ONE_TABLE, sql)
            if locked and "VALIDATE CONSTRAINT" in sql.upper():
                yield step.finding(migration, VALIDATED_APART, sql)
            locked |= tables


def _is_ours(app_label: str) -> bool:
    path = Path(apps.get_app_config(app_label).path)
    return path.parent == Path(settings.BASE_DIR)
