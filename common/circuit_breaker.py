"""A circuit breaker: stop calling a remote service that fails, and probe it with single calls until it recovers."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum


class State(IntEnum):
    """The state of a circuit breaker, with the numbers that the metrics export."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitOpen(Exception):
    """The call was not made, because recent calls failed."""

    code = "circuit_open"


class CircuitBreaker:
    """
    Guards the calls to one remote service: `with breaker.attempt(): call()`.

    `threshold` failures in a row open it. After `rest` seconds exactly one call is let through as a probe, and its
    result closes the breaker or opens it again. Only the exceptions in `failures` count as failures: a service that
    refuses a request works.

    The threads of a process share a breaker; processes don't. Each process needs `threshold` failed calls of its own
    to open, but no shared store, which could fail as well.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: tuple[type[Exception], ...],
        threshold: int = 5,
        rest: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.failures = failures
        self.threshold = threshold
        self.rest = rest
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._opened_at: float | None = None
        self._probing = False
        self._era = 0  # incremented when it opens or closes, so that slow calls of an earlier era are ignored

    @property
    def state(self) -> State:
        with self._lock:
            if self._opened_at is None:
                return State.CLOSED
            return State.HALF_OPEN if self._probing or self._rested() else State.OPEN

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """
        Make a call inside this context.

        :raises CircuitOpen: if no call may be made now
        """
        era = self._enter()
        try:
            yield
        except self.failures:
            self._leave(era, healthy=False)
            raise
        except Exception:
            self._leave(era, healthy=True)
            raise
        except BaseException:  # interrupted: this says nothing about the service
            self._leave(era, healthy=None)
            raise
        else:
            self._leave(era, healthy=True)

    def _rested(self) -> bool:
        return self._opened_at is not None and self._clock() - self._opened_at >= self.rest

    def _enter(self) -> int:
        with self._lock:
            if self._opened_at is not None:
                if self._probing or not self._rested():
                    raise CircuitOpen(f"{self.name} is not called for now: recent calls failed.")
                self._probing = True
                self._era += 1
            return self._era

    def _leave(self, era: int, *, healthy: bool | None) -> None:
        with self._lock:
            if era != self._era:
                return
            probe, self._probing = self._probing, False
            if healthy:
                self._failed, self._opened_at = 0, None
                self._era += probe
            elif healthy is False:
                self._failed += 1
                if probe or self._failed >= self.threshold:
                    self._opened_at = self._clock()
                    self._era += 1
