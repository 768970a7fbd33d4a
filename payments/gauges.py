"""Gauges of payments: queries that run when metrics are collected."""

from datetime import timedelta

from outbox.gauges import Reading

from .models import Account, Payment, WebhookReceipt

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

REFUSED = """
SELECT asked.status, count(payment.status) AS payments_refused
FROM unnest(%(refused)s::text[]) AS asked(status)
LEFT JOIN LATERAL (
    SELECT status FROM payments_payment WHERE status = asked.status AND status <> 'succeeded' LIMIT %(most)s
) payment ON true
GROUP BY asked.status
"""

UNMATCHED_AFTER = timedelta(hours=1)  # the payment of a webhook is known long before
UNMATCHED = f"""
SELECT count(*) AS webhooks_unmatched_late
FROM (SELECT 1 FROM payments_webhookreceipt
      WHERE status = '{WebhookReceipt.Status.UNMATCHED}' AND status IN ({UNSETTLED})
        AND received_at < statement_timestamp() - %(late)s LIMIT %(most)s) receipt
"""  # noqa: S608 - the statuses are ours

READINGS = (
    Reading(
        "payments",
        IMBALANCE,
        {"ledger_imbalance": "By how much customers' balances differ from their entries, in minor units: must be 0."},
        every=300.0,
    ),
    Reading("payments", WEBHOOKS, {"webhooks_open": "Webhooks that are stored and not settled."}),
    Reading("payments", WAITING, {"payments_unknown": "Payments about which the gateway will be asked."}),
    Reading(
        "payments",
        REFUSED,
        {"payments_refused": "Payments that the gateway refuses to cancel or to refund: a person has to decide."},
        lambda: {"refused": [status.value for status in Payment.REFUSED]},
    ),
    Reading(
        "payments",
        UNMATCHED,
        {"webhooks_unmatched_late": "Webhooks whose payment has not been known for an hour."},
        lambda: {"late": UNMATCHED_AFTER},
    ),
)
