"""
The time by the clock of a database, which all hosts of a service share.

# Note [Why not the host's clock]: a message that a host five minutes ahead makes due "now" would wait five minutes for
# the relay of another host, whose gauges would say that nothing is late. So whatever is compared with times that other
# hosts have stored is read from one clock: that of the database in which they are stored.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from django.db import connections
from django.utils import timezone

from . import ids
from .errors import Undeliverable

VALID = 30.0  # seconds for which a comparison of the two clocks is used
GOOD = 0.01  # seconds that a good comparison takes at most; the error is not larger
TRIES = 3
STEPPED = 0.5  # seconds by which a host's clock may drift from its monotonic clock before it counts as set anew
SKEWED = 1.0  # seconds from which on ids follow the clock of the database too

_BOOT = getattr(time, "CLOCK_BOOTTIME", None)


def ticks() -> float:
    """Return seconds that only ever grow, also while a process is frozen or its machine sleeps."""
    return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)


@dataclass(frozen=True)
class _Comparison:
    ahead: timedelta  # the database's clock, of this host's
    at: float  # by `ticks`
    wall: float  # this host's clock then, less `ticks`
    seconds: float = 0.0  # what it took, which bounds its error

    @classmethod
    def of(cls, ahead: timedelta) -> Self:
        """Return a comparison that was made now."""
        at = ticks()
        return cls(ahead, at, time.time() - at)

    @property
    def is_valid(self) -> bool:
        now = ticks()
        age = now - self.at
        return age < (VALID if self.seconds <= GOOD else 1.0) and abs(time.time() - now - self.wall) < STEPPED


_comparisons: dict[str, _Comparison] = {}


def moment_of(text: str) -> datetime:
    """
    Return the time that a message names by this text.

    :raises Undeliverable: if it names none, which no further attempt changes
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Undeliverable("malformed", f"{text[:50]!r} is no time.") from None
    if moment.tzinfo is None:
        raise Undeliverable("malformed", f"{text[:50]!r} has no time zone.")
    return moment


def now(using: str) -> datetime:
    """
    Return the time by the clock of this database, never later than it is there.

    It asks the database every now and then, and computes the time in between from the host's clock.
    """
    known = _comparisons.get(using)
    if known is None or not known.is_valid:
        known = _comparisons[using] = _compare(using)
        ids.ahead = int(known.ahead.total_seconds() * 1e9) if abs(known.ahead.total_seconds()) > SKEWED else 0
    return timezone.now() + known.ahead


def _compare(using: str) -> _Comparison:
    """Compare the clocks a few times, and return the comparison that took the shortest time."""
    best: _Comparison | None = None
    with connections[using].cursor() as cursor:
        for _ in range(TRIES):
            best = min(filter(None, (best, _compare_once(cursor))), key=lambda one: one.seconds)
            if best.seconds <= GOOD:
                break
    assert best is not None
    return best


def _compare_once(cursor: Any) -> _Comparison:
    began = ticks()
    cursor.execute("SELECT clock_timestamp()")
    (there,) = cursor.fetchone()
    here, at = time.time(), ticks()
    return _Comparison(there - datetime.fromtimestamp(here, UTC), at, here - at, at - began)
