"""Processes with all that descend from them."""

import contextlib
import os
import signal
from pathlib import Path


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
