"""
Which rows of an outbox are due.

# Note [Where to begin]: the index entry of a row that was sent stays until a vacuum removes it, and none can while an
older snapshot is open (a backup, a long report). Whoever begins at the beginning of the index walks over all of them
each time. So a look begins where the last one found the first row, less what a transaction may take from the time it
gives its rows to its commit. Rows that appear before that (of a slower transaction, or of a relay that died) are found
by looking everywhere, now and then: at least once a second while that is quick, and never for more than a twentieth of
the time.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from . import clock
from .models import OutgoingMessage
from .services import database_of, model_of
from .store import Rows

# Note [Due by the database's own clock]: what a process computes of it (see clock.py) is early by what its comparison
# took, some milliseconds. A relay that was just woken would find that what it was woken for is due only in a moment.
CLAIM = (
    "WHERE published_at IS NULL AND due_at >= %s AND due_at <= greatest(%s, statement_timestamp() - %s)"
    " ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED"
)
CLAIM_OF = CLAIM.replace("WHERE", "WHERE type = ANY(%s) AND", 1)
NEXT = "WHERE published_at IS NULL AND due_at >= %s ORDER BY due_at LIMIT 1"
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
SLOWEST = timedelta(seconds=2)  # from the due time of a row to the commit of its transaction, as a rule
EVERYWHERE = 1.0  # seconds between two looks at the whole index
SHARE = 20  # times as long as such a look took, at least


@dataclass
class DueRows:
    """The rows of a service that are to be sent."""

    service: str
    _begin: datetime = BEGINNING
    _everywhere_at: float = 0.0

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
        return Rows(database_of(self.service)).select(model_of(self.service, "Outgoing"), where, *parameters)
