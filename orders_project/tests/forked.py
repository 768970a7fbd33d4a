"""
Programs of the project, forked from a process that has imported the libraries, where each interpreter would do so anew.

Each of them reads the settings from an environment of its own, as a container does.
"""

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import django

from orders_project.embedded import fork_server, places, processes
from orders_project.embedded.fork_server import ForkServer

PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = {"python": [], "gunicorn": ["-m", "gunicorn"], "celery": ["-m", "celery"]}


@functools.cache
def libraries() -> ForkServer:
    """What forks: one in each process that runs tests, until that ends."""
    home = places.scratch("imports")
    env = os.environ | {"PYTHONUNBUFFERED": "1", "PROMETHEUS_MULTIPROC_DIR": str(home)}
    server = ForkServer.bare(env=env, cwd=PROJECT, log=home / "imports.log")

    def stop() -> None:
        server.stop()
        places.forget(home)

    atexit.register(stop)
    return server


def start(
    command: Sequence[str], *, env: Mapping[str, str], output: IO[bytes] | int, errors: IO[bytes] | None = None
) -> fork_server.Forked:
    """
    Run `python …`, `gunicorn …` or `celery …`, with nothing but this environment.

    What follows `manage.py wait --` is run when that has ended, by the same process if it is one of the three.
    """
    return libraries().spawn(["-m", __name__, *command], env=env, output=output, errors=errors)


def run(command: Sequence[str], *, env: Mapping[str, str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The same, to its end; what it printed, and its exit code."""
    with tempfile.TemporaryFile("w+b") as output, tempfile.TemporaryFile("w+b") as errors:
        process = start(command, env=env, output=output, errors=errors)
        try:
            code = process.wait(timeout=timeout)
        finally:
            processes.end(process, grace=0)
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(command, code, output.read().decode(), errors.read().decode())


# In the process that was forked ---------------------------------------------------------------------------------------


def main(*command: str) -> None:
    """Be this program, once it may begin."""
    _let_the_settings_choose_how_to_count()
    waiting, then = _parted(command)
    if then:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders_project.settings")
        django.setup()  # once, for what waits and for what comes then
        if code := _ends_with(waiting):
            raise SystemExit(code)
    program, *arguments = then or command
    arguments = [*PROGRAMS[program], *arguments]
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as `python -c` does
    else:
        fork_server.run(arguments)


def _parted(command: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """What waits, and the program of ours to run then; the latter is empty if there is none."""
    if "wait" in command and "--" in command:
        at = command.index("--")
        if command[at + 1] in PROGRAMS:
            return command[:at], command[at + 1 :]
    return command, ()


def _ends_with(command: Sequence[str]) -> int:
    """
    Run a program in a child process that ends with us; its exit code.

    Whoever waits has read the settings and changed some of them, and none of that may be left to what comes then.
    """
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        fork_server.die_with(parent)
        main(*command)
        raise SystemExit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _let_the_settings_choose_how_to_count() -> None:
    """Decide at the first metric whether it is counted in a file, as an interpreter would: when settings are read."""
    from prometheus_client import values

    def first(*arguments: object, **options: object) -> object:
        values.ValueClass = values.get_value_class()
        return values.ValueClass(*arguments, **options)

    values.ValueClass = first


if __name__ == "__main__":
    main(*sys.argv[1:])
