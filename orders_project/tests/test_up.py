"""`manage.py up`: everything by one command, and nothing left of it."""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import requests

from orders_project.embedded import CannotRun, places, processes
from orders_project.embedded.backup_folder import Backups
from orders_project.embedded.up import environment

from .process_tree import family
from .test_embedded import lives

GIVEN = ("PATH", "HOME", "LANG", "ORDERS_CACHE")


class Run:
    """The embedded run in a folder and on ports of its own, with nothing else in its environment."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        clean = {name: os.environ[name] for name in GIVEN if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=places.PROJECT,
            env=clean | {"DATA": str(data), "PROCESSING_SUCCESS_RATE": "1"} | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in map(bytes.decode, output):
                self.said.append(line)
                self._lines.put(line)

    def until_it_says(self, words: str, *, timeout: float = 600) -> str:
        """The line with these words."""
        try:
            while words not in (line := self._lines.get(timeout=timeout)):
                pass
        except queue.Empty:
            pytest.fail(f"no word of {words!r}:\n{''.join(self.said[-60:])}")
        return line

    def end(self, by: signal.Signals) -> int:
        """Send the signal, wait for the end; the exit status."""
        self.process.send_signal(by)
        return self.process.wait(timeout=180)


def address_of(data: Path, variable: str) -> str:
    """An address of a run, as `make manage` finds it."""
    return dict(line.split("=", 1) for line in (data / "env").read_text().splitlines())[variable]


def title(pid: int) -> str:
    """The name of a process, as `ps` shows it."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    places.forget(folder)


Up = Callable[..., Run]


@pytest.fixture
def up(data: Path) -> Iterator[Up]:
    """Starts runs, which end with the test, however it ends."""
    with ExitStack() as stack:

        def start(**environment: str) -> Run:
            run = Run(data, **environment)
            stack.callback(processes.end, run.process, grace=180)
            return run

        yield start


@pytest.mark.processes
class TestUp:
    def test_runs_everything_serves_an_order_heals_and_leaves_no_process(self, up: Up, data: Path) -> None:
        port, gateway = processes.free_port(), processes.free_port()
        with socket.create_server(("127.0.0.1", port)):
            run = up(PORT=str(port), FAKE_GATEWAY_PORT=str(gateway))
            assert f"port {port} is taken" in run.until_it_says("is taken")
            api = run.until_it_says("API   ").split()[1].removesuffix("/orders")
            password = run.until_it_says("Admin  ").split()[-1]
            run.until_it_says("Ctrl-C stops")

        assert api != f"http://127.0.0.1:{port}"
        order = requests.post(
            f"{api}/orders",
            json={"user_id": "demo-rich", "amount": "19.99", "description": "A lamp"},
            timeout=60,
        )
        assert order.status_code == 201
        where = f"{api}/orders/{order.json()['order_id']}"
        processes.wait_until(lambda: requests.get(where, timeout=60).json()["status"] == "done", timeout=180)
        assert processes.answers(gateway)
        assert (data / "admin-password").read_text() == password

        asked = subprocess.run(
            [sys.executable, "manage.py", "order", order.json()["order_id"]],
            cwd=places.PROJECT, env={"PATH": os.environ["PATH"], "DATA": str(data)},
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert "done" in asked.stdout, asked.stderr

        self.the_tour_works_as_printed(data, port=api.rpartition(":")[2])

        second = up()
        assert f"in use by process {run.process.pid}" in second.until_it_says("in use")
        assert second.process.wait(timeout=180) == 1

        started = family(run.process.pid)
        assert len(started) > 15
        with psycopg.connect(address_of(data, "DATABASE_URL")) as connection:
            sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            assert connection.execute(sessions).fetchone()[0] <= 20  # type: ignore[index]
        assert run.end(signal.SIGINT) == 0
        processes.wait_until(lambda: not any(map(lives, started)), timeout=60)

        again = up(PORT=str(port), FAKE_GATEWAY_PORT=str(gateway))
        again.until_it_says("Ctrl-C stops")
        kept = requests.get(f"http://127.0.0.1:{port}/orders/{order.json()['order_id']}", timeout=60)
        assert kept.json()["status"] == "done"

        self.heals_though_what_forks_its_parts_is_killed(again)
        started = family(again.process.pid)
        assert again.end(signal.SIGKILL) == -signal.SIGKILL
        processes.wait_until(lambda: not any(map(lives, started[1:])), timeout=60)

    def the_tour_works_as_printed(self, data: Path, *, port: str) -> None:
        printed = (places.PROJECT / "README.md").read_text()
        (tour,) = (block for block in re.findall(r"```bash\n(.*?)```", printed, re.DOTALL) if "URL=" in block)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", tour], cwd=places.PROJECT, env={"PATH": path, "PORT": port, "DATA": str(data)},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert not done.stderr, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        placed, third, third_later, third_story, fourth, fourth_later, balance, _, _, _, sixth, *_ = answers
        assert (placed["status"], third["order_id"], fourth["order_id"]) == ("reserved", "tour-3", "tour-4")
        assert third_story["results"][0]["type"] == "order.created"
        assert (third_later["order_id"], fourth_later["order_id"], sixth["order_id"]) == ("tour-3", "tour-4", "tour-6")
        assert balance["user_id"] == "demo-rich"
        assert "Idempotency-Replayed: true" in done.stdout
        assert "orders_created_total" in done.stdout
        assert "ledger imbalance" in done.stdout
        for order, ends in {"tour-3": {"done"}, "tour-4": {"failed"}, "tour-6": {"done", "canceled"}}.items():
            where = f"http://127.0.0.1:{port}/orders/{order}"
            processes.wait_until(lambda: requests.get(where, timeout=60).json()["status"] in ends, timeout=180)  # noqa: B023

    def heals_though_what_forks_its_parts_is_killed(self, run: Run) -> None:
        relay = next(pid for pid in family(run.process.pid) if title(pid) == "relay")
        servers = [pid for pid in family(run.process.pid) if title(pid) == "fork server"]
        assert len(servers) == 2
        for pid in [*servers, relay]:
            os.kill(pid, signal.SIGKILL)
        assert "code -9" in run.until_it_says("ended with code")
        run.until_it_says("relaying")
        assert relay not in family(run.process.pid)

    def test_says_in_one_line_what_is_wrong_with_a_variable(self, up: Up) -> None:
        run = up(AMQP_URL="amqp://nobody@127.0.0.1:1//", PAYMENT_TIMEOUT_SECONDS="soon")
        line = run.until_it_says("PAYMENT_TIMEOUT_SECONDS")
        assert "'soon' is not a number of seconds" in line
        assert run.process.wait(timeout=180) == 1
        assert not [words for words in run.said if "Traceback" in words]


@pytest.mark.parametrize("name", ["PORT", "GRPC_PORT", "FAKE_GATEWAY_PORT"])
@pytest.mark.parametrize("value", ["abc", "0", "-1", "70000", "1_000", "\u0663", "9" * 5000])
def test_what_is_no_port_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(CannotRun, match=f"{name}: .* is not a port: name one from 1 to 65535"):
        environment({name: value}, data=tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_what_is_no_folder_is_said_in_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / name
    monkeypatch.setenv("ORDERS_CACHE", str(folder))
    for use in (places.cache, lambda: places.claim(folder), lambda: Backups(folder).prepare()):
        with pytest.raises(CannotRun, match="it is no folder; name others by DATA, ORDERS_CACHE and BACKUPS"):
            use()
