"""Periodic work that follows its backlog: batch after batch until nothing is left, or its share of the time is used."""

import time
from collections.abc import Callable

SHARE = 4.0  # seconds of one run


def work_off(step: Callable[[], int], *, batch: int, seconds: float | None = None) -> int:
    """
    Repeat a step, which handles at most `batch` things and returns how many, until it finds fewer or time is up.

    Returns how many things were handled. Each step commits on its own, so that no lock is held for long.
    """
    ends, handled = time.monotonic() + (SHARE if seconds is None else seconds), 0
    while True:
        handled += (found := step())
        if found < batch or time.monotonic() >= ends:
            return handled
