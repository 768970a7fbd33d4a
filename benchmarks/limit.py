"""What the database alone could do: the transactions of one order as prepared SQL, under pgbench."""

import os
import re
import subprocess
from pathlib import Path

import psycopg

from benchmarks.measurement import SERVICES
from orders_project.tests.running_system import PROJECT, RunningSystem

UUIDV7_SINCE = 18
UUIDV7 = """
CREATE FUNCTION uuidv7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_bit(set_bit(overlay(
        uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
    ), 52, 1), 53, 1), 'hex')::uuid
$$
"""


def copy_tables(system: RunningSystem) -> str:
    """Copy the tables of all services into one database, for the bare transactions, and return its address."""
    postgres = system.services.postgres
    assert postgres is not None
    url = postgres.url("limit")
    postgres.create_database("limit")
    for service in SERVICES:
        dump = run_tool(system, "pg_dump", system.direct(service))
        # The outbox tables are the same in every service: the second and third time they exist already.
        run_tool(system, "psql", "-q", url, given=dump)
    with psycopg.connect(url, autocommit=True) as connection:
        if postgres.installation.version < UUIDV7_SINCE:
            connection.execute(UUIDV7)
        connection.execute("VACUUM ANALYZE")
    return url


def run_tool(system: RunningSystem, name: str, *arguments: str | Path, given: str = "") -> str:
    """What a program of PostgreSQL prints; of the server's own version."""
    assert system.services.postgres is not None
    tools = system.services.postgres.installation
    done = subprocess.run(
        [tools.programs / name, *arguments],
        env=os.environ | tools.env, input=given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def limit(system: RunningSystem, url: str, *, how_long: tuple[str, str]) -> float:
    """Orders a second of the bare transactions: 16 clients, prepared.

    `how_long` is pgbench's own: ("-T", seconds) or ("-t", transactions of each client).
    """
    script = PROJECT / "benchmarks" / "limit.sql"
    said = run_tool(system, "pgbench", "-n", "-M", "prepared", "-c", "16", "-j", "2", *how_long, "-f", script, url)
    found = re.search(r"tps = ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])
