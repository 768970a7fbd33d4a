"""Behind PgBouncer in transaction mode: limits hold, nothing stays for the next client, and sessions go past it."""

import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.db.migrations.recorder import MigrationRecorder

from orders_project.database_limits import Limits, make_default, without_limits_of_statements
from orders_project.embedded import CannotRun
from orders_project.embedded.up import up
from orders_project.grpc.deadlines import statements_end_in
from orders_project.management.commands import migrate_all
from outbox.notifications import CHANNEL, Listener
from outbox.sqlstates import Verdict, verdict_on

from .chaos.proxy import Proxies
from .pgbouncer import PgBouncer

LIMITS = Limits(lock=1, statement=50, idle=2, host=60)
SHOW = "SELECT setting FROM pg_settings WHERE name = 'statement_timeout'"
# How many locks of a session there are in this database, and how many of them are this session's.
TURNS = """
    SELECT count(*), count(*) FILTER (WHERE pid = pg_backend_pid()) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True, databases=["orders"])]


@pytest.fixture
def pooled() -> Iterator[dict[str, Any]]:
    """How to connect to the database of orders through PgBouncer, which has one session there."""
    there = connections["orders"].get_connection_params()
    name = there["dbname"]
    assert make_default("orders", LIMITS.of_server())
    url = "postgres://{user}:{password}@{host}:{port}/{dbname}".format(**there)
    try:
        with PgBouncer([url], size=1) as bouncer:
            yield {
                "host": "127.0.0.1", "port": bouncer.port, "user": there["user"], "password": there["password"],
                "dbname": name,
            }  # fmt: skip
    except CannotRun as error:
        pytest.skip(str(error))
    finally:
        with connections["orders"].cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{name}" RESET ALL')


@pytest.fixture
def behind(pooled: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is connected to orders through PgBouncer, with the settings of one that is told so."""
    connection = connections["orders"]
    connection.close()
    usual = dict(connection.settings_dict)
    given = {name: value for name, value in usual["OPTIONS"].items() if name != "options"}
    with monkeypatch.context() as there:
        there.setitem(connection.settings_dict, "DIRECT", usual)
        there.setitem(connection.settings_dict, "OPTIONS", given)
        there.setitem(connection.settings_dict, "DISABLE_SERVER_SIDE_CURSORS", True)
        for name in ("host", "port"):
            there.setitem(connection.settings_dict, name.upper(), pooled[name])
        yield
        connection.close()


def test_limits_hold_for_those_who_cannot_ask_for_them(pooled: dict[str, Any]) -> None:
    with psycopg.connect(**pooled) as silent:
        assert silent.execute(SHOW).fetchone() == ("50000",)
        silent.execute("CREATE TABLE kept_locked ()")
        began = time.monotonic()
        with psycopg.connect(**pooled) as other:  # for which there is no other connection to the server
            assert other.execute(SHOW).fetchone() == ("50000",)
        assert time.monotonic() - began < 30
        with pytest.raises(psycopg.Error):
            silent.execute("SELECT 1")
        silent.close()


def test_the_limit_of_a_call_does_not_stay_for_the_next_client(behind: None, pooled: dict[str, Any]) -> None:
    with statements_end_in(7), connections["orders"].cursor() as cursor:
        cursor.execute(SHOW)
        assert int(cursor.fetchone()[0]) <= 7000
    with psycopg.connect(**pooled) as next_client:
        assert next_client.execute(SHOW).fetchone() == ("50000",)


def test_a_relay_is_woken_past_it(behind: None) -> None:
    with Listener("orders") as listener:
        assert listener.wait(0) is None  # it listens from now on
        with transaction.atomic(using="orders"), connections["orders"].cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")
        assert listener.wait(60) is not None


def test_what_takes_long_has_a_session_without_a_limit(behind: None, pooled: dict[str, Any]) -> None:
    with without_limits_of_statements("orders"), connections["orders"].cursor() as cursor:
        cursor.execute(SHOW)
        assert cursor.fetchone() == ("0",)
    with connections["orders"].cursor() as cursor:
        cursor.execute(SHOW)
        assert cursor.fetchone() == ("50000",)


def test_databases_are_migrated_past_it(behind: None, pooled: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def look(*_: Any) -> None:
        with psycopg.connect(**pooled) as another:  # has the only session of PgBouncer
            held.append(another.execute(TURNS).fetchone())

    monkeypatch.setattr(migrate_all.Command, "_migrate_until_done", look)
    call_command("migrate_all", database=["orders"], stdout=StringIO(), stderr=StringIO())
    assert held == [(1, 0)]


def test_rows_are_read_in_pieces_without_a_cursor_that_stays(behind: None, pooled: dict[str, Any]) -> None:
    rows = MigrationRecorder.Migration.objects.using("orders").iterator(chunk_size=2)
    assert next(rows)
    with psycopg.connect(**pooled) as another:  # in the same session
        assert another.execute("SELECT count(*) FROM pg_cursors").fetchone() == (0,)
    assert list(rows)


def test_a_server_that_stands_still_is_given_up() -> None:
    there = connections["orders"].get_connection_params()
    with Proxies(database=lambda: int(there["port"] or 5432)) as proxies:
        url = "postgres://{user}:{password}@127.0.0.1:{port}/{dbname}".format(
            **there | {"port": proxies.links["database"].port}
        )
        try:
            bouncer = PgBouncer([url], settings={"query_timeout": 1})
            with bouncer, psycopg.connect(bouncer.url(url)) as client:
                client.execute("SELECT 1")
                proxies.hold("database")
                with pytest.raises(psycopg.Error) as given_up:
                    client.execute("SELECT 1")
        except CannotRun as error:
            pytest.skip(str(error))
    assert verdict_on(given_up.value) is Verdict.WAIT


def test_an_address_past_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="DATABASE_URL_ORDERS_DIRECT is set and DATABASE_URL_ORDERS is not"):
        up({"DATA": str(tmp_path), "DATABASE_URL_ORDERS_DIRECT": "postgres://elsewhere"})
