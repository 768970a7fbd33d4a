"""
Whether a new order can still be finished in time; if not, it is refused before anything is stored.

# Note [How late is the system]: a new order waits for the orders before it. `late` is the age of the oldest order that
# waits, and `wait` how long the newest one will wait: the orders that wait ÷ those that have ended a second. Refusing
# by `late` alone would swing: it says how things stood when that order came, so all orders would be accepted for a
# while after too many of them had been, and none for a while after that. But orders wait for a moment on an idle system
# too, where few have ended lately; so `wait` counts only where the system is late in fact.
#
# An order counts that waits for us. One that is older than the newest order that has ended does not: the line is past
# it, so it waits for something else, such as a customer, a person, or a message that is a dead letter. Nor does one
# whose gateway has not said that the money is there. What remains is a few if the system keeps up, and the oldest of
# them is a moment old.

# Where the web itself cannot keep up, requests wait there, before they are orders: then those that have waited for long
# are refused, before their clients give up.

# Note [A few are always accepted]: the share that is refused rises with the wait, so that all processes, each of which
# draws lots for itself, accept about as many orders as are finished. It never is one: the orders that are accepted
# show that the system has recovered, even if those that wait never end.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from django.conf import settings
from django.db import connections
from django.utils.translation import gettext as _g

from common.admission import lot, waited
from common.errors import Refusal
from outbox import clock

from .metrics import ORDERS_SHED
from .models import ENDS, Status

EVERY = 1.0  # seconds for which a measurement is used
AT_MOST = 5.0  # seconds for which it is where none can be made
FEW = 10  # orders that may wait however long: more may be stuck than these before others are refused for it
LARGEST_SHARE = 0.98  # that is refused
MOST = 20_000  # orders that are counted
HALF_A_MINUTE = 30  # is as good as anything to measure by where nothing is refused
QUEUE = (1.0, 4.0)  # seconds that a request waits for a thread, from which on the first, and nearly all, are refused
RETRY_AFTER = 60  # seconds, if all were refused
SPREAD = 1.5  # between the shortest and the longest time that clients are asked to wait, so that they come apart
OURS = (Status.PAID, Status.RELEASING)  # statuses in which an order that is paid through a gateway waits for us

# Note [Ordered and limited]: so that the planner, which cannot know how many orders follow a number, takes the index;
# OFFSET keeps it from counting what has ended once for each time that the wait is named, or where it does not matter.
MEASURE = """
SELECT line.orders_waiting, line.orders_late_seconds, expected.orders_wait_seconds,
       CASE WHEN line.orders_waiting <= %(few)s OR NOT %(is_on)s THEN 0
            ELSE least(%(largest)s, greatest(0, expected.orders_wait_seconds / %(above)s - 1))
       END::float8 AS orders_shed_share
FROM (
    SELECT count(*) AS orders_waiting,
           coalesce(extract(epoch FROM statement_timestamp() - min(since)), 0)::float8 AS orders_late_seconds
    FROM (
        SELECT status, payment_method, CASE payment_method WHEN 'gateway' THEN status_since ELSE created_at END AS since
        FROM orders_order
        WHERE number > coalesce(
            (SELECT number FROM orders_order WHERE status = ANY (%(ends)s) AND number IS NOT NULL
             ORDER BY number DESC LIMIT 1), 0)
        ORDER BY number LIMIT %(most)s
    ) newer
    WHERE status <> ALL (%(ends)s) AND (payment_method <> 'gateway' OR status = ANY (%(ours)s))
) line
CROSS JOIN LATERAL (
    SELECT CASE WHEN line.orders_late_seconds <= %(above)s / 2 THEN line.orders_late_seconds
           ELSE least(3600, line.orders_waiting * %(above)s / greatest(0.001, (
               SELECT count(*) FROM (
                   SELECT FROM orders_order
                   WHERE updated_at > statement_timestamp() - %(above)s * interval '1 second'
                     AND status = ANY (%(ends)s)
                   LIMIT %(most)s
               ) ended
           ))) END::float8 AS orders_wait_seconds
    OFFSET 0
) expected
"""


class Overloaded(Refusal):
    """The system is late, and this order would be even later."""

    code = "overloaded"

    def __init__(self, share: float) -> None:
        # Note [The more are refused, the later they come back]: or else those that obey come faster than they go.
        after = max(1, round(share * RETRY_AFTER * random.uniform(1, SPREAD)))
        super().__init__(_g("Too many orders wait at this moment. Try again later."), extra={"retry_after": after})

    def counted(self) -> Self:
        """Count it: it is what the client is told."""
        ORDERS_SHED.inc()
        return self


@dataclass(frozen=True)
class Backlog:
    """The orders that wait for this system alone: how many, and for how many seconds; and what follows from it."""

    waiting: int
    late: float  # the one that has waited longest
    wait: float  # that a new one has to expect
    share: float  # of new orders that are refused


NOTHING = Backlog(waiting=0, late=0.0, wait=0.0, share=0.0)


def parameters() -> dict[str, Any]:
    """The parameters of `MEASURE`."""
    return {
        "above": settings.SHED_ABOVE or HALF_A_MINUTE,
        "is_on": settings.SHED_ABOVE > 0,
        "few": FEW,
        "largest": LARGEST_SHARE,
        "most": MOST,
        "ends": sorted(ENDS),
        "ours": list(map(str, OURS)),
    }


def measure() -> Backlog:
    """Ask the database how late the system is."""
    with connections["orders"].cursor() as cursor:
        cursor.execute(MEASURE, parameters())
        return Backlog(*cursor.fetchone())


_measured: tuple[float, Backlog] | None = None
_measuring = threading.Lock()


def backlog() -> Backlog:
    """How late the system was a moment ago. One request a second and process measures; the others use what it found."""
    global _measured
    known, now = _measured, clock.ticks()
    if known is not None and now - known[0] < EVERY:
        return known[1]
    is_old = known is None or now - known[0] > 2 * EVERY  # nobody has measured lately, or it takes long
    # Note [Waiting for one who measures]: only for a moment. A database that does not answer would keep the next one
    # waiting just as long, and so on, each after the one before.
    if _measuring.acquire(timeout=EVERY if is_old else 0):
        try:
            if _measured is known:
                _measured = (clock.ticks(), measure())
        finally:
            _measuring.release()
    return _measured[1] if _measured is not None else NOTHING


def last_backlog() -> Backlog:
    """What was measured last, without measuring anew."""
    known = _measured
    return known[1] if known is not None and clock.ticks() - known[0] < AT_MOST else NOTHING


def share(found: Backlog) -> float:
    """The share of new orders that is refused: by what waits behind the web, and how long this request has waited."""
    soon, late = QUEUE
    return max(found.share, min(LARGEST_SHARE, (waited.get() - soon) / (late - soon)))


def is_late() -> bool:
    """Whether some new orders are refused at this moment."""
    return bool(settings.SHED_ABOVE) and share(backlog()) > 0


def admit(is_known: Callable[[], bool] = lambda: False) -> None:
    """
    Let a request for an order pass, unless the lot falls on it to be refused.

    :param is_known: whether the order was accepted before, which is asked only where a new one would be refused

    :raises Overloaded: if so; nothing is stored
    """
    if is_late() and (refusal := draw(backlog())) and not is_known():
        raise refusal.counted()


def draw(found: Backlog) -> Overloaded | None:
    """What a new order is refused with, if the lot falls on it. Where the web server has drawn it, that is the lot."""
    drawn, refused = lot.get(), share(found)
    return Overloaded(refused) if (random.random() if drawn is None else drawn) < refused else None
