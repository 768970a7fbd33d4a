"""What is read of orders when somebody looks."""

from datetime import timedelta
from typing import Any

from django.utils import timezone

from outbox.gauges import Reading

from .models import ENDS
from .saga import PATIENCE

GRACE = timedelta(minutes=1)  # an order past its time by this much has not even heard that it is overdue

OPEN = """
SELECT asked.status, open.orders_open, open.orders_open_oldest_seconds, late.orders_stuck
FROM unnest(%(statuses)s::text[], %(stuck_before)s::timestamptz[]) AS asked(status, stuck_before)
CROSS JOIN LATERAL (
    SELECT count(*) AS orders_open,
           coalesce(extract(epoch FROM statement_timestamp() - min(updated_at)), 0) AS orders_open_oldest_seconds
    FROM (SELECT updated_at FROM orders_order
          WHERE status = asked.status AND NOT status = ANY (%(ends)s)
          ORDER BY updated_at LIMIT %(most)s) row
) open
CROSS JOIN LATERAL (
    SELECT count(*) AS orders_stuck
    FROM (SELECT 1 FROM orders_order
          WHERE status = asked.status AND updated_at < asked.stuck_before AND NOT status = ANY (%(ends)s)
          LIMIT %(most)s) row
) late
"""

LATE = """
SELECT count(*) AS webhook_deliveries_late
FROM (SELECT 1 FROM orders_webhookdelivery
      WHERE status = 'pending' AND next_at < statement_timestamp() - interval '1 minute' LIMIT %(most)s) delivery
"""


def _parameters() -> dict[str, Any]:
    now = timezone.now()
    return {
        "statuses": [str(status) for status in PATIENCE],
        "stuck_before": [now - patience() - GRACE for patience in PATIENCE.values()],
        "ends": sorted(ENDS),
    }


READINGS = (
    Reading(
        "orders",
        OPEN,
        {
            "orders_open": "Orders under way, by where they stand.",
            "orders_open_oldest_seconds": "How long the longest-standing of them has stood there.",
            "orders_stuck": "Orders that stand longer than the saga's patience allows: nobody looks after them.",
        },
        _parameters,
    ),
    Reading("orders", LATE, {"webhook_deliveries_late": "Webhooks that should have gone out a minute ago."}),
)
