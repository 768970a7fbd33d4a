"""The whole system as real processes on private servers: start, kill and restart any part of it."""

import contextlib
import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import psycopg
import requests

from orders_project.embedded import CannotRun, places, processes, variable
from orders_project.embedded.services import Services, begin
from orders_project.tests import forked
from orders_project.tests.pgbouncer import PgBouncer

PROJECT = Path(__file__).resolve().parents[2]


def worker(name: str, *aside: str) -> list[str]:
    """The command of a worker of this queue, and of others."""
    queues = ",".join([name, *aside])
    return [
        "-m", "celery", "-q", "-A", "orders_project", "worker", "-Q", queues, "-c", "2", "-n", f"{name}@%h",
        "--without-gossip", "--without-mingle", "-l", "INFO",
    ]  # fmt: skip


class RunningSystem:
    """Servers, databases and topology stand on entering; processes are started by name."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        given: Services | None = None,
        for_tests: bool = True,
        pooled: Collection[str] = ("processing",),
    ) -> None:
        """
        Start private servers for what is not given.

        :param environment: what all processes find in theirs
        :param given: servers that run already; the databases are migrated
        :param for_tests: whether the data need not survive a crash of the machine
        :param pooled: databases that processes reach through PgBouncer, in its transaction mode, if it can be had
        """
        self.home = places.scratch("system")
        self.pooled = [database for database in pooled if variable(database) not in (environment or {})]
        self.given = given or Services()
        self.for_tests = for_tests
        self.environment = dict(environment or {})
        self.running: dict[str, processes.Process] = {}
        self._connections: dict[str, psycopg.Connection[Any]] = {}
        self.port = processes.free_port()
        self.commands: dict[str, list[str]] = {
            "web": ["-m", "gunicorn", "-c", "python:orders_project.gunicorn", "orders_project.wsgi",
                    "--bind", f"127.0.0.1:{self.port}", "--workers", "1", "--threads", "4"],
            "relay": ["manage.py", "relay"],
            "beat": ["-m", "celery", "-q", "-A", "orders_project", "beat", "--pidfile", "", "-l", "INFO"],
            "orders": worker("orders", "orders.webhooks"),
            "payments": worker("payments"),
            "processing": worker("processing"),
        }  # fmt: skip

    def __enter__(self) -> Self:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "AMQP_URL"))}
        self.env = clean | {
            "EMBEDDED": "1", "API_AUTH": "open", "PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "TMPDIR": str(self.home),  # a worker that is killed leaves a folder behind
            "FAKE_PAYMENT_SUCCESS_RATE": "1", "PROCESSING_SUCCESS_RATE": "1", "PYTHONUNBUFFERED": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(self.home / "metrics"), "RATE_LIMIT_LOGINS_PER_MINUTE": "0",
        } | self.environment  # fmt: skip
        with contextlib.ExitStack() as stack:
            stack.callback(places.forget, self.home)
            self._libraries = forked.libraries()  # they are imported while the servers start
            self.services = begin(self.home, clean | self.environment | self.given.env, for_tests=self.for_tests)
            stack.callback(self.services.stop)
            self.services.env |= self.given.env
            self.services.postgres = self.services.postgres or self.given.postgres
            self.env |= self.services.env
            if self.pooled:
                stack.enter_context(self._pooling())
            self._system = self._libraries.with_settings(env=self.env)
            stack.callback(self._system.stop)
            stack.callback(self.stop_all)
            stack.callback(self._disconnect)
            if not self.given.postgres:
                self.manage("migrate_all")
            self.services.await_ready()
            if self.env["AMQP_URL"] != self.services.env["AMQP_URL"]:
                self.env["AMQP_URL"] = self.services.env["AMQP_URL"]
                self._system.stop()  # it starts anew
            self.manage("declare_topology")
            self._at_the_end = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._at_the_end.close()

    @contextlib.contextmanager
    def _pooling(self) -> Iterator[None]:
        """Have PgBouncer between the processes and some of the databases."""
        direct = {variable(database): self.services.env[variable(database)] for database in self.pooled}
        with contextlib.ExitStack() as stack:
            try:
                bouncer = stack.enter_context(PgBouncer(direct.values()))
            except CannotRun:
                self.pooled = []
            else:
                self.pooler = bouncer
                for name, url in direct.items():
                    self.env |= {name: bouncer.url(url), f"{name}_DIRECT": url}
            yield

    def manage(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 300) -> str:
        """Run a manage.py command to its end, which must be a good one; what it printed."""
        said, code = self.ask(*arguments, env=env, timeout=timeout)
        assert code == 0, f"manage.py {' '.join(arguments)}: {said}"
        return said

    def ask(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 300) -> tuple[str, int]:
        """Run a manage.py command to its end; what it printed (also of what went wrong, if something did), its code."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            process = self._spawn(["manage.py", *arguments], output=output, errors=errors, env=env)
            try:
                code = process.wait(timeout=timeout)
            finally:
                processes.end(process, grace=0)
            output.seek(0)
            errors.seek(0)
            return (output.read() + (errors.read() if code else b"")).decode(), code

    def start(
        self, *names: str, env: Mapping[str, str] | None = None, command: list[str] | None = None, wait: bool = True
    ) -> None:
        """
        Start processes by name; each name once at a time. `command` starts another one under a name of its own.

        Waits until the web process answers, unless told not to.
        """
        for name in names:
            assert name not in self.running, f"{name} is running already"
            with self.log(name).open("ab") as log:
                self.running[name] = self._spawn(command or self.commands[name], output=log, env=env)
        if wait and "web" in names:
            self.until(self._web_answers)

    def _spawn(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None, output: IO[bytes], errors: IO[bytes] | None = None
    ) -> processes.Process:
        """Run `python ARGV…`, which reads the settings anew where it has an environment of its own."""
        if env:
            return self._libraries.spawn(argv, env=self.env | dict(env), output=output, errors=errors)
        return self._system.spawn(argv, output=output, errors=errors)

    def _web_answers(self) -> bool:
        try:
            return requests.get(self.url("/health/started"), timeout=60).ok
        except requests.RequestException:
            return False

    def start_all(self) -> None:
        """Start whatever is not running."""
        self.start(*(name for name in self.commands if name not in self.running))

    def stop(self, name: str) -> None:
        processes.end(self.running.pop(name), grace=60)

    def stop_all(self) -> None:
        for process in self.running.values():
            process.terminate()
        for name in list(self.running):
            self.stop(name)

    def kill(self, name: str) -> None:
        """kill -9, with all of its children."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def query(self, service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask a service's database, on a connection that is kept for the next time."""
        connection = self._connections.get(service)
        if connection is None or not _is_alive(connection):
            connection = psycopg.connect(self.direct(service), autocommit=True, prepare_threshold=None)
            self._connections[service] = connection
        cursor = connection.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []

    def direct(self, service: str) -> str:
        """The address of a service's database, past PgBouncer."""
        return self.env.get(f"{variable(service)}_DIRECT") or self.env[variable(service)]

    def _disconnect(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def until(self, done: Callable[[], Any], *, timeout: float = 180) -> None:
        """Wait until this is true; says which process has died if one has, and shows the logs if time is up."""
        deadline, pause = time.monotonic() + timeout, 0.02
        while not done():
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended: {processes.tail(self.log(name), lines=40)}"
            assert time.monotonic() < deadline, "\n".join(
                f"--- {name}\n{processes.tail(self.log(name))}" for name in self.running
            )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.3)  # what has not come soon is asked for less often: questions cost, too


def _is_alive(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has not closed this connection, as one does that was restarted."""
    if connection.closed:
        return False
    if not select.select([connection], [], [], 0)[0]:  # an idle server says nothing but good-bye
        return True
    connection.close()
    return False
