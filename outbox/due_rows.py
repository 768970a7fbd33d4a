"""
Which rows of an outbox are due.

# Note [Where to begin]: the index entry of a row that was sent stays until a vacuum removes it, and none can while an
older snapshot is open (a backup, a long report). Whoever begins at the beginning of the index walks over all of them
each time. So a look begins where the last one found the first row, less what a transaction may take from the time it
gives its rows to its commit. Rows that appear before that (of a slower transaction, or of a relay that died) are found
by looking everywhere, now and then: at least once a second while that is quick, and never for more than a twentieth of
the time.

# Note [Never sorted]: rows are locked one by one until there are enough of them. A sort below would read all that is
due, with its data, for each batch: after an outage a second each. So an index has them in this order. In partitions by
day that is not enough. The planner expects nothing to be due, because nothing was at the last ANALYZE; then to read
empty partitions as they are, and to sort, seems to cost less than to merge what their indexes have. So it may not sort
there. Each row says whether it is in a partition, as a table may become partitioned, and one again, at any time.
"""

import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction

from . import clock
from .attempts import backoff
from .models import OutgoingMessage
from .services import database_of, model_of
from .store import Rows, Statement

# Note [Due by the database's own clock]: what a process computes of it (see clock.py) is early by what its comparison
# took, some milliseconds. A relay that was just woken would find that what it was woken for is due only in a moment.
CLAIM = (
    "WHERE published_at IS NULL AND due_at >= %s AND due_at <= greatest(%s, statement_timestamp() - %s)"
    " ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED"
)
CLAIM_OF = CLAIM.replace("WHERE", "WHERE type = ANY(%s) AND", 1)
NEXT = "WHERE published_at IS NULL AND due_at >= %s ORDER BY due_at LIMIT 1"
WITHOUT_SORT = Statement("SET LOCAL enable_sort TO off", [])
IS_BY_DAY = f"tableoid <> '{OutgoingMessage._meta.db_table}'::regclass"
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
SLOWEST = timedelta(seconds=2)  # from the due time of a row to the commit of its transaction, as a rule
EVERYWHERE = 1.0  # seconds between two looks at the whole index
SHARE = 20  # times as long as such a look took, at least

# Note [Put off, and late all the same]: a relay makes a row due later each time that the broker does not take it, which
# may go on for hours. So how long it has been due is told by how often it was put off, and by the pauses in between. No
# column tells it: `first_due_at` of what a consumer tries again is the time of the first attempt. What is scheduled for
# later, or is to be tried again, was not put off by a relay, and is due when it says.
STEADY = 4  # attempts to publish, from which on the pauses between them grow no more; before, they are short
FURTHEST = timedelta(seconds=30)  # from now, to which a row is put off
DUE_SINCE = (
    f"due_at - CASE WHEN publish_attempts < {STEADY} THEN interval '0'"
    f" ELSE interval '{sum(backoff(n, spread=0).total_seconds() for n in range(STEADY))} seconds'"
    f" + (publish_attempts - {STEADY}) * interval '{backoff(STEADY, spread=0).total_seconds()} seconds' END"
)
MAY_BE_LATE = (
    "published_at IS NULL"
    f" AND due_at <= statement_timestamp() + interval '{FURTHEST.total_seconds()} seconds' AND {DUE_SINCE}"
)  # and a comparison with a time: what has been due since then


@dataclass
class DueRows:
    """The rows of a service that are to be sent."""

    service: str
    _begin: datetime = BEGINNING
    _everywhere_at: float = 0.0
    _is_by_day: bool = False

    def claim(self, *, now: datetime, limit: int, overdue: timedelta = timedelta(0)) -> Sequence[OutgoingMessage]:
        """Lock the rows that have been due for this long, the oldest first, and return them."""
        rows = self._look(CLAIM, now - overdue, overdue, limit)
        self._begin = (rows[0].due_at if rows else now - overdue) - SLOWEST
        return rows

    def claim_of(self, types: Collection[str], *, now: datetime, limit: int) -> Sequence[OutgoingMessage]:
        """Lock the rows of these types that have become due just now, the oldest first, and return them."""
        return self._select(CLAIM_OF, list(types), now - SLOWEST, now, timedelta(0), limit)

    def next_due(self) -> datetime | None:
        """Return when the next message is due, if one waits."""
        rows, now = self._look(NEXT), clock.now(database_of(self.service))
        self._begin = min(rows[0].due_at if rows else now, now) - SLOWEST
        return rows[0].due_at if rows else None

    def _look(self, where: str, *parameters: object) -> Sequence[OutgoingMessage]:
        began = time.monotonic()
        is_everywhere = began >= self._everywhere_at
        begin = BEGINNING if is_everywhere else self._begin
        rows = self._select(where, begin, *parameters)
        if is_everywhere:
            now = time.monotonic()
            self._everywhere_at = now + max(EVERYWHERE, SHARE * (now - began))
        return rows

    def _select(self, where: str, *parameters: object) -> Sequence[OutgoingMessage]:
        stored = Rows(database_of(self.service))
        with transaction.atomic(using=stored.using, savepoint=False) if self._is_by_day else nullcontext():
            if self._is_by_day:
                stored.run(WITHOUT_SORT)
            rows: list[Any] = stored.select(
                model_of(self.service, "Outgoing"), where, *parameters, is_by_day=IS_BY_DAY, due_since=DUE_SINCE
            )
        if rows:
            self._is_by_day = rows[0].is_by_day
        return rows
