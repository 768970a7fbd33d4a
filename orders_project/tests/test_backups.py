"""What was backed up is there again, as it was at that moment; what cannot be had is refused, and nothing is lost."""

import resource
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from orders_project.embedded import DATABASES, places, variable
from orders_project.embedded.backup_folder import Backups, NoBackup
from orders_project.embedded.backups import backup, main, restore
from orders_project.embedded.places import HomeInUse
from orders_project.embedded.postgres_sources import data_of
from orders_project.embedded.services import Services, begin
from orders_project.embedded.up import up
from orders_project.tests.running_system import RunningSystem

ORDER = {"user_id": "demo-rich", "items": [{"sku": "demo-lamp", "quantity": 1, "price": 39.9}]}
DONE = "SELECT count(*) FROM orders_order WHERE status = 'done' AND order_id = ANY(%s)"

pytestmark = pytest.mark.processes


class Server:
    """A run of PostgreSQL alone, with a table that tells one moment from another."""

    def __init__(self, home: Path) -> None:
        self.data, self.backups = home / "data", Backups(home / "back ups at 100%")
        self.data.mkdir(mode=0o711)
        self.services: Services | None = None

    def start(self) -> None:
        elsewhere = {variable(name): "postgres://elsewhere" for name in DATABASES if name != "orders"}
        env = {"BACKUPS": str(self.backups.folder), "AMQP_URL": "amqp://elsewhere", **elsewhere}
        self.services = begin(self.data, env, for_tests=True)

    def stop(self) -> None:
        if self.services is not None:
            self.services.stop()
            self.services = None

    def dies(self) -> None:
        """It ends as by a power cut: one that is stopped archives first what it has written."""
        assert self.services is not None
        assert self.services.postgres is not None
        self.services.postgres.kill()
        self.stop()

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        assert self.services is not None
        assert self.services.postgres is not None
        with psycopg.connect(self.services.postgres.url("orders"), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def write(self, number: int) -> datetime:
        """Store a number; a moment at which it is the last one."""
        self.ask(f"INSERT INTO numbers VALUES ({number})")
        return self.ask("SELECT clock_timestamp()")[0][0]

    def numbers(self) -> list[int]:
        return [number for (number,) in self.ask("SELECT number FROM numbers ORDER BY 1")]

    def restored(self, to: datetime | None) -> list[int]:
        """The numbers that are there after a restore to this moment."""
        self.stop()
        restore(self.data, self.backups, to=to)
        self.start()
        return self.numbers()


@pytest.fixture
def server() -> Iterator[Server]:
    home = places.scratch("backups")
    server = Server(home)
    server.start()
    server.ask("CREATE TABLE numbers (number int)")
    yield server
    server.stop()
    places.forget(home)


def test_every_moment_since_the_first_backup_can_be_had_again_and_again(server: Server) -> None:
    server.write(1)
    first = backup(server.data, server.backups)
    two = server.write(2)
    backup(server.data, server.backups)
    three = server.write(3)
    server.write(4)
    assert server.restored(three) == [1, 2, 3]
    server.write(6)
    assert server.restored(None) == [1, 2, 3, 6]  # the branch that the restore began
    kept = sorted((server.backups.folder / "base").iterdir())
    assert kept[0] == first
    assert len(kept) == 4  # two, and one after each restore
    assert server.backups.forget(keep=3) == [first]
    assert server.restored(three) == [1, 2, 3]  # on the branch that was left, with the second one
    server.stop()
    with pytest.raises(NoBackup, match=r"the oldest backup in .* is of "):
        restore(server.data, server.backups, to=two)


def test_the_log_after_a_restore_outlives_backups_from_before_it(server: Server) -> None:
    """They are further ahead in the log than those that were made since."""
    backup(server.data, server.backups)
    one = server.write(1)
    for number in range(2, 6):
        server.write(number)
        server.ask("SELECT pg_switch_wal()")
    ahead = backup(server.data, server.backups)
    assert server.restored(one) == [1]
    seven = server.write(7)
    last = backup(server.data, server.backups)
    server.write(8)
    server.backups.forget(keep=3)
    kept = sorted((server.backups.folder / "base").iterdir())
    assert (kept[0], kept[-1]) == (ahead, last)
    assert server.restored(seven) == [1, 7]


def test_the_folder_belongs_to_one_run(server: Server) -> None:
    """The log of another run between its files, and the other's keys beside its databases, would spoil both."""
    (server.data / "secret-key").write_text("one")
    server.write(1)
    backup(server.data, server.backups)
    (server.data / "secret-key").write_text("two")  # rotated meanwhile
    backup(server.data, server.backups)
    server.stop()
    first = server.data
    server.data = first.with_name("another")
    server.data.mkdir(mode=0o711)
    with pytest.raises(NoBackup, match="are of another run: restore them, or name another folder"):
        server.start()
    folder, server.backups = server.backups, Backups(first.with_name("more backups"))
    server.start()
    (server.data / "secret-key").write_text("three")
    server.ask("CREATE TABLE numbers (number int)")
    with pytest.raises(NoBackup, match="are of another run"):
        backup(server.data, folder)
    backup(server.data, server.backups)
    server.backups = folder
    assert server.restored(None) == [1]  # with the password of its own
    assert (server.data / "secret-key").read_text() == "two"
    assert [path.read_text() for path in server.data.glob("secret-key.before-*")] == ["three"]


def test_a_lost_disk_costs_nothing_that_was_archived_and_secrets_come_back(server: Server) -> None:
    (server.data / "secret-key").write_text("one")
    server.write(1)
    backup(server.data, server.backups)  # it waits until all of this is archived
    assert oct((server.backups.folder / "keys" / "secret-key").stat().st_mode)[-3:] == "600"
    server.dies()
    shutil.rmtree(server.data)
    shutil.rmtree(places.stand_in(server.data / "postgres"), ignore_errors=True)
    server.data.mkdir(mode=0o711)
    (server.data / "encryption-key").write_text("another")
    assert server.restored(None) == [1]
    assert (server.data / "secret-key").read_text() == "one"
    assert (server.data / "encryption-key").read_text() == "another"


def test_what_cannot_be_done_leaves_everything_as_it_was(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", str(server.data))
    monkeypatch.delenv("BACKUPS", raising=False)
    for command, arguments, why in (
        ("backup", [], "BACKUPS=/a/folder/on/another/disk"),
        ("backup", ["--folder", str(tmp_path)], "archives nothing in"),
        ("backup", ["--keep", "0"], "2"),
        ("restore", ["--to", "yesterday"], "2"),
        ("restore", [], "BACKUPS=/a/folder/on/another/disk"),
    ):
        with pytest.raises(SystemExit, match=why):
            main(command, arguments)
    backup(server.data, server.backups)
    server.write(1)
    with pytest.raises(HomeInUse):
        restore(server.data, server.backups, to=None)
    server.stop()
    with pytest.raises(NoBackup, match="no PostgreSQL runs in"):
        backup(server.data, server.backups)
    for to, why in (
        (datetime.now(UTC) + timedelta(days=1), "ends before"),
        (datetime(2020, 1, 1, tzinfo=UTC), "the oldest backup in"),
    ):
        with pytest.raises(NoBackup, match=why):
            restore(server.data, server.backups, to=to)
    server.start()
    assert server.numbers() == [1]
    shutil.rmtree(server.backups.wal)
    with pytest.raises(NoBackup, match="could not be archived"):
        backup(server.data, server.backups)


def test_of_two_at_once_one_is_refused(server: Server) -> None:
    """Or else the folder that the first one is about to call complete would be half written by the second one."""
    under_way = server.backups.folder / "base" / "unfinished" / "PG_VERSION"
    under_way.parent.mkdir(parents=True)
    under_way.touch()
    with places.claim(server.backups.folder), pytest.raises(HomeInUse):
        backup(server.data, server.backups)
    assert under_way.exists()
    backup(server.data, server.backups)
    assert not under_way.exists()


def test_a_restore_that_was_killed_is_begun_again_and_loses_nothing(server: Server) -> None:
    server.write(1)
    backup(server.data, server.backups)
    (server.backups.folder / "base" / "of last yearZ").mkdir()  # by a person
    server.write(2)
    server.dies()
    folder = data_of(server.data / "postgres")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))  # as on a disk that is full
    try:
        with pytest.raises(NoBackup, match="could not be copied, and everything is as it was"):
            restore(server.data, server.backups, to=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [one.name for one in folder.parent.glob("data*")] == ["data"]
    another = folder.with_name("data.before-20261031T000000.000000Z")
    control, log = Path("global", "pg_control"), Path("pg_wal", "0000000900000000000000AA")
    for file, content in ((control, (folder / control).read_bytes()[::-1]), (log, b"")):
        (another / file).parent.mkdir(parents=True)
        (another / file).write_bytes(content)
    folder.rename(f"{folder}.before-20261101T000000.000000Z")
    folder.with_name("data.restoring").mkdir()
    assert server.restored(None) == [1, 2]
    assert not (folder / log).exists()  # what another server has left is none of its own


def test_a_run_with_databases_elsewhere_is_not_half_backed_up(tmp_path: Path) -> None:
    with pytest.raises(NoBackup, match="DATABASE_URL_ORDERS name others"):
        up({"DATA": str(tmp_path), "BACKUPS": str(tmp_path), "DATABASE_URL_ORDERS": "postgres://elsewhere"})


def test_orders_go_on_from_the_moment_that_was_restored() -> None:
    """Everything is destroyed under load; then what was done is done, what was under way goes on, and all adds up."""
    folder = places.scratch("backups")
    try:
        with RunningSystem({"BACKUPS": str(folder / "all")}) as system:
            backups = Backups(folder / "all")

            def place(number: int) -> list[str]:
                orders = [requests.post(system.url("/orders"), json=ORDER, timeout=60) for _ in range(number)]
                return [order.json()["order_id"] for order in orders]

            def ended(ids: list[str]) -> bool:
                return system.query("orders", DONE, ids) == [(len(ids),)]

            system.manage("load_demo", "--password-file", str(system.home / "password"))
            system.start("web", "relay", "beat", "orders", "payments", "processing")
            done = place(10)
            system.until(lambda: ended(done))
            backup(system.home, backups)
            done += place(10)
            system.until(lambda: ended(done))
            system.stop("payments")
            under_way = place(10)
            ((moment,),) = system.query("orders", "SELECT clock_timestamp()")
            time.sleep(0.01)
            lost = place(5)
            system.start("payments")
            for name in list(system.running):
                system.kill(name)
            assert system.services.postgres is not None
            assert system.services.rabbitmq is not None
            servers = (system.services.postgres, system.services.rabbitmq)
            for server in servers:
                server.kill()
            restore(system.home, backups, to=moment)
            for server in servers:
                server.start()
            system.manage("declare_topology")
            system.start_all()
            system.manage("resend", "--grace", "0s")
            system.until(lambda: ended(done + under_way))
            assert [requests.get(system.url(f"/orders/{one}"), timeout=60).status_code for one in lost] == [404] * 5
            new = place(3)
            system.until(lambda: ended(new))
            system.manage("audit", "--grace", "0", "--settle", "1")
    finally:
        places.forget(folder)
