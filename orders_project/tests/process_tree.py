"""Processes with all that descend from them."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from orders_project.embedded import processes


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def signal_family(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and all that descend from it, as far as they are still there."""
    for member in family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, number)


class FailingServer:
    """A server that a test kills, freezes and stops, with all that descend from it; a subclass starts it."""

    grace = 60.0  # seconds for a good end

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """kill -9, as the loss of its machine would."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in good order; kill it if it does not come to an end."""
        if self._process is not None:
            self.thaw()
            processes.end(self._process, grace=self.grace)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        signal_family(self._process.pid, number)
