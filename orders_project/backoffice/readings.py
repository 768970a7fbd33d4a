"""
What the dashboard asks the databases, beside what the metrics ask them already.

# Note [No COUNT over a big table]: each query walks an index from now backwards and stops at `MOST` rows.
"""

from datetime import timedelta
from typing import Any

from django.utils import timezone

from orders_project.metrics import STORED, Stored
from outbox.gauges import Reading
from outbox.ids import floor7

MOST = 100_000
HOURS = 24

PER_HOUR = """
SELECT date_trunc('hour', created_at) AS hour, status, count(*) AS orders
FROM (SELECT created_at, status FROM orders_order WHERE created_at >= %(since)s
      ORDER BY created_at DESC LIMIT %(newest)s) recent
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
SELECT recent.currency, recent.kind,
       CASE WHEN source.kind = 'system' AND source.user_id = 'cash' THEN 'in'
            WHEN target.kind = 'system' AND target.user_id = 'cash' THEN 'out' ELSE 'within' END AS direction,
       count(*) AS entries, sum(recent.amount) AS amount
FROM (SELECT currency, kind, source_id, target_id, amount FROM payments_entry WHERE id >= %(first)s
      ORDER BY id DESC LIMIT %(newest)s) recent
JOIN payments_account source ON source.id = recent.source_id
JOIN payments_account target ON target.id = recent.target_id
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def _a_day() -> dict[str, Any]:
    since = timezone.now() - timedelta(hours=HOURS)
    return {"since": since, "first": floor7(since), "newest": MOST}


def _an_hour() -> dict[str, Any]:
    return {"since": timezone.now() - timedelta(hours=1), "newest": MOST}


HOURLY = Reading("orders", PER_HOUR, {"orders": ""}, _a_day, every=10.0)
DURATION = Reading("orders", LATENCY, {"orders": ""}, _an_hour, every=10.0)
TURNOVER = Reading("payments", MONEY, {"amount": ""}, _a_day, every=10.0)
OURS = Stored((HOURLY, DURATION, TURNOVER))


def take() -> tuple[dict[Reading, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Our own readings that were answered; and every row of the metrics' readings, told apart by their columns."""
    return dict(OURS.rows()), [row | {"database": one.database} for one, rows in STORED.rows() for row in rows]
