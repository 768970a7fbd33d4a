"""Child processes that never outlive us, free ports, and the orphans of a run that was killed."""

import contextlib
import fcntl
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from . import CannotRun, places

TETHER = Path(__file__).with_name("tether.py")


class NotReady(CannotRun):
    """A server ended or stayed silent while it was starting."""

    code = "not_ready"


class Process(Protocol):
    """A child process: a `subprocess.Popen`, or one that a fork server has forked for us."""

    pid: int
    returncode: int | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def terminate(self) -> None: ...


def write_program(path: Path, text: str) -> None:
    """
    Store a script that can be run at once.

    # Note [Text file busy]: nobody can run a file as long as somebody has it open for writing, and what one thread has
    open is open as well in a child that another thread starts, until that runs its own program. So a child writes it.
    """
    command: list[str | Path] = ["/bin/sh", "-c", 'cat > "$0" && chmod 755 "$0"', path]
    subprocess.run(command, input=text, text=True, check=True, env={"PATH": os.defpath})


def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    output: IO[bytes] | int,
    cwd: Path | None = None,
    uid: int | None = None,
    gid: int | None = None,
    farewell: signal.Signals = signal.SIGTERM,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """
    Start a process in a session of its own: Ctrl-C reaches us alone, and we decide when it ends.

    The kernel sends it `farewell` when the calling thread dies, however it dies; so call this from a
    thread that lives as long as the process should.
    """
    identity = ["-", "-"] if uid is None else [str(uid), str(gid)]
    tether: list[str | Path] = [sys.executable, "-I", "-S", TETHER, str(os.getpid()), str(farewell.value), *identity]
    return subprocess.Popen(
        [*tether, *argv],
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end(process: Process, *, by: signal.Signals = signal.SIGTERM, grace: float = 20) -> None:
    """Ask the process to end, wait, and take down whatever is left of its group."""
    if process.returncode is not None:
        return
    if not _exited(process):
        process.send_signal(by)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: _exited(process), timeout=grace)
    # Not reaped yet, so its group's number cannot have gone to somebody else.
    _kill_group(process.pid)
    process.wait()


def _exited(process: Process) -> bool:
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return process.returncode is not None or os.waitid(os.P_PID, process.pid, flags) is not None


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def wait_until(done: Callable[[], bool], *, timeout: float, every: float = 0.05) -> None:
    """
    Wait for something to become true.

    :raises TimeoutError: if it does not in time
    """
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain")
        time.sleep(every)


def await_ready(
    process: Process,
    ready: Callable[[], bool],
    *,
    name: str,
    log: Path,
    timeout: float,
    hear_out: Callable[[], object] = lambda: None,
) -> None:
    """
    Wait until the server answers.

    :param hear_out: waits until the last words of one that has ended are in its log
    :raises NotReady: with the end of its log, if it ends first or takes too long
    """

    def settled() -> bool:
        return process.poll() is not None or ready()

    with contextlib.suppress(TimeoutError):
        wait_until(settled, timeout=timeout)
        if process.returncode is None:
            return
    if process.returncode is not None:
        hear_out()
    fate = f"ended with code {process.returncode}" if process.returncode is not None else "did not answer"
    raise NotReady(f"{name} {fate} within {timeout:g} s. The end of {log}:\n{tail(log)}")


def tail(log: Path, *, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"


def remember(process: Process, path: Path) -> None:
    """Note which process this is, so that a later run can tell whether it still lives."""
    path.write_text(f"{process.pid} {_birth(process.pid)}")


def end_orphan(path: Path, *, by: signal.Signals = signal.SIGTERM, grace: float = 20) -> None:
    """End the process noted there, if a killed run left it behind. A reused pid is not mistaken for it."""
    try:
        pid, birth = (int(word) for word in path.read_text().split())
    except (FileNotFoundError, ValueError):
        return
    if _birth(pid) == birth:
        os.kill(pid, by)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: _birth(pid) != birth, timeout=grace)
        if _birth(pid) == birth:
            _kill_group(pid)
            wait_until(lambda: _birth(pid) != birth, timeout=5)
    path.unlink(missing_ok=True)


def is_elsewhere(pid: int | str, folder: Path) -> bool:
    """Whether there is such a process and it works in another folder: a server's pid that is noted may be reused."""
    try:
        works_in = Path(f"/proc/{pid}/cwd")
        return works_in.exists() and works_in.resolve() != folder
    except PermissionError:  # of another user
        return True


def _birth(pid: int) -> int:
    """When the kernel says this process began; 0 if there is none, or it is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if after_name[0] == "Z" else int(after_name[19])


def free_port(*, preferred: int | None = None) -> int:
    """
    A free port on the loopback interface, below the range from which outgoing connections are taken.

    # Note [Found is not taken]: seconds may pass until a server listens there. So each is handed out once, by all
    processes of this user that live, of any copy of the project: whoever found it keeps a lock on its byte of a file.
    """
    for candidate in [preferred, *random.sample(range(20_000, 32_000), 200)]:
        if candidate and is_free(candidate) and (candidate == preferred or _claimed(candidate)):
            return candidate
    raise CannotRun("no port is free on 127.0.0.1")


@functools.cache
def _claims(pid: int) -> int:
    """Opened once a process: closing any handle of the file would give back every lock that the process has."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    try:
        return os.open(places.SHELF / f"orders-ports-{os.getuid()}", flags, 0o600)
    except OSError:  # nothing can be written there
        return os.open(places.cache() / "ports", flags, 0o600)


def _claimed(port: int) -> bool:
    """Whether this port is ours alone from now on, as long as this process lives."""
    if port in _ours:
        return False
    try:
        fcntl.lockf(_claims(os.getpid()), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    _ours.add(port)
    return True


_ours: set[int] = set()


def free_port_from(first: int, *, is_named: bool = False) -> int:
    """
    The first port from this one on that is free, and handed out to no other process (see `free_port`).

    :param is_named: whether the first one was asked for by name: whoever did so may have found it for us
    """
    for candidate in range(first, min(first + 1000, 65_536)):
        if is_free(candidate) and ((is_named and candidate == first) or candidate in _ours or _claimed(candidate)):
            return candidate
    raise CannotRun(f"no port from {first} on is free on 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether nothing listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
