"""
What is read from the databases when somebody looks: a fixed number of cheap queries.

# Note [No COUNT over a big table]: every query here walks a partial index of what is open, and stops at `MOST` rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connections, transaction

MOST = 10_000
PATIENCE = "2s"


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, eq=False)
class Reading:
    """One query: the columns that `gauges` explains are gauges of their names, the others are their labels."""

    database: str
    sql: str
    gauges: dict[str, str]
    parameters: Callable[[], dict[str, Any]] = _nothing
    every: float = 5.0  # seconds for which an answer is good enough

    def take(self) -> list[dict[str, Any]]:
        """The rows, as dictionaries by column."""
        with transaction.atomic(using=self.database), connections[self.database].cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [PATIENCE])
            cursor.execute(self.sql, {"most": MOST, "database": self.database, **self.parameters()})
            columns = [column.name for column in cursor.description or ()]
            return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


PENDING = """
SELECT %(database)s AS service, count(*) AS outbox_room_pending,
       coalesce(extract(epoch FROM statement_timestamp() - min(due_at)), 0) AS outbox_oldest_seconds
FROM (SELECT due_at FROM outbox_outgoingmessage
      WHERE published_at IS NULL AND due_at <= statement_timestamp() ORDER BY due_at LIMIT %(most)s) pending
"""

DEAD = """
SELECT %(database)s AS service, type, reason, fingerprint, count(*) AS dead_letters
FROM (SELECT type, reason, fingerprint FROM outbox_deadletter
      WHERE status = 'dead' ORDER BY died_at DESC LIMIT %(most)s) dead
GROUP BY type, reason, fingerprint ORDER BY count(*) DESC, fingerprint LIMIT 20
"""

CONNECTIONS = """
SELECT %(database)s AS database, count(*) AS database_connections,
       current_setting('max_connections')::int AS database_connections_max
FROM pg_stat_activity WHERE datname = current_database()
"""


def model_of(service: str) -> Iterator[Reading]:
    """What every service's mailbox shows."""
    yield Reading(
        service,
        PENDING,
        {
            "outbox_room_pending": "Letters of a service that are due and not sent.",
            "outbox_oldest_seconds": "How long the oldest of them has been due.",
        },
    )
    yield Reading(service, DEAD, {"dead_letters": "Dead letters nobody has dealt with, of the 20 commonest failures."})
    yield Reading(
        service,
        CONNECTIONS,
        {
            "database_connections": "Connections to a database.",
            "database_connections_max": "Connections that its server allows in all.",
        },
    )
