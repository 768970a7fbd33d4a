"""The signals that ask a process to end."""

import queue
import signal


class StopSignals:
    """
    Ctrl-C and SIGTERM, from now on. Construct it on the main thread, before what is to end in order begins.

    # Note [A handler takes no lock]: Python runs it between two instructions of the main thread, and another one within
    it: a process is often told to end more than once. An Event that is set there waits for ever where the main thread
    has its lock at that moment. Of the queues only this one may be filled from a handler.
    """

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: self._arrived.put(number))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until one arrives, or for some seconds; return whether one has."""
        try:
            self._arrived.get(timeout=timeout)
        except queue.Empty:
            return False
        return True
