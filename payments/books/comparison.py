"""
How the transactions of a gateway are compared with the ledger: in SQL, for some thousands of orders at a time.

# Note [Order by order]: an order is compared as a whole: all of its transactions with all of its entries, whenever they
were booked. So an entry that was made late, by a repair, finds its transaction however old that is. Only what lies
within the time of the run, or is an open difference, is counted and reported.
"""

from collections.abc import Iterator
from typing import Any

from django.db import connections

from ..models import Difference, Entry, Payment, Refund, WebhookReceipt
from .transactions import INSTALLATION, in_bulk

BATCH = 5_000  # orders
Kind = Difference.Kind
KINDS = (Entry.Kind.CHARGE, Entry.Kind.REFUND, Entry.Kind.REFUND_FAILED, Entry.Kind.DISPUTE, Entry.Kind.DISPUTE_WON)
IN = "('charge', 'refund_failed', 'dispute_won')"  # what adds to the balance of the gateway
FOUND = ", ".join(f"'{kind}'" for kind in Kind.values)
OPEN = "SELECT id FROM payments_difference WHERE gateway = %(gateway)s AND status = 'open'"
IN_TIME = "(at >= %(since)s AND at < %(until)s)"

ORDERS = """
SELECT order_id FROM (
    (SELECT DISTINCT order_id FROM payments_gatewaytransaction
     WHERE gateway = %(gateway)s AND at >= %(since)s AND at < %(until)s AND order_id > %(last)s
     ORDER BY order_id LIMIT %(batch)s)
    UNION
    (SELECT DISTINCT order_id FROM payments_entry
     WHERE at >= %(since)s AND at < %(until)s AND kind = ANY(%(kinds)s) AND order_id > %(last)s
     ORDER BY order_id LIMIT %(batch)s)
    UNION
    (SELECT DISTINCT order_id FROM payments_difference
     WHERE gateway = %(gateway)s AND status = 'open' AND order_id > %(last)s ORDER BY order_id LIMIT %(batch)s)
) orders ORDER BY order_id LIMIT %(batch)s
"""

# By which columns a transaction and an entry belong together, in the order in which that is tried, and if what:
# without the id of the refund or dispute on one side, they are paired by less. (A charge has none: there is one.)
PASSES = (
    ("by_id", ("order_id", "kind", "source_id"), "there.source_id <> ''"),
    ("by_amount", ("order_id", "kind", "amount", "currency"), "'' IN (there.source_id, here.source_id)"),
    ("by_order", ("order_id", "kind"), "'' IN (there.source_id, here.source_id)"),
)


def _pass(number: int) -> str:
    """The common table expression of a pass: pairs of what no pass before has paired, one to one."""
    name, keys, condition = PASSES[number]
    sides = {}
    for side in ("there", "here"):
        rest = "".join(f" AND id NOT IN (SELECT {side} FROM {done})" for done, *_more in PASSES[:number])  # noqa: S608
        rank = f"row_number() OVER (PARTITION BY {', '.join(keys)} ORDER BY source_id <> '', at, id)"
        sides[side] = f"(SELECT *, {rank} AS n FROM {side} WHERE true{rest}) {side}"  # noqa: S608
    return f"""{name} AS MATERIALIZED (
    SELECT there.id AS there, here.id AS here FROM {sides["there"]}
    JOIN {sides["here"]} USING ({", ".join(keys)}, n) WHERE {condition}
)"""  # noqa: S608 - nothing in it comes from outside


# What a person has accepted stays accepted while it differs in the same way.
SAME = ("kind", "amount_there", "currency_there", "amount_here", "currency_here")
ACCEPTED = "known.status = 'accepted' AND ({}) IS NOT DISTINCT FROM ({})".format(
    ", ".join(f"known.{name}" for name in SAME), ", ".join(f"excluded.{name}" for name in SAME)
)
REPORT = f"""
found AS (SELECT * FROM judged WHERE outcome IN ({FOUND})),
stored AS (
    INSERT INTO payments_difference AS known
        (id, kind, status, gateway, transaction_id, what, payment_id, order_id, entry_id, amount_there, currency_there,
         amount_here, currency_here, at, found_at, seen_at, closed_by, closed_why)
    SELECT id, outcome, 'open', %(gateway)s, transaction_id, what, payment_id, order_id, entry_id, amount_there,
           currency_there, amount_here, currency_here, at, %(now)s, %(now)s, '', ''
    FROM found ORDER BY id
    ON CONFLICT (id) DO UPDATE SET
        kind = excluded.kind, payment_id = excluded.payment_id, order_id = excluded.order_id,
        entry_id = excluded.entry_id, amount_there = excluded.amount_there, currency_there = excluded.currency_there,
        amount_here = excluded.amount_here, currency_here = excluded.currency_here, seen_at = excluded.seen_at,
        status = CASE WHEN {ACCEPTED} THEN 'accepted' ELSE 'open' END,
        closed_at = CASE WHEN {ACCEPTED} THEN known.closed_at END,
        closed_by = CASE WHEN {ACCEPTED} THEN known.closed_by ELSE '' END,
        closed_why = CASE WHEN {ACCEPTED} THEN known.closed_why ELSE '' END
)
SELECT outcome, currency, count(*), sum(amount) FROM judged GROUP BY outcome, currency
"""  # noqa: S608 - nothing in it comes from outside

# See PASSES for how both sides are paired. `rest` is what has no pair.
COMPARE = f"""
WITH there AS MATERIALIZED (
    SELECT id, transaction_id, kind, amount, currency, at, order_id, payment_id,
           CASE WHEN kind = 'charge' THEN '' ELSE source_id END AS source_id
    FROM payments_gatewaytransaction
    WHERE order_id = ANY(%(orders)s) AND order_id <> '' AND gateway = %(gateway)s AND kind = ANY(%(kinds)s)
),
here AS MATERIALIZED (
    SELECT entry.id, entry.kind, entry.amount, entry.currency, entry.at, payment.order_id,
           payment.gateway_payment_id AS payment_id,
           CASE WHEN entry.kind = 'charge' THEN '' ELSE coalesce(
               nullif(entry.gateway_id, ''), nullif(refund.gateway_refund_id, ''),
               CASE WHEN entry.kind = 'refund' AND entry.refund_id IS NULL THEN payment.gateway_refund_id END, ''
           ) END AS source_id
    FROM payments_payment payment
    JOIN payments_entry entry
        ON entry.order_id = payment.order_id AND entry.order_id = ANY(%(orders)s) AND entry.kind = ANY(%(kinds)s)
    LEFT JOIN payments_refund refund
        ON refund.refund_id = entry.refund_id AND refund.payment_id = ANY(%(orders)s)
    WHERE payment.order_id = ANY(%(orders)s) AND payment.gateway = %(gateway)s
),
{", ".join(_pass(number) for number in range(len(PASSES)))},
pairs AS MATERIALIZED ({" UNION ALL ".join(f"SELECT there, here FROM {name}" for name, *_rest in PASSES)}),
rest AS MATERIALIZED (SELECT * FROM there WHERE id NOT IN (SELECT there FROM pairs)),
judged AS MATERIALIZED (
    SELECT there.id, there.transaction_id, there.kind AS what, there.payment_id, there.order_id, here.id AS entry_id,
           there.amount AS amount_there, there.currency AS currency_there, here.amount AS amount_here,
           here.currency AS currency_here, there.at, there.amount, there.currency,
           CASE WHEN (there.amount, there.currency) = (here.amount, here.currency) THEN 'matched'
                ELSE '{Kind.DIFFERING}' END AS outcome
    FROM pairs JOIN there ON there.id = pairs.there JOIN here ON here.id = pairs.here
    WHERE (there.at >= %(since)s AND there.at < %(until)s) OR there.id IN ({OPEN}) OR here.id IN ({OPEN})
    UNION ALL
    SELECT rest.id, transaction_id, kind, rest.payment_id, rest.order_id, NULL, rest.amount, rest.currency, NULL, '',
           at, rest.amount, rest.currency,
           CASE
               WHEN at >= %(settled)s OR EXISTS (
                   -- the gateway has accepted the refund, and may still refuse it
                   SELECT FROM payments_refund refund
                   WHERE refund.gateway_refund_id = source_id AND refund.gateway = %(gateway)s
                     AND source_id <> '' AND refund.status = ANY(%(open_refunds)s)
               ) OR (payment.status = '{Payment.Status.REFUNDING}' AND source_id <> ''
                     AND payment.gateway_refund_id = source_id) THEN 'in_flight'
               WHEN EXISTS (
                   -- a refund that has failed before it was booked here
                   SELECT FROM rest other WHERE other.order_id = rest.order_id AND other.source_id = rest.source_id
                     AND rest.source_id <> '' AND other.amount = rest.amount AND other.kind <> rest.kind
                     AND other.kind IN ('refund', 'refund_failed') AND rest.kind IN ('refund', 'refund_failed')
               ) OR (
                   -- money that no payment was to have, and that went back: the ledger never had it
                   payment.status IN ('{Payment.Status.VOIDED}', '{Payment.Status.FAILED}')
                   AND NOT EXISTS (SELECT FROM here WHERE here.order_id = rest.order_id)
                   AND 0 = (SELECT sum(CASE WHEN kind IN {IN} THEN amount ELSE -amount END) FROM there
                            WHERE there.order_id = rest.order_id)
               ) THEN 'returned'
               ELSE '{Kind.MISSING_HERE}'
           END
    FROM rest
    LEFT JOIN payments_payment payment ON payment.order_id = rest.order_id AND payment.order_id = ANY(%(orders)s)
    WHERE {IN_TIME} OR rest.id IN ({OPEN})
    UNION ALL
    SELECT id, '', kind, payment_id, order_id, id, NULL, '', amount, currency, at, amount, currency,
           CASE WHEN at >= %(settled)s THEN 'in_flight' ELSE '{Kind.MISSING_THERE}' END
    FROM here
    WHERE id NOT IN (SELECT here FROM pairs) AND ({IN_TIME} OR id IN ({OPEN}))
),
{REPORT}
"""  # noqa: S608 - nothing in it comes from outside

# Transactions of no payment of ours. Those of another installation at the same account are none of our business.
UNKNOWN = f"""
WITH judged AS MATERIALIZED (
    SELECT id, transaction_id, kind AS what, payment_id, '' AS order_id, NULL::uuid AS entry_id,
           amount AS amount_there, currency AS currency_there, NULL::bigint AS amount_here, '' AS currency_here, at,
           amount, currency,
           CASE
               WHEN reference <> '' AND {INSTALLATION} <> %(installation)s THEN 'elsewhere'
               WHEN at >= %(settled)s THEN 'in_flight'
               WHEN EXISTS (
                   SELECT FROM payments_webhookreceipt receipt
                   WHERE receipt.payment_id = told.payment_id AND receipt.gateway = told.gateway
                     AND receipt.status = '{WebhookReceipt.Status.REFUNDED}'
               ) AND 0 = (
                   SELECT sum(CASE WHEN kind IN {IN} THEN amount ELSE -amount END)
                   FROM payments_gatewaytransaction same
                   WHERE same.payment_id = told.payment_id AND same.payment_id <> '' AND same.gateway = told.gateway
               ) THEN 'returned'
               ELSE '{Kind.UNKNOWN_PAYMENT}'
           END AS outcome
    FROM payments_gatewaytransaction told
    WHERE gateway = %(gateway)s AND order_id = '' AND kind = ANY(%(kinds)s) AND ({IN_TIME} OR id IN ({OPEN}))
),
{REPORT}
"""  # noqa: S608 - nothing in it comes from outside

CLOSE = """
UPDATE payments_difference SET status = 'repaired', closed_at = %(now)s, closed_by = '', closed_why = ''
WHERE gateway = %(gateway)s AND status = 'open' AND seen_at < %(now)s
"""

Outcome = tuple[str, str, int, int]  # the outcome, the currency, how many, and their sum


def compare(asked: dict[str, Any]) -> Iterator[Outcome]:
    """
    Compare the time `since` … `until` with the ledger, store the differences, and yield how many there are of what.

    What is younger than `settled` is in flight. Orders are compared in batches, each in a transaction of its own.
    """
    asked = asked | {
        "kinds": [kind.value for kind in KINDS],
        "open_refunds": [status.value for status in Refund.OPEN],
        "batch": BATCH,
        "last": "",
    }
    yield from _rows(UNKNOWN, asked)
    while orders := [order_id for (order_id,) in _rows(ORDERS, asked)]:
        yield from _rows(COMPARE, asked | {"orders": orders})
        asked["last"] = orders[-1]


def close(asked: dict[str, Any]) -> int:
    """Close the open differences that this run has not seen, as both sides agree by now; return how many."""
    with connections["payments"].cursor() as cursor:
        cursor.execute(CLOSE, asked)
        return cursor.rowcount


def _rows(sql: str, asked: dict[str, Any]) -> list[Any]:
    with in_bulk() as cursor:
        cursor.execute(sql, asked)
        return list(cursor.fetchall())
