"""A handful of programs under one roof: started, watched, restarted and stopped together."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from . import CannotRun, processes

LONGEST_PAUSE = 30.0
STEADY = 60.0  # a program that ran this long is forgiven its earlier deaths
LARGEST_LOG = 20 * 1024 * 1024


class SetupFailed(CannotRun):
    """A command that had to succeed before the programs start did not."""

    code = "setup_failed"


@dataclass(frozen=True)
class Program:
    """
    What to run, and how to tell that it is ready: when `ready` says so, or when it printed `says`.

    Lines that contain `whispers` go to its log file alone and not to the terminal.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] | None = None
    says: str = ""
    whispers: str = ""
    grace: float = 20


class Supervisor:
    """
    Keeps programs running, with their output on one terminal and in a log file each.

    Programs start in the order of the table and are asked to stop in reverse. All calls belong on one
    thread, the one that lives as long as the programs should: if it dies, the kernel ends them.
    """

    def __init__(self, *, logs: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.logs = logs
        self._env = env
        self._cwd = cwd
        self._kept: list[_Kept] = []
        self._terminal = threading.Lock()
        logs.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, *argv: str) -> list[str]:
        """
        Run a command to its end; the lines it printed.

        :raises SetupFailed: if it fails
        """
        kept = self._launch(Program(name, argv))
        try:
            code = kept.process.wait()
        finally:
            processes.end(kept.process)
        kept.reader.join(timeout=5)
        if code:
            raise SetupFailed(f"{' '.join(argv[1:])} failed with code {code}; see {kept.log}")
        return kept.lines

    def start(self, programs: Sequence[Program], *, timeout: float = 300) -> None:
        """
        Start all programs and wait until every one is ready.

        :raises NotReady: if one ends or takes too long
        """
        deadline = time.monotonic() + timeout
        for program in programs:
            self._kept.append(self._launch(program))
        for kept in self._kept:
            left = max(1.0, deadline - time.monotonic())
            processes.await_ready(
                kept.process,
                kept.is_ready,
                name=kept.program.name,
                log=kept.log,
                timeout=left,
                hear_out=partial(kept.reader.join, timeout=5),
            )

    def watch(self, *, also: Callable[[], None]) -> NoReturn:
        """Restart what dies, with growing pauses, until a signal ends us; `also` is called at every look."""
        while True:
            for position, kept in enumerate(self._kept):
                if kept.process.poll() is not None:
                    self._kept[position] = self._revive(kept)
            also()
            time.sleep(0.2)

    def stop(self) -> None:
        """Ask all programs to end, the last one first, and wait; those that won't are killed."""
        for kept in reversed(self._kept):
            if kept.process.poll() is None:
                kept.process.terminate()
        for kept in reversed(self._kept):
            processes.end(kept.process, grace=kept.program.grace)
            kept.reader.join(timeout=1)
        self._kept.clear()

    def say(self, name: str, line: str) -> None:
        """A line on the terminal, marked with who said it."""
        with self._terminal, contextlib.suppress(OSError):  # the terminal may be gone
            sys.stdout.write(f"{name:>10} | {line}\n")
            sys.stdout.flush()

    def _launch(self, program: Program, *, deaths: int = 0) -> "_Kept":
        log = self.logs / f"{program.name}.log"
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
        process = processes.spawn(program.argv, env={**self._env, **program.env}, output=subprocess.PIPE, cwd=self._cwd)
        kept = _Kept(program=program, process=process, log=log, deaths=deaths)
        kept.reader = threading.Thread(target=self._relay_output, args=[kept], daemon=True)
        kept.reader.start()
        return kept

    def _revive(self, dead: "_Kept") -> "_Kept":
        if dead.revive_at is None:
            processes.end(dead.process)
            if time.monotonic() - dead.born > STEADY:
                dead.deaths = 0
            pause = min(2.0**dead.deaths, LONGEST_PAUSE)
            dead.revive_at = time.monotonic() + pause
            self.say(dead.program.name, f"ended with code {dead.process.returncode}; starts again in {pause:g} s")
        if time.monotonic() < dead.revive_at:
            return dead
        return self._launch(dead.program, deaths=dead.deaths + 1)

    def _relay_output(self, kept: "_Kept") -> None:
        source: IO[bytes] | None = kept.process.stdout
        assert source is not None
        with source, kept.log.open("ab") as log:
            for raw in source:
                log.write(raw)
                log.flush()
                line = raw.decode(errors="replace").rstrip()
                if not (kept.program.whispers and kept.program.whispers in line):
                    self.say(kept.program.name, line)
                kept.hear(line)


@dataclass
class _Kept:
    program: Program
    process: subprocess.Popen[bytes]
    log: Path
    deaths: int
    born: float = field(default_factory=time.monotonic)
    revive_at: float | None = None
    lines: list[str] = field(default_factory=list)
    spoke: bool = False
    reader: threading.Thread = field(default_factory=threading.Thread)

    def hear(self, line: str) -> None:
        del self.lines[:-500]
        self.lines.append(line)
        self.spoke = self.spoke or (bool(self.program.says) and self.program.says in line)

    def is_ready(self) -> bool:
        return self.spoke if self.program.says else self.program.ready is None or self.program.ready()


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """
    Turn the first Ctrl-C, SIGTERM or hang-up into SystemExit, and let no later one disturb the clean-up.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(0)

    before = {each: signal.signal(each, leave) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
