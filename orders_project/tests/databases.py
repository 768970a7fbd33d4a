"""The databases of the tests: migrated once a run by the worker that comes first, and copied for each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import connections, router
from django.db.migrations.executor import MigrationExecutor
from django.test import TestCase, TransactionTestCase
from psycopg.pq import TransactionStatus

from common import locks
from orders_project import migration_rules
from orders_project.embedded import places, variable
from orders_project.embedded.postgres import Postgres

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
TEMPLATE = "template"
WITH_ROWS = """
    SELECT quote_ident(relname) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0
"""
_migrated: dict[str, set[str]] = {}
_should_check_constraints = TestCase._should_check_constraints  # type: ignore[attr-defined]


def name(alias: str, *, of: str) -> str:
    """The name of a test database of this run, so that runs on one server don't collide."""
    return f"test_{os.environ['ORDERS_TEST_RUN']}_{of}_{alias}"


def make() -> None:
    """Make this worker's databases, with what the migrations of this code leave in them, and use them."""
    with places.lock(Path(os.environ["ORDERS_TEST_HOME"]) / "test-databases"):
        if not all(_is_there(name(alias, of=TEMPLATE)) for alias in settings.DATABASES_HERE):
            for alias in settings.DATABASES_HERE:
                _tell(alias, f'CREATE DATABASE "{name(alias, of=TEMPLATE)}"')
                _use(alias, of=TEMPLATE)
            call_command("migrate_all", verbosity=0)
            if "TEST_BY_DAY" in os.environ:  # everything goes on where outbox and inbox are in partitions
                call_command("messages_by_day", verbosity=0)
        for alias in settings.DATABASES_HERE:
            _use(alias, of=WORKER)
            _tell(alias, f'CREATE DATABASE "{name(alias, of=WORKER)}" TEMPLATE "{name(alias, of=TEMPLATE)}"')
    _migrated.update({alias: _with_rows(alias) for alias in settings.DATABASES_HERE})
    TransactionTestCase._fixture_teardown = _empty  # type: ignore[attr-defined]
    TestCase._should_check_constraints = _is_to_be_checked  # type: ignore[attr-defined]


def copy(server: Postgres, of: str, *, migrated: bool) -> dict[str, str]:
    """Make databases for others on this run's server; their addresses, as the environment names them."""
    for alias in settings.DATABASES_HERE:
        template = f' TEMPLATE "{name(alias, of=TEMPLATE)}"' if migrated else ""
        _tell(alias, f'CREATE DATABASE "{name(alias, of=of)}"{template}')
    return {variable(alias): server.url(name(alias, of=of)) for alias in settings.DATABASES_HERE}


@contextmanager
def of_last_release(alias: str) -> Iterator[None]:
    """Use a database with the empty tables of the last release in place of this worker's."""
    there = f"{WORKER}_released"
    _tell(alias, f'CREATE DATABASE "{name(alias, of=there)}"')
    _use(alias, of=there)
    try:
        executor = MigrationExecutor(connections[alias])
        executor.migrate([end for end in migration_rules.released() if router.allow_migrate(alias, end[0])])
        yield
    finally:
        _use(alias, of=WORKER)
        _tell(alias, f'DROP DATABASE "{name(alias, of=there)}" WITH (FORCE)')


@contextmanager
def apart(alias: str) -> Iterator[None]:
    """Use a database of its own in place of this worker's, with the tables that the migrations leave."""
    there = f"{WORKER}_apart"
    _tell(alias, f'CREATE DATABASE "{name(alias, of=there)}" TEMPLATE "{name(alias, of=TEMPLATE)}"')
    _use(alias, of=there)
    try:
        yield
    finally:
        _use(alias, of=WORKER)
        _tell(alias, f'DROP DATABASE "{name(alias, of=there)}" WITH (FORCE)')


def drop(of: str = WORKER) -> None:
    """Drop the databases of a worker, or those that were copied, whoever is still connected to them."""
    for alias in settings.DATABASES_HERE:
        connections[alias].close()
        _tell(alias, f'DROP DATABASE IF EXISTS "{name(alias, of=of)}" WITH (FORCE)')


def keep_waiting(order_id: str) -> None:
    """Let nobody place this order without a token until the transaction ends."""
    locks.take_turn("orders", order_id)


def waiting_for_locks(alias: str) -> int:
    """How many sessions wait for an advisory lock in this database."""
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        (number,) = cursor.fetchone()
    return int(number)


def _empty(test: Any) -> None:
    """
    Empty the tables that a test with transactions of its own has written to, but for what the migrations have filled.

    Django's own way empties every table there is, and then makes all permissions anew: for each of these tests that
    takes longer than most of them do.
    """
    for alias in test._databases_names(include_mirrors=False):
        if written := _with_rows(alias) - _migrated[alias]:
            with connections[alias].cursor() as cursor:
                cursor.execute(f"TRUNCATE {', '.join(sorted(written))} RESTART IDENTITY CASCADE")


def _is_to_be_checked(test: Any, connection: Any) -> bool:
    """Whether constraints can be broken: most tests ask nothing of most databases, so that no transaction began."""
    is_idle = connection.connection is None or connection.connection.info.transaction_status == TransactionStatus.IDLE
    return not is_idle and bool(_should_check_constraints(test, connection))


def _with_rows(alias: str) -> set[str]:
    """The tables of a database that rows have been written to since they were made or emptied."""
    with connections[alias].cursor() as cursor:
        cursor.execute(WITH_ROWS)
        return {table for (table,) in cursor.fetchall()}


def _use(alias: str, *, of: str) -> None:
    connections[alias].close()
    for where in (settings.DATABASES[alias], connections[alias].settings_dict):
        where["NAME"] = name(alias, of=of)


def _is_there(database: str) -> bool:
    with connections["default"]._nodb_cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
        return cursor.fetchone() is not None


def _tell(alias: str, statement: str) -> None:
    with connections[alias]._nodb_cursor() as cursor:
        cursor.execute(statement)
