"""The databases of the tests: migrated once a run by the worker that comes first, which the others copy."""

import os
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.db import connections

from orders_project.embedded import places

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")


def name(alias: str, *, of: str) -> str:
    """The name of a test database of this run, so that runs on one server don't collide."""
    return f"test_{os.environ['ORDERS_TEST_RUN']}_{of}_{alias}"


def take_turn() -> IO[str]:
    """
    Name the databases of this worker, and say where there is something to copy.

    Closing what is returned lets the next worker go on, which copies what `keep` has kept until then.
    """
    turn = places.lock(Path(os.environ["ORDERS_TEST_HOME"]) / "test-databases")
    for alias, database in settings.DATABASES.items():
        wanted: dict[str, Any] = {"NAME": name(alias, of=WORKER)}
        if _is_there(name(alias, of="template")):
            wanted |= {"TEMPLATE": name(alias, of="template"), "MIGRATE": False}
        for where in (database, connections[alias].settings_dict):
            where.setdefault("TEST", {}).update(wanted)
    return turn


def keep() -> None:
    """Keep a copy of what this worker has migrated, if there are others and they have none."""
    for connection in connections.all():
        test = connection.settings_dict["TEST"]
        if WORKER != "main" and not test.get("TEMPLATE") and connection.settings_dict["NAME"] == test["NAME"]:
            connection.close()
            _tell(connection, f'CREATE DATABASE "{name(connection.alias, of="template")}" TEMPLATE "{test["NAME"]}"')


def end_sessions() -> None:
    """End the sessions that a server's threads left behind in the test databases: nobody could drop those."""
    for connection in connections.all():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


def forget() -> None:
    """Drop what was kept to be copied."""
    for connection in connections.all():
        _tell(connection, f'DROP DATABASE IF EXISTS "{name(connection.alias, of="template")}"')


def _is_there(database: str) -> bool:
    with connections["default"]._nodb_cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
        return cursor.fetchone() is not None


def _tell(connection: Any, statement: str) -> None:
    with connection._nodb_cursor() as cursor:
        cursor.execute(statement)
