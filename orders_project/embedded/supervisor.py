"""A few programs that are started, watched, restarted and stopped together."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from . import CannotRun, processes

LONGEST_PAUSE = 30.0
STEADY = 60.0  # a program that ran this long is forgiven its earlier deaths
SILENCE = 3.0  # seconds of starting without a line of what is waited for
LARGEST_LOG = 20 * 1024 * 1024


class SetupFailed(CannotRun):
    """A command that the others wait for did not succeed."""

    code = "setup_failed"


@dataclass(frozen=True)
class Program:
    """
    What to run, when, and how to tell that it is ready: when `ready` says so, or when it printed `says`.

    It starts when all that `after` names is ready. One that runs `once` is ready when it has succeeded.
    Lines that contain `whispers` go to its log file alone and not to the terminal.
    """

    name: str
    argv: Sequence[str]
    after: Sequence[str] = ()
    once: bool = False
    ready: Callable[[], bool] | None = None
    says: str = ""
    whispers: str = ""
    grace: float = 20


class Supervisor:
    """
    Keeps programs running, with their output on one terminal and in a log file each.

    Each program starts when what it needs is ready, and all are asked to stop in the reverse order. All calls belong
    on one thread, the one that lives as long as the programs should: if it dies, the kernel ends them.
    """

    def __init__(self, *, logs: Path, spawn: Callable[[Sequence[str]], processes.Process]) -> None:
        """:param spawn: starts a process with this argv, its output in a pipe"""
        self.logs = logs
        self._spawn = spawn
        self._kept: list[_Kept] = []
        self._terminal = threading.Lock()
        logs.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        programs: Sequence[Program],
        *,
        parts: Mapping[str, Callable[[], bool]] | None = None,
        timeout: float = 600,
    ) -> None:
        """
        Start all programs and wait until every one is ready.

        :param parts: what else programs come after, by its name: whether it is ready
        :raises NotReady: if one ends or takes too long
        :raises SetupFailed: if one that runs once fails
        """
        began = said_at = time.monotonic()
        asked: dict[str, Callable[[], bool]] = dict(parts or {})
        waiting, ready = list(programs), set[str]()
        while waiting or asked:
            now = time.monotonic()
            for name in [name for name, is_ready in asked.items() if is_ready()]:
                del asked[name]
                ready.add(name)
                self.say("up", f"{name} is ready after {time.monotonic() - began:.1f} s")
            for program in [program for program in waiting if ready.issuperset(program.after)]:
                waiting.remove(program)
                kept = self._launch(program)
                self._kept.append(kept)
                asked[program.name] = partial(self._is_ready, kept)
            if now - began > timeout:
                raise processes.NotReady(f"not ready within {timeout:g} s: {', '.join(asked)}")
            if now - said_at > SILENCE:
                self.say("up", f"waiting for {', '.join(asked)} ({now - began:.0f} s)")
                said_at = now
            time.sleep(0.02)
        self._kept = [kept for kept in self._kept if not kept.program.once]

    def _is_ready(self, kept: "_Kept") -> bool:
        program, code = kept.program, kept.process.poll()
        if code is None:
            return not program.once and kept.is_ready()
        processes.end(kept.process)
        kept.reader.join(timeout=5)
        if program.once and code == 0:
            return True
        failed = f"{program.name} ended with code {code}. The end of {kept.log}:\n{processes.tail(kept.log)}"
        raise SetupFailed(failed) if program.once else processes.NotReady(failed)

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
        kept = _Kept(program=program, process=self._spawn(program.argv), log=log, deaths=deaths)
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
        try:
            return self._launch(dead.program, deaths=dead.deaths + 1)
        except CannotRun as refusal:
            self.say(dead.program.name, f"can't be started, trying again in {LONGEST_PAUSE:g} s: {refusal}")
            dead.revive_at = time.monotonic() + LONGEST_PAUSE
            return dead

    def _relay_output(self, kept: "_Kept") -> None:
        source = kept.process.stdout
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
    process: processes.Process
    log: Path
    deaths: int
    born: float = field(default_factory=time.monotonic)
    revive_at: float | None = None
    spoke: bool = False
    reader: threading.Thread = field(default_factory=threading.Thread)

    def hear(self, line: str) -> None:
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
