"""Behind PgBouncer in transaction mode: limits hold, and what is set for one client does not stay for the next."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections

from orders_project.database_limits import Limits, make_default
from orders_project.embedded import CannotRun, debian, processes
from orders_project.grpc.deadlines import statements_end_in

LIMITS = Limits(lock=1, statement=50, idle=2, host=60)
CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool}
ignore_startup_parameters = options, extra_float_digits
"""
SHOW = "SELECT setting FROM pg_settings WHERE name = 'statement_timeout'"

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True, databases=["orders"])]


@pytest.fixture
def pooled(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """How to connect to the database of orders through PgBouncer, which has one connection to it."""
    try:
        root = debian.unpack("pgbouncer")
    except CannotRun as error:
        pytest.skip(str(error))
    name, listen = connections["orders"].settings_dict["NAME"], processes.free_port()
    assert make_default("orders", LIMITS.of_server())
    there = connections["orders"].get_connection_params()
    tmp_path.chmod(0o755)
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(
            host=there["host"], port=there["port"], user=there["user"], password=there.get("password", ""),
            listen=listen, pool=1,
        )
    )  # fmt: skip
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    command: list[str | Path] = [root / "usr/sbin/pgbouncer", *user, configuration]
    with (tmp_path / "log").open("wb") as log:
        bouncer = processes.spawn(command, env=debian.environment(root), output=log)
    parameters = {"host": "127.0.0.1", "port": listen, "user": there["user"], "dbname": name}

    def answers() -> bool:
        assert bouncer.poll() is None, (tmp_path / "log").read_text()
        try:
            psycopg.connect(**parameters).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        processes.wait_until(answers, timeout=60)
        yield parameters
    finally:
        processes.end(bouncer)
        with connections["orders"].cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{name}" RESET ALL')


def test_limits_hold_for_those_who_cannot_ask_for_them(pooled: dict[str, Any]) -> None:
    with psycopg.connect(**pooled, options="-c statement_timeout=1") as silent:  # PgBouncer ignores `options`
        assert silent.execute(SHOW).fetchone() == ("50000",)
        silent.execute("CREATE TABLE kept_locked ()")
        began = time.monotonic()
        with psycopg.connect(**pooled) as other:  # for which there is no other connection to the server
            assert other.execute(SHOW).fetchone() == ("50000",)
        assert time.monotonic() - began < 30
        with pytest.raises(psycopg.Error):
            silent.execute("SELECT 1")
        silent.close()


def test_the_limit_of_a_call_does_not_stay_for_the_next_client(
    pooled: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connections["orders"]
    connection.close()
    with monkeypatch.context() as there:
        for name in ("host", "port"):
            there.setitem(connection.settings_dict, name.upper(), pooled[name])
        with statements_end_in(7), connection.cursor() as cursor:
            cursor.execute(SHOW)
            assert int(cursor.fetchone()[0]) <= 7000
        with psycopg.connect(**pooled) as next_client:
            assert next_client.execute(SHOW).fetchone() == ("50000",)
        connection.close()
