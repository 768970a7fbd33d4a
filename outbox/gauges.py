"""
What is read from the databases on demand: a fixed number of cheap queries.

# Note [No COUNT over a big table]: every query here uses a partial index of what is open, and stops at `LIMIT` rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connections, transaction

from .due_rows import DUE_SINCE, MAY_BE_LATE
from .models import DeadLetter, OutgoingMessage
from .services import database_of

LIMIT = 10_000
TIMEOUT = "2s"


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, eq=False)
class Reading:
    """One query: the columns that `gauges` explains are gauges of their names, the others are their labels."""

    database: str
    sql: str
    gauges: dict[str, str]
    parameters: Callable[[], dict[str, Any]] = _nothing
    every: float = 5.0  # seconds for which a result may be used

    def take(self, using: str = "") -> list[dict[str, Any]]:
        """Run the query, of the database or of the alias `using`, and return its rows as dictionaries by column."""
        using = using or self.database
        with transaction.atomic(using=using), connections[using].cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [TIMEOUT])
            cursor.execute(self.sql, {"most": LIMIT, **self.parameters()})
            columns = [column.name for column in cursor.description or ()]
            return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


PENDING = f"""
SELECT %(service)s AS service, count(*) AS outbox_service_pending,
       coalesce(extract(epoch FROM statement_timestamp() - min(due_since)), 0) AS outbox_oldest_seconds
FROM (SELECT {DUE_SINCE} AS due_since FROM {OutgoingMessage._meta.db_table}
      WHERE {MAY_BE_LATE} <= statement_timestamp() ORDER BY due_at LIMIT %(most)s) pending
"""  # noqa: S608 - the table's name

WAITING = f"""
SELECT %(service)s AS service, count(*) AS outbox_waiting_for_release
FROM (SELECT FROM {OutgoingMessage._meta.db_table}
      WHERE published_at IS NULL AND waiting_since IS NOT NULL LIMIT %(most)s) waiting
"""  # noqa: S608 - the table's name

DEAD = f"""
SELECT %(service)s AS service, type, reason, fingerprint, count(*) AS dead_letters
FROM (SELECT type, reason, fingerprint FROM {DeadLetter._meta.db_table}
      WHERE status = '{DeadLetter.Status.DEAD}' ORDER BY died_at DESC LIMIT %(most)s) dead
GROUP BY type, reason, fingerprint ORDER BY count(*) DESC, fingerprint LIMIT 20
"""  # noqa: S608 - the table's name

CONNECTIONS = """
SELECT %(database)s AS database, count(*) AS database_connections,
       current_setting('max_connections')::int AS database_connections_max
FROM pg_stat_activity WHERE datname = current_database()
"""

# A server that writes nothing archives nothing: what has been written since the last file is what counts. The name of a
# file says where it ends; one of another kind (a history) does not.
ARCHIVE = """
SELECT %(database)s AS database,
       (coalesce(last_failed_time, '-infinity') > coalesce(last_archived_time, '-infinity'))::int AS archive_failing,
       CASE WHEN pg_current_wal_lsn() - '0/0' - archived.up_to < 8192 THEN 0
            ELSE extract(epoch FROM clock_timestamp() - coalesce(last_archived_time, stats_reset))
       END AS archive_late_seconds
FROM pg_stat_archiver
CROSS JOIN LATERAL (
    SELECT CASE WHEN last_archived_wal ~ '^[0-9A-F]{24}'
           THEN ('x' || substr(last_archived_wal, 9, 8))::bit(32)::bigint * 4294967296
                + (('x' || substr(last_archived_wal, 17, 8))::bit(32)::bigint + 1)
                * pg_size_bytes(current_setting('wal_segment_size'))
           ELSE 0 END AS up_to
) archived
WHERE current_setting('archive_mode') <> 'off' AND NOT pg_is_in_recovery()
"""


def readings_of(service: str) -> Iterator[Reading]:
    """Return what can be read of every service's outbox."""
    database = database_of(service)

    def parameters() -> dict[str, Any]:
        return {"service": service, "database": database}

    pending = {
        "outbox_service_pending": "Messages of a service that are due and not sent.",
        "outbox_oldest_seconds": "How long the oldest unsent message has been due, however often it was put off.",
    }
    waiting = {"outbox_waiting_for_release": "Messages put back because no worker here knows their type or version."}
    connected = {
        "database_connections": "Connections to a database.",
        "database_connections_max": "Connections that its server allows in total.",
    }
    archived = {
        "archive_failing": "Whether a database server failed to archive its log when it tried last.",
        "archive_late_seconds": "How long a database server has archived nothing although it has written something.",
    }
    yield Reading(database, PENDING, pending, parameters)
    yield Reading(database, WAITING, waiting, parameters)
    yield Reading(database, DEAD, {"dead_letters": "Open dead letters, of the 20 most frequent failures."}, parameters)
    yield Reading(database, CONNECTIONS, connected, parameters)
    yield Reading(database, ARCHIVE, archived, parameters)
