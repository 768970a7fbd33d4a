"""Locks for work that has no row to lock yet, and how long threads wait for locks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from outbox.store import Rows, Statement


def turn(name: str) -> Statement:
    """The statement that waits for the lock of this name, and holds it until the transaction ends."""
    return Statement("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])


def take_turn(using: str, name: str) -> None:
    """Wait for the lock of this name in the database `using`, and hold it until the transaction ends."""
    Rows(using).run(turn(name))


BRIEFLY = "250ms"


class LongWaits:
    """Lets so many threads of this process wait for locks at a time; the others wait `BRIEFLY`."""

    def __init__(self, most: int) -> None:
        self._free = threading.Semaphore(most)

    @contextmanager
    def one(self) -> Iterator[list[Statement]]:
        """What a transaction has to run before it waits for a lock: nothing, unless all the others wait already."""
        is_free = self._free.acquire(blocking=False)
        try:
            yield [] if is_free else [Statement("SELECT set_config('lock_timeout', %s, true)", [BRIEFLY])]
        finally:
            if is_free:
                self._free.release()
