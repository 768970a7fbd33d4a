"""Gauges of payments: queries that run when metrics are collected."""

from outbox.gauges import Reading

from .models import Account, WebhookReceipt

# The balances of customers are compared with their entries for each account alone, so that two errors do not cancel
# each other out. The query reads the whole ledger: it runs seldom, and times out if the ledger is too long for it.
# `manage.py audit` has no such limit.
IMBALANCE = f"""
WITH moved AS (
    SELECT account, sum(amount) AS net
    FROM (SELECT target_id AS account, amount FROM payments_entry
          UNION ALL SELECT source_id, -amount FROM payments_entry) sides
    GROUP BY account
)
SELECT coalesce(sum(abs(account.balance - coalesce(moved.net, 0))), 0) AS ledger_imbalance
FROM payments_account account LEFT JOIN moved ON moved.account = account.id
WHERE account.kind = '{Account.Kind.CUSTOMER}'
"""  # noqa: S608 - the kind is ours

UNSETTLED = ", ".join(f"'{status}'" for status in WebhookReceipt.UNSETTLED)
WEBHOOKS = f"""
SELECT state.status, count(receipt.status) AS webhooks_open
FROM unnest(ARRAY[{UNSETTLED}]) AS state(status)
LEFT JOIN (SELECT status FROM payments_webhookreceipt
           WHERE status IN ({UNSETTLED}) LIMIT %(most)s) receipt USING (status)
GROUP BY state.status
"""  # noqa: S608 - the statuses are ours

WAITING = """
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
    Reading("payments", WEBHOOKS, {"webhooks_open": "Webhooks that are stored and not settled."}),
    Reading("payments", WAITING, {"payments_unknown": "Payments about which the gateway will be asked."}),
)
