"""manage.py wait: what it says, when it gives up, and what it becomes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orders_project.embedded import processes

from . import forked

pytestmark = pytest.mark.processes

NOBODY = "postgres://app:secret-word@127.0.0.1:1/payments"


class Waiting:
    """The command, and what it says."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "DJANGO_"))}
        env = kept | {"EMBEDDED": "1", "SERVICES": "none"} | environment
        read, write = os.pipe()
        self.complaints = os.fdopen(read)
        with os.fdopen(write, "wb") as errors:
            command = ["python", "manage.py", "wait", *arguments]
            self.process = forked.start(command, env=env, output=subprocess.PIPE, errors=errors)

    def ended(self) -> tuple[int, str, str]:
        """Wait for the end; the status, and what was printed and complained of."""
        assert self.process.stdout is not None
        with self.process.stdout as printed, self.complaints:
            said, complained = printed.read().decode(), self.complaints.read()
        return self.process.wait(timeout=300), said, complained


def test_what_does_not_come_is_named_at_the_end_without_its_password() -> None:
    status, _, said = Waiting(
        "--seconds", "1", SERVICES="payments", DATABASE_URL_PAYMENTS=NOBODY, DATABASE_POOL="4"
    ).ended()
    first, last = said.splitlines()
    assert status == 1
    assert first.startswith("wait: waiting for database payments (")
    assert last.startswith("CommandError: gave up after 1 s without database payments (")
    assert "Connection refused" in last
    assert "secret-word" not in said


def test_a_broker_that_is_away_is_waited_for() -> None:
    status, _, said = Waiting("--seconds", "0.1", AMQP_URL="amqp://a:b@127.0.0.1:1//").ended()
    assert (status, "without broker (" in said) == (1, True)


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [(("--", "sh", "-c", "echo $SERVICES; exit 3"), 3, "none\n"), (("echo", "-n", "x"), 0, "x"), ((), 0, "")],
)
def test_then_it_becomes_the_command(command: tuple[str, ...], status: int, said: str) -> None:
    assert Waiting(*command).ended()[:2] == (status, said)


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    # For exec both count as found and forbidden: a folder that we may not enter, and, for root too, a folder so named.
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "open/no-such-command").mkdir(parents=True)
    path = os.pathsep.join([f"{tmp_path}/closed", f"{tmp_path}/open", os.environ["PATH"]])
    status, _, said = Waiting("--", "no-such-command", PATH=path).ended()
    assert (status, "no-such-command cannot be run: No such file or directory" in said) == (1, True)


def test_a_command_that_may_not_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes").touch(mode=0o644)
    status, _, said = Waiting("--", "notes", PATH=f"{tmp_path}:{os.environ['PATH']}").ended()
    assert (status, "notes cannot be run: Permission denied" in said) == (1, True)


def test_a_signal_ends_it() -> None:
    waiting = Waiting(AMQP_URL="amqp://a:b@127.0.0.1:1//")
    assert "waiting for broker" in waiting.complaints.readline()
    waiting.process.send_signal(signal.SIGTERM)
    assert waiting.ended()[0] == 128 + signal.SIGTERM


FORWARD = """
import socket, sys, threading
def pipe(one, other):
    while data := one.recv(65536):
        other.sendall(data)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    near, _ = server.accept()
    far = socket.create_connection((sys.argv[2], int(sys.argv[3])))
    for ends in ((near, far), (far, near)):
        threading.Thread(target=pipe, args=ends, daemon=True).start()
"""


def test_a_server_that_comes_late_is_found() -> None:
    real, port = urlsplit(os.environ["AMQP_URL"]), processes.free_port()
    late_one = real._replace(netloc=f"{real.username}:{real.password}@127.0.0.1:{port}").geturl()
    waiting = Waiting("--seconds", "240", AMQP_URL=late_one)
    assert "Connection refused" in waiting.complaints.readline()
    with subprocess.Popen([sys.executable, "-c", FORWARD, str(port), str(real.hostname), str(real.port)]) as late:
        try:
            status, _, said = waiting.ended()
        finally:
            late.kill()
    assert (status, "everything is available" in said) == (0, True)
