"""A short run of `make chaos`, and its parts: schedules, proxies, and bugs to plant that still fit the code."""

import ast
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orders_project.embedded.services import Services
from orders_project.tests.chaos import planted, schedule
from orders_project.tests.chaos.proxy import Proxies
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


@pytest.mark.processes
def test_nothing_is_lost_and_nothing_done_twice(given: Callable[..., Services], tmp_path: Path) -> None:
    faults = schedule.make(SEED, seconds=SECONDS, spare=(*SHARED, "clock", "alarm"), every=1.0)
    assert len({fault.kind for fault in faults}) >= 4
    timeline = tmp_path / "timeline.txt"
    report = run(faults, seed=SEED, seconds=SECONDS, rate=2, path=timeline, given=given("chaos"))
    assert report.findings == [], timeline.read_text()
    assert report.memory.accepted
