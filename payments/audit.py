"""What must hold of money, in the tables of payments."""

from collections.abc import Iterator
from typing import NamedTuple

from common.audit import MAX_FINDINGS, Finding, Rule, Scope, rows

from .books.reconcile import LATE
from .gateways.base import Status as GatewayStatus
from .models import Account, Difference, Dispute, Entry, Payment, Reconciliation, Refund, WebhookReceipt

Status = Payment.Status
CHARGE, REFUND, REFUND_FAILED = Entry.Kind.CHARGE, Entry.Kind.REFUND, Entry.Kind.REFUND_FAILED
DISPUTE, DISPUTE_WON, DISPUTE_LOST = Entry.Kind.DISPUTE, Entry.Kind.DISPUTE_WON, Entry.Kind.DISPUTE_LOST
OF_PAYMENTS = (CHARGE, REFUND, REFUND_FAILED, DISPUTE, DISPUTE_WON, DISPUTE_LOST)


class Query(NamedTuple):
    """Selects the subject and the detail of what breaks a rule of the ledger, and says what repairs it."""

    sql: str
    repair: str
    is_about_order: bool = False


# Nothing in flight breaks a rule: an entry, the balances and the status of its payment change in one commit, and each
# query sees one moment.
LEDGER = {
    "balance_is_sum_of_entries": Query(
        f"""
        SELECT concat_ws(' ', account.user_id, account.currency, nullif(account.principal, '')),
               'balance ' || account.balance || ', entries ' || coalesce(moved.sum, 0)
        FROM payments_account account
        LEFT JOIN (
            SELECT id, sum(amount) AS sum FROM (
                SELECT target_id AS id, amount FROM payments_entry
                UNION ALL
                SELECT source_id, -amount FROM payments_entry
            ) sides GROUP BY id
        ) moved USING (id)
        WHERE account.kind = '{Account.Kind.CUSTOMER}' AND account.balance <> coalesce(moved.sum, 0)
        """,  # noqa: S608
        "set the balance to the sum of the entries, which nobody can have changed",
    ),
    "accounts_sum_to_zero": Query(
        f"""
        SELECT currency, 'customers hold ' || customers || ', the system has given out ' || -system
        FROM (
            SELECT account.currency,
                   sum(side.amount) FILTER (WHERE account.kind = '{Account.Kind.CUSTOMER}') AS customers,
                   coalesce(sum(side.amount) FILTER (WHERE account.kind = '{Account.Kind.SYSTEM}'), 0) AS system
            FROM (
                SELECT target_id AS id, amount FROM payments_entry
                UNION ALL
                SELECT source_id, -amount FROM payments_entry
            ) side JOIN payments_account account USING (id)
            GROUP BY account.currency
        ) sums WHERE coalesce(customers, 0) + system <> 0
        """,  # noqa: S608
        "find the entry with one side only",
    ),
    "entry_in_the_currency_of_its_accounts": Query(
        """
        SELECT entry.id::text, entry.currency || ' between ' || source.currency || ' and ' || target.currency
        FROM payments_entry entry
        JOIN payments_account source ON source.id = entry.source_id
        JOIN payments_account target ON target.id = entry.target_id
        WHERE entry.currency <> source.currency OR entry.currency <> target.currency
        """,
        "add an entry that takes it back, and one in the right currency",
    ),
    "payment_is_its_entries": Query(
        f"""
        SELECT payment.order_id,
               payment.status || ' of ' || payment.amount || ', charged ' || charged || ', refunded ' || refunded
                   || ', lost in disputes ' || lost
        FROM (
            SELECT payment.*,
                   coalesce(sum(entry.amount) FILTER (WHERE entry.kind = '{CHARGE}'), 0) AS charged,
                   coalesce(sum(entry.amount) FILTER (WHERE entry.kind = '{REFUND}'), 0)
                       - coalesce(sum(entry.amount) FILTER (WHERE entry.kind = '{REFUND_FAILED}'), 0) AS refunded,
                   coalesce(sum(entry.amount) FILTER (WHERE entry.kind = '{DISPUTE_LOST}'), 0) AS lost
            FROM payments_payment payment
            LEFT JOIN payments_entry entry
                ON entry.order_id = payment.order_id
                AND entry.kind IN ('{CHARGE}', '{REFUND}', '{REFUND_FAILED}', '{DISPUTE_LOST}')
            GROUP BY payment.order_id
        ) payment
        WHERE NOT CASE
            WHEN payment.status IN ('{Status.SUCCEEDED}', '{Status.REFUNDING}', '{Status.REFUND_REFUSED}')
                THEN (charged = payment.amount OR is_manual AND charged BETWEEN 1 AND payment.amount)
                     AND refunded BETWEEN 0 AND charged - lost
            WHEN payment.status = '{Status.REFUNDED}'
                THEN (charged = payment.amount OR is_manual AND charged BETWEEN 1 AND payment.amount)
                     AND refunded = charged - lost
            ELSE charged = 0 AND refunded = 0 AND lost = 0
        END
        """,  # noqa: S608
        "ask the gateway for the status of the payment, and add the missing entry",
        is_about_order=True,
    ),
    "refund_is_its_entries": Query(
        f"""
        SELECT coalesce(refund.payment_id, booked.order_id),
               coalesce(refund.refund_id, booked.refund_id) || ' is ' || coalesce(refund.status, 'unknown') || ' of '
                   || coalesce(refund.amount, 0) || ', booked ' || coalesce(booked.amount, 0)
        FROM payments_refund refund
        FULL JOIN (
            SELECT refund_id, min(order_id) AS order_id,
                   sum(CASE kind WHEN '{REFUND}' THEN amount ELSE -amount END) AS amount
            FROM payments_entry WHERE refund_id IS NOT NULL GROUP BY refund_id
        ) booked ON booked.refund_id = refund.refund_id
        WHERE coalesce(booked.amount, 0)
              <> CASE WHEN refund.status = '{Refund.Status.SUCCEEDED}' THEN refund.amount ELSE 0 END
           OR refund.refund_id IS NULL OR booked.order_id <> refund.payment_id
        """,  # noqa: S608
        "ask the gateway for the status of the refund, and add the missing entry",
        is_about_order=True,
    ),
    "dispute_is_its_entries": Query(
        f"""
        SELECT coalesce(dispute.payment_id, booked.order_id),
               coalesce(dispute.dispute_id, booked.gateway_id) || ' is ' || coalesce(dispute.status, 'unknown')
                   || ' of ' || coalesce(dispute.amount, 0) || ', booked as opened ' || coalesce(opened, 0)
                   || ', won ' || coalesce(won, 0) || ', lost ' || coalesce(lost, 0)
        FROM payments_dispute dispute
        FULL JOIN (
            SELECT order_id, gateway_id, coalesce(sum(amount) FILTER (WHERE kind = '{DISPUTE}'), 0) AS opened,
                   coalesce(sum(amount) FILTER (WHERE kind = '{DISPUTE_WON}'), 0) AS won,
                   coalesce(sum(amount) FILTER (WHERE kind = '{DISPUTE_LOST}'), 0) AS lost
            FROM payments_entry WHERE kind IN ('{DISPUTE}', '{DISPUTE_WON}', '{DISPUTE_LOST}')
            GROUP BY order_id, gateway_id
        ) booked ON booked.order_id = dispute.payment_id AND booked.gateway_id = dispute.dispute_id
        WHERE (opened, won, lost) IS DISTINCT FROM (
            dispute.amount,
            CASE WHEN dispute.status = '{Dispute.Status.WON}' THEN dispute.amount ELSE 0 END,
            CASE WHEN dispute.status = '{Dispute.Status.LOST}' THEN dispute.amount ELSE 0 END
        )
        """,  # noqa: S608
        "look the dispute up at the gateway, and add the missing entry",
        is_about_order=True,
    ),
    "entry_of_an_order_has_its_payment": Query(
        f"""
        SELECT entry.order_id, entry.kind
        FROM payments_entry entry LEFT JOIN payments_payment payment USING (order_id)
        WHERE entry.kind IN ({", ".join(f"'{kind}'" for kind in OF_PAYMENTS)}) AND payment.order_id IS NULL
        """,  # noqa: S608
        "find out who wrote the entry, and add one that takes it back",
        is_about_order=True,
    ),
}


def ledger(scope: Scope) -> Iterator[Finding]:
    """Yield what breaks a rule of the ledger."""
    for rule, query in LEDGER.items():
        sql = f"SELECT * FROM ({query.sql}) broken LIMIT {MAX_FINDINGS}"  # noqa: S608 - nothing in it comes from outside
        for subject, detail in rows("payments", sql):
            order_id = subject if query.is_about_order else ""
            yield Finding("ledger", f"{subject}: {rule}", detail, query.repair, order_id)


UNMATCHED_MONEY = f"""
SELECT receipt.id::text,
       receipt.gateway || ' says that ' || receipt.amount || ' ' || receipt.currency || ' came in for order '
           || coalesce(nullif(receipt.order_id, ''), '(none)') || ', and no payment is known by it'
FROM payments_webhookreceipt receipt
WHERE receipt.status = '{WebhookReceipt.Status.UNMATCHED}' AND receipt.says = '{GatewayStatus.SUCCEEDED}'
  AND receipt.received_at < statement_timestamp() - interval '1 hour'
"""  # noqa: S608 - the statuses are ours

# See books/reconcile.py. Where no run has succeeded for long, nobody knows.
GATEWAY = f"""
SELECT id::text,
       kind || ': ' || what || ' of ' || coalesce(transaction_id, '') || ', ' || coalesce(amount_there::text, 'nothing')
           || ' ' || currency_there || ' at ' || gateway || ', ' || coalesce(amount_here::text, 'nothing') || ' '
           || currency_here || ' in the ledger',
       order_id
FROM payments_difference WHERE status = '{Difference.Status.OPEN}'
UNION ALL
SELECT gateway, 'it was last compared at ' || coalesce(max(finished_at) FILTER (
           WHERE status = '{Reconciliation.Status.SUCCEEDED}')::text, 'no time'), ''
FROM payments_reconciliation WHERE source = '' GROUP BY gateway
HAVING coalesce(max(finished_at) FILTER (WHERE status = '{Reconciliation.Status.SUCCEEDED}'), min(started_at))
           < statement_timestamp() - interval '{LATE.total_seconds()} seconds'
   AND max(started_at) > statement_timestamp() - interval '{LATE.total_seconds()} seconds'
"""  # noqa: S608 - nothing in it comes from outside

RULES = (
    Rule("ledger", "money in = money out + money kept; balances and payments agree with their entries", ledger),
    Rule.of_query(
        "receipts",
        "all money that a gateway has reported belongs to a payment within an hour",
        service="payments",
        query=UNMATCHED_MONEY,
        repair="match the webhook with its order, or have the money refunded, in the admin",
    ),
    Rule.of_query(
        "gateway",
        "the ledger agrees with what the gateway has booked, as far as it was compared",
        service="payments",
        query=GATEWAY,
        repair="manage.py reconcile, and its --repair: see docs/accounting.md",
    ),
)
