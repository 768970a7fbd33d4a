"""The backups of docker/compose.yaml: its own commands, without containers. What they kept is there again."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orders_project.embedded import places, processes
from orders_project.embedded.postgres import FOR_TESTS, USER, Postgres
from orders_project.embedded.postgres_sources import data_of
from outbox import gauges

from . import compose

pytestmark = pytest.mark.processes


class Deployed:
    """The server and the backups of one database, as compose.yaml runs them."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder, self.scripts = home, home / "backups", home / "scripts"
        self.user = places.server_user()
        shutil.copytree(compose.DOCKER / "postgres", self.scripts)
        for part in ("", "base", "wal"):
            (self.folder / part).mkdir()
            if self.user is not None:
                os.chown(self.folder / part, self.user.pw_uid, self.user.pw_gid)
        services = compose.load({name: value or "x" * 60 for name, value in compose.example().items()})["services"]
        self.backup = services["backup-orders"]
        given = [
            self._here(word).removeprefix("-c").partition("=") for word in services["postgres-orders"]["command"][1:]
        ]
        settings = {name: value for name, _, value in given}
        assert settings["archive_mode"] == "on"
        self.server = Postgres(home / "postgres", settings=FOR_TESTS | settings)
        self.server.start()

    def _here(self, word: str) -> str:
        return word.replace("/backups", str(self.folder)).replace("/scripts", str(self.scripts))

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        user: dict[str, Any] = (
            {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}
        )
        path = f"{self.server.installation.programs}{os.pathsep}{os.environ['PATH']}"
        environment = {**self.server.installation.env, "PATH": path, **(env or {})}
        return subprocess.run(
            [self._here(word) for word in command],
            env=environment, cwd="/", capture_output=True, text=True, timeout=300, check=False, **user,
        )  # fmt: skip

    def back_up(self, keep: int = 7) -> list[str]:
        """Run the service that makes backups, once; the backups that there are."""
        address = {
            "PGHOST": "127.0.0.1", "PGPORT": str(self.server.port), "PGUSER": USER, "PGPASSWORD": self.server.password,
            "PGDATABASE": "postgres",
        }  # fmt: skip
        done = self.run(*self.backup["entrypoint"], str(keep), "once", env=address)
        assert done.returncode == 0, done.stderr
        return sorted(path.name for path in (self.folder / "base").iterdir())

    @property
    def data(self) -> Path:
        return data_of(self.server.home)

    def restore(self, *moment: str, limit: str = "unlimited") -> subprocess.CompletedProcess[str]:
        """:param limit: the size of a file that may be written, in half kilobytes: as on a disk that is full"""
        command = f'ulimit -f {limit}; exec sh /scripts/restore.sh /backups "$@"'
        return self.run("sh", "-c", command, "sh", *moment, env={"PGDATA": str(self.data)})

    def dies(self) -> None:
        """The server ends as by a power cut: one that is stopped archives first what it has written."""
        self.server.kill()
        (self.data / "postmaster.pid").unlink()

    def restored(self, *moment: str) -> list[int]:
        """The numbers that are there after a restore to this moment."""
        self.server.stop()
        done = self.restore(*moment)
        assert done.returncode == 0, done.stderr
        self.server.start()
        processes.wait_until(lambda: self.ask("SELECT pg_is_in_recovery()") == [(False,)], timeout=120)
        return self.numbers()

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def write(self, number: int) -> str:
        """Store a number; a moment, in whole seconds, at which it is the last one."""
        self.ask(f"INSERT INTO numbers VALUES ({number})")
        self.ask("SELECT pg_sleep(1)")  # moments are whole seconds
        ((now,),) = self.ask("SELECT clock_timestamp()")
        return f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def numbers(self) -> list[int]:
        return [number for (number,) in self.ask("SELECT number FROM numbers ORDER BY 1")]

    def begin_of(self, base: str) -> str:
        """Where in the log a backup begins."""
        label = (self.folder / "base" / base / "backup_label").read_text()
        return label.split("(file ", 1)[1][8:24]

    def archived(self) -> None:
        """Wait until what was written is in the archive."""
        ((file,),) = self.ask("SELECT pg_walfile_name(pg_switch_wal())")
        processes.wait_until((self.folder / "wal" / f"{file}.gz").exists, timeout=120)

    def gauges(self) -> dict[str, float]:
        with psycopg.connect(self.server.url("postgres")) as connection:
            cursor = connection.execute(gauges.ARCHIVE, {"database": "orders"})
            (row,) = cursor.fetchall()
            return dict(zip(("failing", "late"), map(float, row[1:]), strict=True))


@pytest.fixture
def deployed() -> Iterator[Deployed]:
    home = places.scratch("compose")
    try:
        found = Deployed(home)
        found.ask("CREATE TABLE numbers (number int)")
        yield found
        found.server.stop()
    finally:
        places.forget(home)


def test_every_moment_since_the_oldest_backup_can_be_had_again(deployed: Deployed) -> None:
    deployed.write(1)
    deployed.back_up()
    second = deployed.write(2)
    deployed.write(3)
    assert deployed.restored(second) == [1, 2]
    assert (deployed.folder / "base" / "wanted").exists()  # a backup follows each restore
    deployed.back_up()
    assert not (deployed.folder / "base" / "wanted").exists()
    deployed.write(4)
    deployed.archived()
    assert deployed.restored() == [1, 2, 4]


def test_what_was_not_archived_yet_is_taken_over(deployed: Deployed) -> None:
    deployed.back_up()
    deployed.write(1)
    deployed.dies()
    assert deployed.restored() == [1]


def test_what_another_server_has_left_is_not_taken_over(deployed: Deployed) -> None:
    deployed.back_up()
    deployed.server.stop()
    ours = (deployed.data / "global" / "pg_control").read_bytes()
    for name, control in (("AA", ours), ("BB", ours[::-1])):
        left = deployed.folder / f"replaced-{name}"
        for file, content in (("global/pg_control", control), (f"pg_wal/0000000900000000000000{name}", b"")):
            (left / file).parent.mkdir(parents=True)
            (left / file).write_bytes(content)
    assert deployed.restore().returncode == 0
    assert [path.name[-2:] for path in (deployed.data / "pg_wal").glob("00000009*")] == ["AA"]


def test_old_backups_go_with_the_log_that_only_they_needed(deployed: Deployed) -> None:
    (first,) = deployed.back_up()
    deployed.write(1)
    deployed.archived()
    before = set((deployed.folder / "wal").glob("*.gz"))
    (second,) = deployed.back_up(keep=1)
    assert second > first
    assert before - set((deployed.folder / "wal").glob("*.gz"))
    deployed.write(2)
    assert deployed.restored() == [1, 2]


def test_the_log_after_a_restore_outlives_backups_from_before_it(deployed: Deployed) -> None:
    """They are further ahead in the log than those that were made since."""
    deployed.back_up()
    one = deployed.write(1)
    for number in range(2, 6):
        deployed.write(number)
        deployed.archived()
    deployed.back_up()
    assert deployed.restored(one) == [1]
    deployed.back_up()
    later = deployed.write(7)
    deployed.archived()
    deployed.write(8)
    ahead, first = sorted(path.name for path in (deployed.folder / "base").iterdir())[-2:]
    assert deployed.begin_of(ahead) > deployed.begin_of(first)
    assert ahead in deployed.back_up(keep=3)
    assert deployed.restored(later) == [1, 7]


def test_a_restore_that_fails_changes_nothing_or_is_begun_again(deployed: Deployed) -> None:
    deployed.back_up()
    deployed.write(1)
    deployed.server.stop()
    refused = deployed.restore(limit="2000")
    assert refused.returncode == 1
    assert "could not be copied to" in refused.stderr.splitlines()[-1]
    assert not list(deployed.folder.glob("repl*"))
    deployed.server.start()
    assert deployed.numbers() == [1]
    deployed.write(2)
    deployed.dies()
    (file,) = deployed.folder.glob("base/*/global/pg_filenode.map")
    mode = file.stat().st_mode
    file.chmod(0)  # a disk that cannot be read
    assert deployed.restore().returncode
    assert not (deployed.data / "PG_VERSION").exists()  # so no server starts in it
    file.chmod(mode)
    assert deployed.restored() == [1, 2]
    assert len([*deployed.folder.glob("repl*"), *deployed.folder.glob("repl*/repl*")]) == 1


@pytest.mark.parametrize(
    ("moment", "why"),
    [("yesterday", "yesterday is no moment"), ("2001-01-01T00:00:00Z", "no backup in"), ("", "the server runs")],
)
def test_what_cannot_be_had_is_refused_and_everything_stays(deployed: Deployed, moment: str, why: str) -> None:
    deployed.back_up()
    deployed.write(1)
    done = deployed.restore(*filter(None, [moment]))
    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert deployed.numbers() == [1]


def test_the_gauges_show_an_archive_that_fails_and_one_that_works_again(deployed: Deployed) -> None:
    deployed.write(1)
    deployed.archived()
    processes.wait_until(lambda: deployed.gauges() == {"failing": 0, "late": 0}, timeout=120)
    wal = deployed.folder / "wal"
    wal.rename(deployed.folder / "away")
    deployed.write(2)
    deployed.ask("SELECT pg_switch_wal()")
    processes.wait_until(lambda: deployed.gauges()["failing"] == 1, timeout=120)
    assert deployed.gauges()["late"] > 0
    (deployed.folder / "away").rename(wal)
    processes.wait_until(lambda: deployed.gauges() == {"failing": 0, "late": 0}, timeout=240)
