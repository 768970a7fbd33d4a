"""The ledger as a journal of plain text accounting (hledger, Ledger, and what converts from them), or as CSV."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

from django.db import connections

from common.tables import csv_lines, decimal, text_cell

from ..ledger import CASH, CORRECTIONS, DISPUTES, FEES, REVENUE
from ..models import Account

BATCH = 1_000  # entries in memory
ACCOUNTS = {
    CASH: "assets:cash",
    REVENUE: "revenues:orders",
    CORRECTIONS: "equity:corrections",
    DISPUTES: "liabilities:disputes",
    FEES: "expenses:fees",
}

PAGE = """
SELECT entry.id, entry.at, entry.kind, entry.amount, entry.currency, entry.order_id, entry.reason, entry.gateway_id,
       source.kind, source.user_id, source.principal, target.kind, target.user_id, target.principal
FROM payments_entry entry
JOIN payments_account source ON source.id = entry.source_id
JOIN payments_account target ON target.id = entry.target_id
WHERE entry.id > %s AND entry.at >= %s AND entry.at < %s
ORDER BY entry.id LIMIT %s
"""
COLUMNS = ("entry_id", "at", "kind", "debit", "credit", "amount", "currency", "order_id", "reason", "gateway_id")


def _entries(since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
    """Yield the entries of a period in the order in which they were made. An entry debits its source."""
    last = UUID(int=0)
    while page := _rows(last, since, until):
        for entry_id, at, kind, amount, currency, order_id, reason, gateway_id, *accounts in page:
            yield {
                "entry_id": str(entry_id), "at": at.astimezone(UTC), "kind": kind, "debit": _name(*accounts[:3]),
                "credit": _name(*accounts[3:]), "amount": decimal(amount, currency=currency), "currency": currency,
                "order_id": order_id, "reason": reason, "gateway_id": gateway_id,
            }  # fmt: skip
        last = page[-1][0]


def _rows(last: UUID, since: datetime, until: datetime) -> list[Any]:
    with connections["payments"].cursor() as cursor:
        cursor.execute(PAGE, [last, since, until, BATCH])
        return cursor.fetchall()


def _name(kind: str, user_id: str, principal: str) -> str:
    """The account as a name of plain text accounting: what could be taken for its syntax is encoded as in URLs."""
    if kind == Account.Kind.SYSTEM:
        return ACCOUNTS.get(user_id, f"equity:{user_id}")
    return ":".join(["liabilities", "customers", *(quote(part, safe="@+") for part in (principal, user_id) if part)])


def as_hledger(since: datetime, until: datetime) -> Iterator[str]:
    """Yield the transactions of a journal. What else is known of an entry are its tags."""
    yield f"; entries from {since.isoformat()} until before {until.isoformat()}\n"
    for entry in _entries(since, until):
        tags = {"entry": entry["entry_id"], "time": f"{entry['at']:%H:%M:%S}"} | {
            tag: _in_a_tag(entry[name])
            for tag, name in (("order", "order_id"), ("gateway", "gateway_id"), ("reason", "reason"))
            if entry[name]
        }
        listed = ", ".join(f"{tag}:{value}" for tag, value in tags.items())
        yield (
            f"\n{entry['at']:%Y-%m-%d} * {entry['kind']}\n"
            f"    ; {listed}\n"
            f"    {entry['debit']:<40}  {entry['amount']} {entry['currency']}\n"
            f"    {entry['credit']:<40}  -{entry['amount']} {entry['currency']}\n"
        )


def _in_a_tag(text: str) -> str:
    """Text as the value of a tag, which ends with the line or a comma."""
    return " ".join("".join(one if one.isprintable() and one != "," else " " for one in text).split())


def as_csv(since: datetime, until: datetime) -> Iterator[str]:
    """Yield the lines of a CSV file, an entry each."""
    text = ("debit", "credit", "order_id", "reason", "gateway_id")

    def rows() -> Iterator[list[str]]:
        yield list(COLUMNS)
        for entry in _entries(since, until):
            entry["at"] = entry["at"].isoformat().replace("+00:00", "Z")
            yield [text_cell(entry[name]) if name in text else entry[name] for name in COLUMNS]

    return csv_lines(rows())


FORMATS: dict[str, Callable[[datetime, datetime], Iterator[str]]] = {"hledger": as_hledger, "csv": as_csv}
