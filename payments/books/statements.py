"""The statement of an account: what it had, each entry of a period with the balance after it, and what it has then."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connections
from django.utils.translation import gettext as _g

from common import money
from common.tables import csv_lines, decimal, text_cell

from ..models import Account
from .periods import NoPeriod

BATCH = 1_000  # entries in memory

OPENING = """
SELECT coalesce(sum(amount) FILTER (WHERE target_id = %(account)s), 0)
     - coalesce(sum(amount) FILTER (WHERE source_id = %(account)s), 0)
FROM (SELECT source_id, target_id, amount FROM payments_entry WHERE source_id = %(account)s AND at < %(since)s
      UNION ALL
      SELECT source_id, target_id, amount FROM payments_entry WHERE target_id = %(account)s AND at < %(since)s) entry
"""
# Both sides come from their own index, in the order in which entries were made.
PAGE = """
SELECT entry.id, entry.at, entry.kind, entry.signed, other.user_id, entry.order_id, entry.reason FROM (
    (SELECT id, at, kind, -amount AS signed, target_id AS other_id, order_id, reason FROM payments_entry
     WHERE source_id = %(account)s AND id > %(last)s AND at >= %(since)s AND at < %(until)s ORDER BY id LIMIT %(batch)s)
    UNION ALL
    (SELECT id, at, kind, amount, source_id, order_id, reason FROM payments_entry
     WHERE target_id = %(account)s AND id > %(last)s AND at >= %(since)s AND at < %(until)s ORDER BY id LIMIT %(batch)s)
) entry JOIN payments_account other ON other.id = entry.other_id
ORDER BY entry.id LIMIT %(batch)s
"""


@dataclass(frozen=True)
class Line:
    """An entry as seen from the account: what came in is positive. `balance` is that after it."""

    entry_id: UUID
    at: datetime
    kind: str
    amount: int
    other: str
    order_id: str
    reason: str
    balance: int


@dataclass(frozen=True)
class Statement:
    """The statement of an account from `since` until before `until`; `opening` is its balance at `since`."""

    account: Account
    since: datetime
    until: datetime
    opening: int

    def lines(self) -> Iterator[Line]:
        """Yield the entries of the period in the order in which they were made, read page by page."""
        last, balance = UUID(int=0), self.opening
        asked = {"account": self.account.pk, "since": self.since, "until": self.until, "batch": BATCH}
        while page := _rows(PAGE, asked | {"last": last}):
            for entry_id, at, kind, amount, other, order_id, reason in page:
                balance += amount
                yield Line(entry_id, at, kind, amount, other, order_id, reason, balance)
            last = page[-1][0]


def statement(*, account: Account, since: datetime, until: datetime) -> Statement:
    """
    Return the statement of an account. An entry that is booked meanwhile may be missing from it.

    :raises NoPeriod: if the period ends before it begins
    """
    if until < since:
        raise NoPeriod(_g("The period ends before it begins."))
    (opening,) = _rows(OPENING, {"account": account.pk, "since": since})[0]
    return Statement(account, since, until, int(opening))


def _rows(sql: str, asked: dict[str, Any]) -> list[Any]:
    with connections["payments"].cursor() as cursor:
        cursor.execute(sql, asked)
        return cursor.fetchall()


# What a statement is written as --------------------------------------------------------------------------------------


def as_json(stated: Statement, *, internal: bool = False) -> Iterator[str]:
    """Yield the parts of one JSON object. Only if it is for internal use does it name the other account of an entry."""
    currency = stated.account.currency

    def number(minor: int) -> float:
        return money.number(minor, currency=currency)

    head = {
        "user_id": stated.account.user_id,
        "currency": currency,
        "from": _time(stated.since),
        "to": _time(stated.until),
        "opening_balance": number(stated.opening),
    }
    yield json.dumps(head)[:-1] + ', "entries": ['
    balance, separator = stated.opening, ""
    for line in stated.lines():
        balance = line.balance
        shown: dict[str, Any] = {
            "entry_id": str(line.entry_id),
            "kind": line.kind,
            "amount": number(line.amount),
            "balance": number(balance),
            "order_id": line.order_id,
            "reason": line.reason,
            "at": _time(line.at),
        }
        if internal:
            shown["other_account"] = line.other
        yield separator + json.dumps(shown)
        separator = ", "
    yield f'], "closing_balance": {json.dumps(number(balance))}}}\n'


def as_csv(stated: Statement, *, internal: bool = False) -> Iterator[str]:
    """Yield the lines of a CSV file. The first and the last are the balances at the beginning and at the end."""
    return csv_lines(_table(stated, internal=internal, cell=text_cell))


def as_text(stated: Statement, *, internal: bool = True) -> Iterator[str]:
    """Yield the lines of a table in columns."""
    yield f"{stated.account.user_id} ({stated.account.currency})\n"
    widths = (27, 16, 14, 14, 24, 20)
    for row in _table(stated, internal=internal, cell=str):
        padded = zip(row, (*widths, 36, 0), strict=False)
        cells = [f"{cell:{'>' if n in (2, 3) else '<'}{width}}" for n, (cell, width) in enumerate(padded)]
        yield "  ".join(cells).rstrip() + "\n"


def _table(stated: Statement, *, internal: bool, cell: Callable[[str], str]) -> Iterator[list[str]]:
    currency = stated.account.currency

    def row(at: datetime, kind: str, amount: str, balance: int, *text: str) -> list[str]:
        others = [cell(one) for one in text] or [""] * len(columns)
        return [_time(at), kind, amount, decimal(balance, currency=currency), *others]

    columns = ["order_id", "reason", "entry_id", *(["other_account"] if internal else [])]
    yield ["at", "kind", "amount", "balance", *columns]
    yield row(stated.since, "opening balance", "", stated.opening)
    balance = stated.opening
    for line in stated.lines():
        balance = line.balance
        text = [line.order_id, line.reason, str(line.entry_id), *([line.other] if internal else [])]
        yield row(line.at, line.kind, decimal(line.amount, currency=currency), balance, *text)
    yield row(stated.until, "closing balance", "", balance)


def _time(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


FORMATS: dict[str, Callable[..., Iterator[str]]] = {"json": as_json, "csv": as_csv, "text": as_text}
