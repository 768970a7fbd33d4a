"""The trial balance: what went into and out of each account of the system, and of all customers, in each currency."""

from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from django.db import connections, transaction

from common import reads

CUSTOMERS = "customers"
TIMEOUT = "10min"

# An entry debits its source and credits its target. The sums of both columns agree in each currency unless an entry is
# between accounts of two currencies, or an account is missing.
TOTALS = f"""
SELECT account.currency, CASE account.kind WHEN 'system' THEN account.user_id ELSE '{CUSTOMERS}' END AS name,
       coalesce(sum(debit), 0), coalesce(sum(credit), 0)
FROM (
    SELECT source_id AS account_id, amount AS debit, 0 AS credit FROM payments_entry WHERE %(always)s OR at < %(at)s
    UNION ALL
    SELECT target_id, 0, amount FROM payments_entry WHERE %(always)s OR at < %(at)s
) side JOIN payments_account account ON account.id = side.account_id
WHERE %(currency)s = '' OR account.currency = %(currency)s
GROUP BY 1, 2 ORDER BY 1, 2
"""  # noqa: S608 - nothing in it comes from outside


@dataclass(frozen=True)
class Row:
    """An account of the system, or those of all customers: what it paid, what it was paid, and the difference."""

    name: str
    debit: int
    credit: int

    @property
    def balance(self) -> int:
        return self.credit - self.debit


@dataclass(frozen=True)
class TrialBalance:
    """The accounts of a currency."""

    currency: str
    rows: tuple[Row, ...]

    @property
    def debit(self) -> int:
        return sum(row.debit for row in self.rows)

    @property
    def credit(self) -> int:
        return sum(row.credit for row in self.rows)

    @property
    def is_balanced(self) -> bool:
        return self.debit == self.credit


def trial_balances(*, at: datetime | None = None, currency: str = "", timeout: str = TIMEOUT) -> list[TrialBalance]:
    """Return the trial balance of each currency, or of this one, before this time, or of all that is booked."""
    source = reads.source_of("payments")
    with transaction.atomic(using=source), connections[source].cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [timeout])
        cursor.execute(TOTALS, _asked(at, currency))
        found = cursor.fetchall()
    return [
        TrialBalance(one, tuple(Row(name, int(debit), int(credit)) for _currency, name, debit, credit in rows))
        for one, rows in groupby(found, key=lambda row: row[0])
    ]


def _asked(at: datetime | None, currency: str) -> dict[str, Any]:
    return {"always": at is None, "at": at, "currency": currency}
