"""A short run of `make chaos`, and its parts: schedules, proxies, and bugs to plant that still fit the code."""

import ast
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from django.db import connections
from psycopg.conninfo import make_conninfo

from orders_project.embedded.services import Services
from orders_project.tests.chaos import planted, schedule
from orders_project.tests.chaos.checker import no_neighbor_dies_again
from orders_project.tests.chaos.customers import Memory
from orders_project.tests.chaos.message_faults import POISON, MessageFaults
from orders_project.tests.chaos.proxy import Proxies
from orders_project.tests.chaos.records import Records
from orders_project.tests.chaos.run import run

SEED, SECONDS = 11, 12.0
SHARED = (*schedule.SERVERS, "gateway payments", "broker's disk")  # other tests use the servers as well


def test_for_each_bug_it_is_said_what_provokes_it() -> None:
    assert planted.PROVOKED_BY.keys() == planted.BUGS.keys()
    assert {kind for kinds in planted.PROVOKED_BY.values() for kind in kinds.split(",")} <= schedule.KINDS.keys()


@pytest.mark.parametrize("name", planted.BUGS)
def test_a_planted_bug_fits_the_code(name: str) -> None:
    for text in planted.texts(name).values():
        ast.parse(text)


def test_a_bug_whose_text_is_gone_is_refused(tmp_path: Path) -> None:
    for file, _, _ in planted.BUGS["confirm-ignored"]:
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("another text")
    with pytest.raises(planted.DoesNotFit):
        planted.texts("confirm-ignored", tmp_path)


# A program in the place of chaos that finds something with the third seed alone.
FINDS_SOMETHING = """
import sys
seed = sys.argv[sys.argv.index("--seed") + 1]
print(f"9 customers, {'0' if seed == '9' else '7'} orders accepted")
if seed == "3":
    print("FOUND no_deadlock (1): one")
    sys.exit(1)
"""


@pytest.fixture
def copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What is run instead of a copy with a bug."""

    def plant(name: str, folder: Path) -> Path:
        program = folder / "orders_project" / "tests" / "chaos" / "__main__.py"
        program.parent.mkdir(parents=True)
        program.write_text(FINDS_SOMETHING)
        return folder

    monkeypatch.setattr(planted, "plant", plant)
    return plant("", tmp_path / "copy")


@pytest.mark.processes
def test_a_bug_is_tried_with_other_seeds_until_it_is_caught(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planted.try_all(["confirm-ignored"], seed=2, only="", options=[]) == 0
    said = capsys.readouterr().out
    assert said.index("seed 2") < said.index("nothing was found") < said.index("seed 3") < said.index("no_deadlock")


@pytest.mark.processes
def test_a_bug_is_not_caught_by_time(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planted, "CAUGHT_WITHIN", 0.0)
    assert planted.try_all(["confirm-ignored"], seed=2, only="", options=[]) == 1
    assert "not caught: confirm-ignored" in capsys.readouterr().out


@pytest.mark.processes
def test_a_copy_that_accepts_no_order_shows_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planted.try_all(["confirm-ignored"], seed=9, only="", options=[]) == 1
    assert "NO VERDICT" in capsys.readouterr().out


def test_messages_of_a_batch_die_with_another_once(tmp_path: Path) -> None:
    def found(log: str) -> list[str]:
        (tmp_path / "log").write_text(log)
        return list(no_neighbor_dies_again(Records({}, gateway="", memory=Memory(), log=tmp_path / "log")))

    alone = "LOG:  chaos: dies with a\n"
    together = "LOG:  chaos: dies with a b\nSTATEMENT:  INSERT\n"
    assert found(together + alone * 5) == []
    assert len(found(together * 3)) == 2


def test_a_seed_makes_one_schedule() -> None:
    first, again, other = (list(map(str, schedule.make(seed, seconds=300))) for seed in (7, 7, 8))
    assert first == again != other
    assert {fault.kind for fault in schedule.make(7, seconds=3600)} == schedule.KINDS.keys()
    assert {fault.kind for fault in schedule.make(7, seconds=300, only=("kill", "freeze"))} == {"kill", "freeze"}


@pytest.fixture
def link() -> Iterator[tuple[Proxies, socket.socket]]:
    """A proxy in front of a server that sends back what it gets, and a connection through it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            connection, _ = server.accept()
            with connection, suppress(ConnectionResetError):
                while data := connection.recv(1024):
                    connection.sendall(data)

        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        with (
            Proxies(echo=lambda: server.getsockname()[1]) as proxies,
            socket.create_connection(("127.0.0.1", proxies.links["echo"].port), timeout=60) as client,
        ):
            client.sendall(b"here")
            assert client.recv(1024) == b"here"
            yield proxies, client
        thread.join(60)


def test_an_answer_is_lost_with_its_connection(link: tuple[Proxies, socket.socket]) -> None:
    proxies, client = link
    proxies.links["echo"].loses = 1.0
    client.sendall(b"one")
    with pytest.raises(ConnectionResetError):
        client.recv(1024)


def test_answers_alone_can_be_lost() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxies(server=lambda: server.getsockname()[1]) as proxies,
        socket.create_connection(("127.0.0.1", proxies.links["server"].port), timeout=60) as client,
    ):
        connection, _ = server.accept()
        with connection:
            connection.settimeout(60)
            proxies.hold("server", answers_only=True)
            client.sendall(b"one")
            assert connection.recv(1024) == b"one"
            connection.sendall(b"two")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(1024)
            proxies.reset("server")
            client.settimeout(60)
            with pytest.raises(ConnectionResetError):
                client.recv(1024)


def test_what_is_sent_into_a_black_hole_comes_out_when_it_is_over(link: tuple[Proxies, socket.socket]) -> None:
    proxies, client = link
    proxies.hold("echo")
    client.sendall(b"one")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1024)
    client.settimeout(60)
    proxies.let_pass("echo")
    assert client.recv(1024) == b"one"


def test_a_reset_cuts_a_connection(link: tuple[Proxies, socket.socket]) -> None:
    proxies, client = link
    proxies.reset("echo")
    with pytest.raises(ConnectionResetError):
        client.recv(1024)


@pytest.mark.django_db(transaction=True, databases=["processing"])
def test_a_worker_that_takes_poison_is_killed() -> None:
    made = connections["processing"].get_connection_params()
    url = make_conninfo(**{name: made[name] for name in ("dbname", "host", "port", "user", "password") if name in made})
    faults, killed = MessageFaults({"processing": url}), list[str]()
    poison = schedule.Fault(0, "poison", "inbox of processing", 1, {"one_in": 1, "salt": 5})
    taken = "INSERT INTO outbox_incomingmessage VALUES (gen_random_uuid(), '', '', 0, now(), now())"
    with psycopg.connect(url, autocommit=True) as connection, ThreadPoolExecutor() as pool:
        connection.execute(POISON)
        try:
            connection.execute(taken)
            assert not faults.dies("processing", kill=killed.append)
            faults.begin(poison)
            handled = pool.submit(psycopg.connect(url).execute, taken)
            while not faults.dies("processing", kill=killed.append):
                assert not handled.done()
            with pytest.raises(psycopg.errors.AdminShutdown):
                handled.result()
            assert killed == ["processing"]
            faults.mend(poison)
            connection.execute(taken)
        finally:
            connection.execute("DROP TABLE chaos_poison; DROP FUNCTION chaos_poison CASCADE")


@pytest.mark.processes
def test_nothing_is_lost_and_nothing_done_twice(given: Callable[..., Services], tmp_path: Path) -> None:
    faults = schedule.make(SEED, seconds=SECONDS, spare=(*SHARED, "clock", "alarm"), every=1.0)
    assert len({fault.kind for fault in faults}) >= 4
    timeline = tmp_path / "timeline.txt"
    report = run(faults, seed=SEED, seconds=SECONDS, rate=2, path=timeline, given=given("chaos"))
    assert report.findings == [], timeline.read_text()
    assert report.memory.accepted
