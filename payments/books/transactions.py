"""What a gateway has booked, stored once: its transactions, and the entries of its fees."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connections, transaction

from common.batches import in_batches
from outbox.ids import uuid7_from

from .. import gateways
from ..gateways.base import Transaction
from ..ledger import CASH, FEES, system_account
from ..models import Entry

BATCH = 2_000  # transactions in memory, and in one statement
TIMEOUT = "10min"  # of a statement about a whole period

STORE = """
INSERT INTO payments_gatewaytransaction AS known
    (id, gateway, transaction_id, kind, amount, fee, currency, fee_currency, at, payment_id, source_id, reference,
     order_id, description)
SELECT id, %s, transaction_id, kind, amount, fee, currency, fee_currency, at, payment_id, source_id, reference, '',
       description
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[],
            %s::text[], %s::text[], %s::text[], %s::text[])
    AS told(id, transaction_id, kind, amount, fee, currency, fee_currency, at, payment_id, source_id, reference,
            description)
ORDER BY transaction_id
ON CONFLICT (transaction_id, gateway) DO UPDATE
SET kind = excluded.kind, amount = excluded.amount, fee = excluded.fee, currency = excluded.currency,
    fee_currency = excluded.fee_currency, at = excluded.at,
    payment_id = excluded.payment_id, source_id = excluded.source_id, reference = excluded.reference, order_id = '',
    description = excluded.description
WHERE (known.kind, known.amount, known.fee, known.currency, known.at, known.payment_id, known.source_id,
       known.reference)
   IS DISTINCT FROM (excluded.kind, excluded.amount, excluded.fee, excluded.currency, excluded.at, excluded.payment_id,
                     excluded.source_id, excluded.reference)
"""

# A transaction belongs to the payment whose id at the gateway it names, or to that of the order that it names if either
# does not know the id. See models.reference for how an order is named there.
INSTALLATION = "CASE WHEN strpos(reference, ':') > 0 THEN split_part(reference, ':', 1) ELSE '' END"
ORDER = "split_part(reference, ':', CASE WHEN strpos(reference, ':') > 0 THEN 2 ELSE 1 END)"
OPEN_TOO = """
(at >= %(since)s AND at < %(until)s
 OR id IN (SELECT id FROM payments_difference WHERE gateway = %(gateway)s AND status = 'open'))
"""
UNRESOLVED = f"gateway = %(gateway)s AND order_id = '' AND {OPEN_TOO}"
RESOLVE = (
    f"""
    UPDATE payments_gatewaytransaction told SET order_id = payment.order_id
    FROM payments_payment payment,
         (SELECT id FROM payments_gatewaytransaction WHERE {UNRESOLVED} AND payment_id <> '') asked
    WHERE told.id = asked.id AND payment.gateway = %(gateway)s AND payment.gateway_payment_id = told.payment_id
      AND payment.gateway_payment_id <> ''
    """,  # noqa: S608 - nothing in it comes from outside
    f"""
    UPDATE payments_gatewaytransaction told SET order_id = payment.order_id
    FROM payments_payment payment,
         (SELECT id, {INSTALLATION} AS installation, {ORDER} AS named
          FROM payments_gatewaytransaction WHERE {UNRESOLVED} AND reference <> '') asked
    WHERE told.id = asked.id AND payment.gateway = %(gateway)s AND '' IN (payment.gateway_payment_id, told.payment_id)
      AND payment.order_id = asked.named AND payment.installation = asked.installation
    """,  # noqa: S608 - nothing in it comes from outside
)

# A fee is booked for what is ours: other installations may share the account, and book theirs.
FEE = f"""
FROM payments_gatewaytransaction told
WHERE gateway = %(gateway)s AND fee <> 0 AND {OPEN_TOO}
  AND (order_id <> '' OR CASE WHEN reference = '' THEN '' ELSE {INSTALLATION} END = %(installation)s)
  AND NOT EXISTS (SELECT FROM payments_entry entry WHERE entry.id = told.id)
"""
BOOK_FEES = f"""
INSERT INTO payments_entry
    (id, kind, source_id, target_id, amount, currency, order_id, reason, actor, request_id, gateway_id, at)
SELECT told.id, '{Entry.Kind.FEE}', CASE WHEN fee > 0 THEN fees.id ELSE cash.id END,
       CASE WHEN fee > 0 THEN cash.id ELSE fees.id END, abs(fee), fee_currency, order_id, gateway, '', '',
       %(prefix)s || transaction_id, at
FROM (SELECT * {FEE}) told
JOIN payments_account fees ON fees.kind = 'system' AND fees.user_id = '{FEES}' AND fees.currency = fee_currency
JOIN payments_account cash ON cash.kind = 'system' AND cash.user_id = '{CASH}' AND cash.currency = fee_currency
ON CONFLICT DO NOTHING
"""  # noqa: S608 - nothing in it comes from outside


def store(transactions: Iterable[Transaction], *, gateway: str) -> int:
    """
    Store what a gateway has booked, each of its ids once, and return how many transactions there were.

    Each batch is stored in a transaction of its own, or in that of the caller.
    """
    number = 0
    for batch in in_batches(transactions, BATCH):
        number += len(batch)
        # In one statement a row can be stored only once.
        _store(gateway, list({one.transaction_id: one for one in batch}.values()))
    return number


def _store(gateway: str, batch: list[Transaction]) -> None:
    columns: list[list[Any]] = [
        [_id(gateway, one) for one in batch],
        [one.transaction_id for one in batch],
        [one.kind.value for one in batch],
        [one.amount for one in batch],
        [one.fee for one in batch],
        [one.currency for one in batch],
        [one.fee_currency or one.currency for one in batch],
        [one.at for one in batch],
        [one.payment_id for one in batch],
        [one.source_id for one in batch],
        [one.order_id[:100] for one in batch],
        [one.description[:200] for one in batch],
    ]
    with connections["payments"].cursor() as cursor:
        cursor.execute(STORE, [gateway, *columns])


def _id(gateway: str, told: Transaction) -> Any:
    return uuid7_from(hashlib.sha256(f"{gateway} {told.transaction_id}".encode()).digest(), at=told.at)


@contextmanager
def in_bulk() -> Iterator[Any]:
    """
    Yield a cursor for statements about many rows, in a transaction.

    # Note [No nested loops]: what has just been stored is in no statistics, so the planner takes a table for empty, and
    compares each row with each. Whoever uses this keeps big tables out by the keys of the rows that are meant.
    """
    with transaction.atomic(using="payments"), connections["payments"].cursor() as cursor:
        cursor.execute(
            "SELECT set_config('statement_timeout', %s, true), set_config('enable_nestloop', 'off', true)", [TIMEOUT]
        )
        yield cursor


def resolve(*, gateway: str, since: datetime, until: datetime) -> None:
    """Find the payments of the transactions of this time, and of those with an open difference."""
    asked: dict[str, Any] = {"gateway": gateway, "since": since, "until": until}
    with in_bulk() as cursor:
        for statement in RESOLVE:
            cursor.execute(statement, asked)


def book_fees(*, gateway: str, since: datetime, until: datetime) -> int:
    """Add an entry for each fee of the transactions of this time, once, and return how many were added."""
    asked: dict[str, Any] = {
        "gateway": gateway,
        "since": since,
        "until": until,
        "installation": settings.INSTALLATION,
        # The files of several gateways may have the same ids.
        "prefix": "" if gateway in gateways.GATEWAYS else f"{gateway}:",
    }
    with in_bulk() as cursor:
        cursor.execute(f"SELECT DISTINCT fee_currency {FEE}", asked)
        for (currency,) in cursor.fetchall():
            for account in (FEES, CASH):
                system_account(account, currency=currency)
        cursor.execute(BOOK_FEES, asked)
        return cursor.rowcount
