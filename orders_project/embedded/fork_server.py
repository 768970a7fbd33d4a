"""
A process that imports what the programs of a run need, once, and forks each of them.

    server = ForkServer.bare(env=env, cwd=cwd, log=log)  # imports libraries, which takes seconds of a processor
    system = server.with_settings(env=env)               # forked from it when the addresses are known: Django, all apps
    system.spawn(["manage.py", "relay"], output=log)     # what `python manage.py relay` does, without its imports

# Note [Forked for its client]: a program is forked twice, so that it loses the server as its parent and becomes a child
of the client, which is a subreaper for that moment. So the client waits for it, reads its exit code and ends it like
any child, it gets a signal when the client dies however that happens, and the server may die without harm: a new one
is started for the next program.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from orders_project.embedded import CannotRun, processes

MODULE = "orders_project.embedded.fork_server"
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
# What programs import at their start or first use. The order is of no importance.
LIBRARIES = (
    "celery.apps.beat", "celery.apps.worker", "celery.bin.celery", "celery.concurrency.prefork",
    "celery.events.receiver", "celery.fixups.django", "celery.worker.components", "celery.worker.consumer",
    "cryptography.fernet", "cryptography.hazmat.primitives.serialization", "django.contrib.admin",
    "django.core.management", "django.db.backends.postgresql.base", "django.db.migrations.executor",
    "django.db.models", "google.protobuf.json_format", "grpc", "grpc_health.v1.health",
    "grpc_reflection.v1alpha.reflection", "grpc_status.rpc_status", "gunicorn.app.wsgiapp", "gunicorn.arbiter",
    "gunicorn.workers.gthread", "jwcrypto.jwt", "jwt", "kombu.transport.pyamqp", "limits.storage", "limits.strategies",
    "oauthlib.oauth2", "prometheus_client.multiprocess", "psycopg", "psycopg_pool", "redis", "requests", "structlog",
    "wsgiref.simple_server",
)  # fmt: skip
SYSTEM = (
    "django.db.migrations.executor", "orders_project.grpc.server", "orders_project.gunicorn_worker",
    "orders_project.urls", "outbox.relay", "payments.gateways.server",
)  # fmt: skip


class NoServer(CannotRun):
    """The process that forks programs could not do its imports."""

    code = "no_fork_server"


class Forked:
    """A child process that was forked for us, with the part of `subprocess.Popen` that a supervisor needs."""

    def __init__(self, pid: int, *, stdout: IO[bytes] | None = None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when there is one; :raises subprocess.TimeoutExpired: if there is none in time."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The client's side of one server. Call it from the thread that lives as long as the programs should."""

    def __init__(
        self, launch: Callable[[socket.socket], processes.Process], *, log: Path, after: "ForkServer | None" = None
    ) -> None:
        self.log = log
        self._launch = launch
        self._after = after
        self._process: processes.Process | None = None
        self._ready = False

    @classmethod
    def bare(cls, *, env: Mapping[str, str], cwd: Path, log: Path, python: Path = Path(sys.executable)) -> "ForkServer":
        """A server with the libraries alone: what it forks reads its settings from an environment of its own."""
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # what it says about an earlier run is not why this one fails

        def launch(control: socket.socket) -> processes.Process:
            with log.open("ab") as output:
                command: list[str | Path] = [python, "-m", MODULE]
                return processes.spawn(command, env=env, output=output, cwd=cwd, stdin=control.fileno())

        server = cls(launch, log=log)
        server._start()
        return server

    def with_settings(self, *, env: Mapping[str, str]) -> "ForkServer":
        """Another server, forked from this one when it is first asked for, with Django set up in this environment."""

        def launch(control: socket.socket) -> processes.Process:
            with self.log.open("ab") as output:
                return self.spawn(["-m", MODULE, "settings"], output=output, env=env, stdin=control.fileno())

        return type(self)(launch, log=self.log, after=self)

    def is_ready(self) -> bool:
        """
        Whether all is imported.

        :raises NoServer: if the server has ended over it, with what it said last
        """
        if self._process is None:
            if self._after is not None and not self._after.is_ready():
                return False
            self._start()
        if not self._ready and _readable(self._control):
            self._ready = bool(self._control.recv(1))
            if not self._ready:
                self.stop()
                raise NoServer(processes.tail(self.log))
        return self._ready

    def spawn(
        self,
        argv: Sequence[str],
        *,
        output: IO[bytes] | int,
        errors: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
    ) -> Forked:
        """
        Run `python ARGV…` in a process and session of its own that ends when we do.

        Where `env` is given it replaces the server's own; but what the server has imported has read that.

        :param output: where it prints to; subprocess.PIPE for the new process's `stdout`
        :param errors: where it prints its errors to, if not to `output`
        :raises NoServer: if it can't be started
        """
        read, write = os.pipe() if output == subprocess.PIPE else (None, _fileno(output))
        job = {"argv": list(argv), "env": env and dict(env), "parent": os.getpid()}
        with contextlib.ExitStack() as stack:
            if read is not None:
                stack.callback(os.close, write)
            if stdin is None:
                stdin = os.open(os.devnull, os.O_RDONLY)
                stack.callback(os.close, stdin)
            fds = [stdin, write, write if errors is None else errors.fileno()]
            try:
                pid = self._ask(job, fds)
            except OSError:  # the server was killed
                self.stop()
                pid = self._ask(job, fds)
        return Forked(pid, stdout=None if read is None else os.fdopen(read, "rb"))

    def stop(self) -> None:
        """End the server; what it forked goes on, and another one is started if there is more to fork."""
        if self._process is not None:
            self._control.close()
            processes.end(self._process)
            self._process = None
            self._ready = False

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = self._launch(theirs)

    def _ask(self, job: Mapping[str, Any], fds: Sequence[int]) -> int:
        processes.wait_until(self.is_ready, timeout=300)
        said = json.dumps(job).encode() + b"\n"
        read, write = os.pipe()
        with os.fdopen(read, "rb") as answer, _adopting():
            try:
                sent = socket.send_fds(self._control, [said], [write, *fds])
                self._control.sendall(said[sent:])
            finally:
                os.close(write)
            pid = answer.read()
        if not pid:
            raise ConnectionResetError("the fork server has not answered")
        return int(pid)


def _fileno(output: IO[bytes] | int) -> int:
    return output if isinstance(output, int) else output.fileno()


def _readable(control: socket.socket) -> bool:
    control.settimeout(0)
    try:
        control.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    finally:
        control.settimeout(None)
    return True


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """What loses its parent below us becomes our child: for this moment alone, as nobody would wait for others."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _prctl(PR_SET_CHILD_SUBREAPER, 0)


def _prctl(option: int, value: int | bytes) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# The server's side --------------------------------------------------------------------------------------------------


def main(*arguments: str) -> None:
    """Serve on the socket that is our standard input; in what is forked, run the program that it was forked for."""
    control = socket.socket(fileno=os.dup(0))
    _prctl(PR_SET_NAME, b"fork server")
    for name in LIBRARIES:
        importlib.import_module(name)
    if arguments:
        _set_up()
    gc.collect()
    gc.freeze()  # a collection in a forked process would write to, and so copy, all that is shared
    control.sendall(b".")
    job = _serve(control)
    run(job["argv"])


def _set_up() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders_project.settings")
    import django

    django.setup()
    for name in SYSTEM:
        importlib.import_module(name)


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request. Returns in what was forked alone, with the request."""
    while True:
        said, fds, _flags, _address = socket.recv_fds(control, 65_536, 4)
        while said and not said.endswith(b"\n"):
            said += control.recv(65_536)
        if not said:
            raise SystemExit(0)  # the client has ended
        between = os.fork()
        if not between:
            job: dict[str, Any] = json.loads(said)
            _fork_again()
            control.close()
            _begin(job, *fds)
            return job
        os.waitpid(between, 0)
        for fd in fds:
            os.close(fd)


def _fork_again() -> None:
    between = os.getpid()
    try:
        leaves = os.fork()
    except OSError:
        os._exit(1)
    if leaves:
        os._exit(0)
    os.setsid()
    while os.getppid() == between:
        time.sleep(0.001)


def _begin(job: Mapping[str, Any], answer: int, *standard: int) -> None:
    """Become a process as if it had been started by the client."""
    die_with(job["parent"])
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
        os.close(fd)
    if job["env"] is not None:
        os.environ.clear()
        os.environ.update(job["env"])
    _prctl(PR_SET_NAME, _title(job["argv"]).encode())
    os.write(answer, str(os.getpid()).encode())
    os.close(answer)


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended before the tie was made
        os._exit(1)


def _title(argv: Sequence[str]) -> str:
    """What `ps` and `top` show of it: its first words that tell it from others."""
    return " ".join(word for word in argv if word[:1] != "-" and word not in {"manage.py", "orders_project"})[:15]


def run(argv: Sequence[str]) -> None:
    """What `python ARGV…` does: a file, or -m and a module, with arguments."""
    if argv[0] == "-m":
        sys.argv = [*argv[1:]]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*argv]
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
