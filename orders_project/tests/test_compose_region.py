"""The second region of compose.standby-region.yaml: its script makes a standby and runs it, with no container."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orders_project.embedded import places, processes
from orders_project.embedded.postgres import FOR_TESTS, Postgres
from orders_project.embedded.postgres_sources import data_of

from . import compose

pytestmark = pytest.mark.processes
PASSWORD = "x" * 60


class Regions:
    """A primary that may be followed, as compose.primary-region.yaml lets it be, and the folder of a standby."""

    def __init__(self, home: Path) -> None:
        self.home, self.user = home, places.server_user()
        scripts = shutil.copytree(compose.DOCKER / "postgres", home / "scripts")
        # The image's own entrypoint would start the server; here a test does.
        entrypoint = home / "docker-entrypoint.sh"
        processes.write_program(entrypoint, '#!/bin/sh\necho "starts: $*"\n')
        variables = {name: value or PASSWORD for name, value in compose.example().items()}
        primary, self.standby = (
            compose.load(variables, f"{role}-region")["services"]["postgres-orders"] for role in ("primary", "standby")
        )
        (hba,) = [word for word in primary["command"] if word.startswith("-chba_file=")]
        shutil.copy(scripts / Path(hba).name, home / "pg_hba.conf")
        (home / "pg_hba.conf").chmod(0o644)
        self.server = Postgres(home / "primary", settings=FOR_TESTS | {"hba_file": str(home / "pg_hba.conf")})
        self.server.start()
        self.follower = Postgres(home / "standby", settings=FOR_TESTS)
        self.data = data_of(self.follower.home)
        self.data.mkdir(parents=True, mode=0o700)
        self.follower.home.chmod(0o711)
        (self.follower.home / "password").write_text(self.server.password)
        if self.user is not None:
            os.chown(self.data, self.user.pw_uid, self.user.pw_gid)

    def run(self) -> subprocess.CompletedProcess[str]:
        """What the standby's container does before its server starts."""
        user: dict[str, Any] = (
            {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}
        )
        programs = self.server.installation.programs
        env = self.server.installation.env | self.standby["environment"]
        env |= {
            "PATH": os.pathsep.join([str(self.home), str(programs), os.environ["PATH"]]),
            "PGDATA": str(self.data), "PRIMARY": f"127.0.0.1:{self.server.port}",
        }  # fmt: skip
        interpreter, script = self.standby["entrypoint"]
        script = script.replace("/scripts", str(self.home / "scripts"))
        return subprocess.run(
            [interpreter, script, "postgres"],
            env=env, cwd="/", capture_output=True, text=True, timeout=300, check=False, **user,
        )  # fmt: skip


@pytest.fixture
def regions() -> Iterator[Regions]:
    home = places.scratch("regions")
    try:
        found = Regions(home)
        tell(found.server, f"CREATE ROLE replicator REPLICATION LOGIN PASSWORD '{PASSWORD}'")
        yield found
        found.follower.stop()
        found.server.stop()
    finally:
        places.forget(home)


def tell(server: Postgres, statement: str) -> Any:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


def test_a_standby_is_copied_once_and_follows_until_it_is_promoted(regions: Regions) -> None:
    (regions.data / "copying").mkdir()  # a first copy was cut short
    done = regions.run()
    assert (done.returncode, done.stdout) == (0, "starts: postgres\n"), done.stderr
    regions.follower.start()
    tell(regions.server, "CREATE TABLE numbers AS SELECT 1 AS number")
    processes.wait_until(
        lambda: tell(regions.follower, "SELECT to_regclass('numbers') IS NOT NULL") == [(True,)], timeout=120
    )
    assert tell(regions.follower, "SELECT pg_promote()") == [(True,)]
    tell(regions.follower, "INSERT INTO numbers VALUES (2)")
    regions.follower.stop()
    done = regions.run()  # its container starts again
    assert (done.returncode, done.stdout) == (0, "starts: postgres\n"), done.stderr
    regions.follower.start()
    assert tell(regions.follower, "SELECT count(*) FROM numbers") == [(2,)]


def test_a_standby_of_a_primary_that_was_restored_follows_it(regions: Regions) -> None:
    """The settings of the restore are the primary's own: a standby would stop at their moment, or promote itself."""
    settings = data_of(regions.server.home) / "postgresql.auto.conf"
    restored = "restore_command = 'false'\nrecovery_target_timeline = 'current'\nrecovery_target_action = 'promote'\n"
    settings.write_text(settings.read_text() + restored + "recovery_target_time = '2026-01-01T00:00:00+00'\n")
    done = regions.run()
    assert done.returncode == 0, done.stderr
    regions.follower.start()
    tell(regions.server, "CREATE TABLE numbers AS SELECT 1 AS number")
    processes.wait_until(
        lambda: tell(regions.follower, "SELECT to_regclass('numbers') IS NOT NULL") == [(True,)], timeout=120
    )
    assert tell(regions.follower, "SELECT pg_is_in_recovery()") == [(True,)]


def test_a_primary_of_before_is_not_started_as_a_second_one(regions: Regions) -> None:
    for name in ("PG_VERSION", "postgresql.auto.conf"):
        shutil.copy(data_of(regions.server.home) / name, regions.data / name)
        (regions.data / name).chmod(0o644)
    done = regions.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert "has the data of a primary" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (regions.data / "PG_VERSION").exists()
