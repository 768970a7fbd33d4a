"""Gauges of payments: queries that run when metrics are collected."""

from datetime import timedelta

from django.conf import settings

from outbox.gauges import Reading

from .models import Account, Difference, Dispute, Payment, Reconciliation, Refund, WebhookReceipt

# The balances of customers are compared with their entries for each account alone, so that two errors do not cancel
# each other out. The query reads the whole ledger: it runs seldom, and times out if the ledger is too long for it.
# `manage.py audit` has no such limit.
IMBALANCE = f"""
WITH moved AS (
    SELECT account, sum(amount) AS net
    FROM (SELECT target_id AS account, amount FROM payments_entry
          UNION ALL SELECT source_id, -amount FROM payments_entry) sides
    GROUP BY account
), known AS (
    SELECT unnest(%(currencies)s::text[]) AS currency UNION SELECT currency FROM payments_account
)
SELECT known.currency, coalesce(sum(abs(account.balance - coalesce(moved.net, 0))), 0) AS ledger_imbalance
FROM known
LEFT JOIN payments_account account ON account.currency = known.currency AND account.kind = '{Account.Kind.CUSTOMER}'
LEFT JOIN moved ON moved.account = account.id
GROUP BY known.currency
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

SILENT_AFTER = 5  # calls in a row without an answer, which take half a minute
SILENT = """
SELECT count(*) AS payments_silent
FROM (SELECT 1 FROM payments_payment
      WHERE ask_at IS NOT NULL AND unanswered >= %(silent)s LIMIT %(most)s) payment
"""

REFUSED = """
SELECT asked.status, count(payment.status) AS payments_refused
FROM unnest(%(refused)s::text[]) AS asked(status)
LEFT JOIN LATERAL (
    SELECT status FROM payments_payment WHERE status = asked.status AND status <> 'succeeded' LIMIT %(most)s
) payment ON true
GROUP BY asked.status
"""

# The gateway has been asked and has not said for long how the refund ended.
LATE_AFTER = {Refund.Status.REQUESTED: timedelta(hours=1), Refund.Status.PENDING: timedelta(days=14)}
LATE = ", ".join(f"('{status}', interval '{after.total_seconds()} seconds')" for status, after in LATE_AFTER.items())
REFUNDS_OPEN = f"""
SELECT open.status, count(refund.created_at) AS refunds_open,
       count(*) FILTER (WHERE refund.created_at < statement_timestamp() - open.late) AS refunds_late
FROM (VALUES {LATE}) AS open(status, late)
LEFT JOIN LATERAL (
    SELECT created_at FROM payments_refund WHERE status = open.status AND status <> 'succeeded'
    ORDER BY refund_id LIMIT %(most)s
) refund ON true
GROUP BY open.status
"""  # noqa: S608 - the statuses are ours

REFUNDS_FAILED = f"""
SELECT count(*) AS refunds_failed
FROM (SELECT updated_at FROM payments_refund WHERE status = '{Refund.Status.FAILED}' AND status <> 'succeeded'
      ORDER BY refund_id DESC LIMIT %(most)s) refund
WHERE updated_at > statement_timestamp() - interval '1 day'
"""  # noqa: S608 - the status is ours

DUE_SOON = timedelta(days=3)
DISPUTES = f"""
SELECT count(*) AS disputes_open,
       count(*) FILTER (WHERE respond_by < statement_timestamp() + %(soon)s) AS disputes_due
FROM (SELECT respond_by FROM payments_dispute
      WHERE status = '{Dispute.Status.OPENED}' ORDER BY respond_by LIMIT %(most)s) dispute
"""  # noqa: S608 - the status is ours

UNMATCHED_AFTER = timedelta(hours=1)  # the payment of a webhook is known long before
UNMATCHED = f"""
SELECT count(*) AS webhooks_unmatched_late
FROM (SELECT 1 FROM payments_webhookreceipt
      WHERE status = '{WebhookReceipt.Status.UNMATCHED}' AND status IN ({UNSETTLED})
        AND received_at < statement_timestamp() - %(late)s LIMIT %(most)s) receipt
"""  # noqa: S608 - the statuses are ours

DIFFERENCES = f"""
SELECT known.kind, count(difference.kind) AS gateway_differences
FROM unnest(ARRAY[{", ".join(f"'{kind}'" for kind in Difference.Kind)}]) AS known(kind)
LEFT JOIN (SELECT kind FROM payments_difference
           WHERE status = '{Difference.Status.OPEN}' LIMIT %(most)s) difference USING (kind)
GROUP BY known.kind
"""  # noqa: S608 - the kinds are ours

# Where none has succeeded yet, since the first attempt.
RECONCILED = f"""
SELECT extract(epoch FROM statement_timestamp() - coalesce(succeeded, first)) AS reconciliation_age_seconds
FROM (SELECT max(finished_at) FILTER (WHERE status = '{Reconciliation.Status.SUCCEEDED}') AS succeeded,
             min(started_at) AS first
      FROM payments_reconciliation WHERE gateway = %(gateway)s AND source = '') run
WHERE first IS NOT NULL
"""  # noqa: S608 - the status is ours

READINGS = (
    Reading(
        "payments",
        IMBALANCE,
        {"ledger_imbalance": "By how much customers' balances differ from their entries, in minor units: must be 0."},
        lambda: {"currencies": list(settings.CURRENCIES)},
        every=300.0,
    ),
    Reading("payments", WEBHOOKS, {"webhooks_open": "Webhooks that are stored and not settled."}),
    Reading("payments", WAITING, {"payments_unknown": "Payments about which the gateway will be asked."}),
    Reading(
        "payments",
        SILENT,
        {"payments_silent": "Payments about which the gateway has been asked again and again without an answer."},
        lambda: {"silent": SILENT_AFTER},
    ),
    Reading(
        "payments",
        REFUSED,
        {"payments_refused": "Payments that the gateway refuses to cancel or to refund: a person has to decide."},
        lambda: {"refused": [status.value for status in Payment.REFUSED]},
    ),
    Reading(
        "payments",
        REFUNDS_OPEN,
        {
            "refunds_open": "Refunds of parts that the gateway has yet to make.",
            "refunds_late": "Refunds of parts that the gateway has taken far too long to make.",
        },
    ),
    Reading("payments", REFUNDS_FAILED, {"refunds_failed": "Refunds of parts that have failed within a day."}),
    Reading(
        "payments",
        DISPUTES,
        {
            "disputes_open": "Disputes that are not decided.",
            "disputes_due": "Disputes that have to be answered within three days, or should have been.",
        },
        lambda: {"soon": DUE_SOON},
    ),
    Reading(
        "payments",
        UNMATCHED,
        {"webhooks_unmatched_late": "Webhooks whose payment has not been known for an hour."},
        lambda: {"late": UNMATCHED_AFTER},
    ),
    Reading(
        "payments",
        DIFFERENCES,
        {"gateway_differences": "Open differences between what a gateway has booked and the ledger."},
    ),
    Reading(
        "payments",
        RECONCILED,
        {"reconciliation_age_seconds": "How long ago the ledger was last compared with what the gateway has booked."},
        lambda: {"gateway": settings.PAYMENT_GATEWAY},
        every=60.0,
    ),
)
