"""What is read of payments when somebody looks."""

from outbox.gauges import Reading

# Customers' balances against their entries, each account on its own, so that two wrongs don't make a right. It reads
# the whole ledger, so it is asked seldom, and gives up on a ledger too long for it: `manage.py audit` never does.
IMBALANCE = """
WITH moved AS (
    SELECT account, sum(amount) AS net
    FROM (SELECT target_id AS account, amount FROM payments_entry
          UNION ALL SELECT source_id, -amount FROM payments_entry) sides
    GROUP BY account
)
SELECT coalesce(sum(abs(account.balance - coalesce(moved.net, 0))), 0) AS ledger_imbalance
FROM payments_account account LEFT JOIN moved ON moved.account = account.id
WHERE account.kind = 'customer'
"""

WEBHOOKS = """
SELECT state.status, count(receipt.status) AS webhooks_open
FROM unnest(ARRAY['received', 'unmatched', 'quarantined']) AS state(status)
LEFT JOIN (SELECT status FROM payments_webhookreceipt
           WHERE status IN ('received', 'unmatched', 'quarantined') LIMIT %(most)s) receipt USING (status)
GROUP BY state.status
"""

ASKING = """
SELECT count(*) AS payments_unknown
FROM (SELECT 1 FROM payments_payment WHERE ask_at IS NOT NULL LIMIT %(most)s) payment
"""

READINGS = (
    Reading(
        "payments",
        IMBALANCE,
        {"ledger_imbalance": "By how much customers' balances differ from their entries, in minor units: must be 0."},
        every=300.0,
    ),
    Reading("payments", WEBHOOKS, {"webhooks_open": "Webhooks stored and not settled."}),
    Reading("payments", ASKING, {"payments_unknown": "Payments the gateway will be asked about."}),
)
