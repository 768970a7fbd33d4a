"""
The queries of the dashboard, besides those that the metrics already make.

# Note [No COUNT over a big table]: each query reads an index backwards from now and stops at `MAX_ROWS` rows. Orders
are counted by status, so that an index-only scan suffices.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from common import reads
from orders.models import Status
from orders_project.observability import concerns
from orders_project.observability.metrics import STORED, Stored
from outbox.gauges import Reading
from outbox.ids import floor7

MAX_ROWS = 100_000
HOURS = 24

# Nearly all orders are done, and no index has those by their status.
PER_HOUR = """
SELECT date_trunc('hour', created_at) AS hour, status, count(*) AS orders
FROM (SELECT asked.status, recent.created_at FROM unnest(%(statuses)s::text[]) AS asked(status)
      CROSS JOIN LATERAL (SELECT created_at FROM orders_order
                          WHERE status = asked.status AND status <> 'done' AND created_at >= %(since)s
                          ORDER BY created_at DESC LIMIT %(newest)s) recent
      UNION ALL
      SELECT status, created_at FROM (SELECT status, created_at FROM orders_order WHERE created_at >= %(since)s
                                      ORDER BY created_at DESC LIMIT %(newest)s) recent
      WHERE status = 'done') found
GROUP BY 1, 2
"""

LATENCY = """
SELECT count(*) AS orders,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS p50,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) AS p95
FROM (SELECT extract(epoch FROM updated_at - created_at) AS seconds
      FROM (SELECT status, created_at, updated_at FROM orders_order WHERE created_at >= %(since)s
            ORDER BY created_at DESC LIMIT %(newest)s) recent
      WHERE status = 'done') done
"""

MONEY = """
WITH cash AS MATERIALIZED (SELECT id FROM payments_account WHERE kind = 'system' AND user_id = 'cash')
SELECT recent.currency, recent.kind,
       CASE WHEN recent.source_id IN (SELECT id FROM cash) THEN 'in'
            WHEN recent.target_id IN (SELECT id FROM cash) THEN 'out' ELSE 'within' END AS direction,
       count(*) AS entries, sum(recent.amount) AS amount
FROM (SELECT currency, kind, source_id, target_id, amount FROM payments_entry WHERE id >= %(first)s
      ORDER BY id DESC LIMIT %(newest)s) recent
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def _a_day() -> dict[str, Any]:
    since = timezone.now() - timedelta(hours=HOURS)
    return {"since": since, "first": floor7(since), "newest": MAX_ROWS, "statuses": Status.values}


def _an_hour() -> dict[str, Any]:
    return {"since": timezone.now() - timedelta(hours=1), "newest": MAX_ROWS}


class OfStandby(Reading):
    """A query of a table that may be large, which a standby may answer."""

    def take(self, using: str = "") -> list[dict[str, Any]]:
        take = super().take
        return reads.may_lag(lambda: take(using or reads.source_of(self.database)), self.database)


HOURLY = OfStandby("orders", PER_HOUR, {"orders": ""}, _a_day, every=10.0)
DURATION = OfStandby("orders", LATENCY, {"orders": ""}, _an_hour, every=10.0)
TURNOVER = OfStandby("payments", MONEY, {"amount": ""}, _a_day, every=10.0)
DASHBOARD = Stored((HOURLY, DURATION, TURNOVER))
SHOWN = frozenset({"orders_open", "outbox_service_pending", "dead_letters", "orders_shed_share"}) | concerns.GAUGES


@dataclass(frozen=True)
class Taken:
    """
    The rows of the queries above, and those of the metrics' queries that the dashboard shows.

    There are none of the services in `lost`, whose databases do not answer, not even those that were read before.
    """

    own: dict[Reading, list[dict[str, Any]]]
    rows: list[dict[str, Any]]
    lost: tuple[str, ...]


def take(*, lost: Collection[str] = ()) -> Taken:
    """Read all databases but those that are known to be `lost`."""
    own = DASHBOARD.rows(without=lost)
    metrics = STORED.rows(gauges=SHOWN, without=lost)
    known = [reading.database for reading in STORED.readings]
    answering = {reading.database for reading, _rows in metrics} - set(lost)
    return Taken(
        own={one: rows for one, rows in own if one.database in answering},
        rows=[row | {"database": one.database} for one, rows in metrics for row in rows if one.database in answering],
        lost=tuple(dict.fromkeys(database for database in known if database not in answering)),
    )
