"""A circuit breaker: stop asking a service that doesn't answer, and find out gently when it does again."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum


class State(IntEnum):
    """The numbers are what metrics show."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitOpen(Exception):
    """The call was not made: the service failed too often a moment ago."""

    code = "circuit_open"


class Breaker:
    """
    Guards the calls to one service: `with breaker.attempt(): call()`.

    `threshold` failures in a row open it; after `rest` seconds exactly one attempt is let through, as a probe, and its
    end decides. Only the exceptions in `failures` count as failures: a refusal is an answer, so the service is well.

    It is shared by the threads of a process and not between processes: each finds out for itself, which costs the
    service `threshold` calls a process, and needs no store that could be down too.
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
        self._era = 0  # rises when it opens or closes, so that slow attempts of an earlier era change nothing

    @property
    def state(self) -> State:
        with self._lock:
            if self._opened_at is None:
                return State.CLOSED
            return State.HALF_OPEN if self._probing or self._rested() else State.OPEN

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """
        Make a call inside of this.

        :raises CircuitOpen: if the call must not be made now
        """
        era = self._enter()
        try:
            yield
        except self.failures:
            self._leave(era, well=False)
            raise
        except Exception:
            self._leave(era, well=True)
            raise
        except BaseException:  # interrupted: that tells nothing about the service
            self._leave(era, well=None)
            raise
        else:
            self._leave(era, well=True)

    def _rested(self) -> bool:
        return self._opened_at is not None and self._clock() - self._opened_at >= self.rest

    def _enter(self) -> int:
        with self._lock:
            if self._opened_at is not None:
                if self._probing or not self._rested():
                    raise CircuitOpen(f"{self.name} is resting.")
                self._probing = True
                self._era += 1
            return self._era

    def _leave(self, era: int, *, well: bool | None) -> None:
        with self._lock:
            if era != self._era:
                return
            probe, self._probing = self._probing, False
            if well:
                self._failed, self._opened_at = 0, None
                self._era += probe
            elif well is False:
                self._failed += 1
                if probe or self._failed >= self.threshold:
                    self._opened_at = self._clock()
                    self._era += 1
