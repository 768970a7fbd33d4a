"""What is read of stock when somebody looks."""

from outbox.gauges import Reading

HOLDS = """
SELECT count(*) AS stock_holds_open,
       count(*) FILTER (WHERE expires_at < statement_timestamp() - interval '1 minute') AS stock_holds_late
FROM (SELECT expires_at FROM processing_hold WHERE status = 'held' ORDER BY expires_at LIMIT %(most)s) hold
"""

READINGS = (
    Reading(
        "processing",
        HOLDS,
        {
            "stock_holds_open": "Holds of stock neither sold nor released.",
            "stock_holds_late": "Holds that have outlived their time: nobody took them back.",
        },
    ),
)
