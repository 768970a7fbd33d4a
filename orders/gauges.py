"""Gauges of orders, read from the database when metrics are collected."""

from datetime import timedelta
from typing import Any

from outbox import clock
from outbox.gauges import Reading

from . import shedding
from .models import ENDS, WebhookDelivery
from .saga import TIMEOUTS

GRACE = timedelta(minutes=1)  # an order that has been overdue in its status for so long is stuck
LATE_AFTER = timedelta(minutes=1)  # a webhook that should have been sent so long ago is late

OPEN = """
SELECT asked.status, open.orders_open, open.orders_open_oldest_seconds, late.orders_stuck
FROM unnest(%(statuses)s::text[], %(stuck_before)s::timestamptz[]) AS asked(status, stuck_before)
CROSS JOIN LATERAL (
    SELECT count(*) AS orders_open,
           coalesce(extract(epoch FROM statement_timestamp() - min(status_since)), 0) AS orders_open_oldest_seconds
    FROM (SELECT status_since FROM orders_order
          WHERE status = asked.status AND NOT status = ANY (%(ends)s)
          ORDER BY status_since LIMIT %(most)s) row
) open
CROSS JOIN LATERAL (
    SELECT count(*) AS orders_stuck
    FROM (SELECT 1 FROM orders_order
          WHERE status = asked.status AND status_since < asked.stuck_before AND NOT status = ANY (%(ends)s)
          LIMIT %(most)s) row
) late
"""

LATE = """
SELECT count(*) AS webhook_deliveries_late
FROM (SELECT 1 FROM orders_webhookdelivery
      WHERE status = %(pending)s AND next_at < statement_timestamp() - %(late)s LIMIT %(most)s) delivery
"""


def _parameters() -> dict[str, Any]:
    now = clock.now("orders")
    return {
        "statuses": [str(status) for status in TIMEOUTS],
        "stuck_before": [now - timeout() - GRACE for timeout in TIMEOUTS.values()],
        "ends": sorted(ENDS),
    }


READINGS = (
    Reading(
        "orders",
        OPEN,
        {
            "orders_open": "Open orders, by status.",
            "orders_open_oldest_seconds": "Seconds since the order that has been in this status longest entered it.",
            "orders_stuck": "Orders that have been in their status for longer than its timeout and a minute.",
        },
        _parameters,
    ),
    Reading(
        "orders",
        shedding.MEASURE,
        {
            "orders_waiting": "Orders that wait for this system alone, and that no later order has overtaken.",
            "orders_late_seconds": "The age of the oldest order that waits for this system alone.",
            "orders_wait_seconds": "How long a new order has to wait for those before it.",
            "orders_shed_share": "The share of new orders that is refused because too many wait, from 0 to 1.",
        },
        shedding.parameters,
    ),
    Reading(
        "orders",
        LATE,
        {"webhook_deliveries_late": "Webhooks that have been due for more than a minute."},
        lambda: {"pending": WebhookDelivery.Status.PENDING.value, "late": LATE_AFTER},
    ),
)
