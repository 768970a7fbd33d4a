"""Gauges of processing: queries that run when metrics are collected."""

from datetime import timedelta

from outbox.gauges import Reading

from .models import Hold

LATE_AFTER = timedelta(minutes=1)  # a hold that has expired so long ago and is still there is late

HOLDS = f"""
SELECT count(*) AS stock_holds_open,
       count(*) FILTER (
           WHERE greatest(expires_at, asked_at) < statement_timestamp() - %(late)s
       ) AS stock_holds_late
FROM (SELECT expires_at, asked_at FROM processing_hold
      WHERE status = '{Hold.Status.HELD}' ORDER BY expires_at LIMIT %(most)s) hold
"""  # noqa: S608 - the status is ours

READINGS = (
    Reading(
        "processing",
        HOLDS,
        {
            "stock_holds_open": "Holds of stock that are neither sold nor released.",
            "stock_holds_late": "Holds that have expired and were not given back.",
        },
        lambda: {"late": LATE_AFTER},
    ),
)
