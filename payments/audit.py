"""What must hold of money, checked over everything that is stored."""

from dataclasses import dataclass

from django.db import connections


@dataclass(frozen=True)
class Finding:
    """Something that must not be: which rule is broken, by what, and how."""

    rule: str
    subject: str
    detail: str


# Each query yields (subject, detail) of what breaks its rule. Rows in flight break none: a movement, its balance and
# the payment's status change in one commit, and each query sees one moment.
RULES = {
    "balance_is_sum_of_entries": """
        SELECT account.user_id,
               'balance ' || account.balance || ', entries ' || coalesce(moved.sum, 0)
        FROM payments_account account
        LEFT JOIN (
            SELECT id, sum(amount) AS sum FROM (
                SELECT target_id AS id, amount FROM payments_entry
                UNION ALL
                SELECT source_id, -amount FROM payments_entry
            ) sides GROUP BY id
        ) moved USING (id)
        WHERE account.kind = 'customer' AND account.balance <> coalesce(moved.sum, 0)
    """,
    "accounts_sum_to_zero": """
        SELECT currency, 'customers hold ' || customers || ', the system has given out ' || -system
        FROM (
            SELECT account.currency,
                   sum(side.amount) FILTER (WHERE account.kind = 'customer') AS customers,
                   coalesce(sum(side.amount) FILTER (WHERE account.kind = 'system'), 0) AS system
            FROM (
                SELECT target_id AS id, amount FROM payments_entry
                UNION ALL
                SELECT source_id, -amount FROM payments_entry
            ) side JOIN payments_account account USING (id)
            GROUP BY account.currency
        ) sums WHERE coalesce(customers, 0) + system <> 0
    """,
    "entry_in_the_currency_of_its_accounts": """
        SELECT entry.id::text, entry.currency || ' between ' || source.currency || ' and ' || target.currency
        FROM payments_entry entry
        JOIN payments_account source ON source.id = entry.source_id
        JOIN payments_account target ON target.id = entry.target_id
        WHERE entry.currency <> source.currency OR entry.currency <> target.currency
    """,
    "payment_is_its_entries": """
        SELECT payment.order_id,
               payment.status || ' of ' || payment.amount || ', charged ' || charged || ', refunded ' || refunded
        FROM (
            SELECT payment.*,
                   coalesce(sum(entry.amount) FILTER (WHERE entry.kind = 'charge'), 0) AS charged,
                   coalesce(sum(entry.amount) FILTER (WHERE entry.kind = 'refund'), 0) AS refunded
            FROM payments_payment payment
            LEFT JOIN payments_entry entry ON entry.order_id = payment.order_id AND entry.kind IN ('charge', 'refund')
            GROUP BY payment.order_id
        ) payment
        WHERE NOT CASE payment.status
            WHEN 'succeeded' THEN charged = payment.amount AND refunded = 0
            WHEN 'refunding' THEN charged = payment.amount AND refunded = 0
            WHEN 'refunded' THEN charged = payment.amount AND refunded = charged
            ELSE charged = 0 AND refunded = 0
        END
    """,
    "entry_of_an_order_has_its_payment": """
        SELECT entry.order_id, entry.kind
        FROM payments_entry entry LEFT JOIN payments_payment payment USING (order_id)
        WHERE entry.kind IN ('charge', 'refund') AND payment.order_id IS NULL
    """,
}


def findings(*, most: int = 100) -> list[Finding]:
    """Every broken rule of money, so many each at most; none if all is well."""
    found = []
    with connections["payments"].cursor() as cursor:
        for rule, query in RULES.items():
            cursor.execute(f"SELECT * FROM ({query}) broken LIMIT %s", [most])  # noqa: S608
            found += [Finding(rule, subject, detail) for subject, detail in cursor.fetchall()]
    return found
