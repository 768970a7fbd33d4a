"""Settlement files: what a gateway has booked, as CSV. The columns are documented in docs/accounting.md."""

import csv
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive
from django.utils.translation import gettext as _g

from common import money
from common.errors import Refusal

from ..gateways.base import Transaction

REQUIRED = ("transaction_id", "kind", "amount", "currency", "at")
OPTIONAL = ("fee", "payment_id", "source_id", "order_id", "description")
SHOWN = 20  # bad lines
MAX_LENGTHS = {"transaction_id": 79, "payment_id": 100, "source_id": 100, "order_id": 100, "description": 200}
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


class BadFile(Refusal):
    """A settlement file has lines that cannot be read; nothing of it was stored."""

    code = "bad_settlement_file"

    def __init__(self, problems: list[str], *, more: int = 0) -> None:
        shown = [*problems, _g("… and %(number)s more lines") % {"number": more}] if more else problems
        super().__init__("\n".join(shown))
        self.problems = problems


def read(lines: Iterable[str]) -> Iterator[Transaction]:
    """
    Yield the transactions of a settlement file.

    :raises BadFile: at the end, with the number of each line that cannot be read; store nothing before
    """
    rows = csv.reader(lines, strict=True)
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        _check_columns(names)
        yield from _transactions(rows, names)
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadFile([_g("line %(line)s: %(problem)s") % {"line": rows.line_num, "problem": error}]) from error


def _check_columns(names: list[str]) -> None:
    problems = [_g("The column %(name)s is missing.") % {"name": name} for name in REQUIRED if name not in names]
    for name in dict.fromkeys(names):
        if name not in (*REQUIRED, *OPTIONAL):
            problems.append(_g("There is no column %(name)s.") % {"name": name})
        elif names.count(name) > 1:
            problems.append(_g("The column %(name)s is there twice.") % {"name": name})
    if problems:
        raise BadFile(problems)


def _transactions(rows: Iterator[list[str]], names: list[str]) -> Iterator[Transaction]:
    problems: list[str] = []
    more, seen = 0, set()
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        try:
            if len(row) != len(names):
                raise ValueError(
                    _g("%(number)s columns instead of %(expected)s") % {"number": len(row), "expected": len(names)}
                )
            one = _transaction({name: cell.strip() for name, cell in zip(names, row, strict=True)})
            if one.transaction_id in seen:
                raise ValueError(_g("%(id)s was on a line before") % {"id": one.transaction_id})
        except ValueError as error:
            if len(problems) < SHOWN:
                line = rows.line_num  # type: ignore[attr-defined]
                problems.append(_g("line %(line)s: %(problem)s") % {"line": line, "problem": error})
            else:
                more += 1
        else:
            seen.add(one.transaction_id)
            if not problems:
                yield one
    if problems:
        raise BadFile(problems, more=more)


def _transaction(cells: dict[str, str]) -> Transaction:
    """
    Return the transaction of a line.

    :raises ValueError: if a cell cannot be read, in words
    """
    for name, most in MAX_LENGTHS.items():
        if len(cells.get(name, "")) > most or UNPRINTABLE.search(cells.get(name, "")):
            raise ValueError(_g("%(name)s: up to %(most)s printable characters") % {"name": name, "most": most})
    if not cells["transaction_id"]:
        raise ValueError(_g("transaction_id is empty"))
    if cells["kind"] not in [kind.value for kind in Transaction.Kind]:
        raise ValueError(_g("kind: one of %(kinds)s") % {"kinds": ", ".join(Transaction.Kind)})
    if cells["currency"] not in money.EXPONENTS:
        raise ValueError(_g("currency: one of %(currencies)s") % {"currencies": ", ".join(money.EXPONENTS)})
    kind = Transaction.Kind(cells["kind"])
    amount = _amount(cells, "amount")
    if amount < 0 or (amount == 0 and kind is not Transaction.Kind.OTHER):
        raise ValueError(_g("amount: without a sign, and more than zero"))
    return Transaction(
        transaction_id=cells["transaction_id"],
        kind=kind,
        amount=amount,
        fee=_amount(cells, "fee") if cells.get("fee") else 0,
        currency=cells["currency"],
        at=_at(cells["at"]),
        payment_id=cells.get("payment_id", ""),
        source_id=cells.get("source_id", ""),
        order_id=cells.get("order_id", ""),
        description=cells.get("description", ""),
    )


def _amount(cells: dict[str, str], name: str) -> int:
    try:
        return money.minor_units(cells[name], currency=cells["currency"])
    except money.NotAnAmount as error:
        raise ValueError(f"{name}: {error}") from error


def _at(text: str) -> datetime:
    try:
        at = parse_datetime(text)
        if at is not None and not is_naive(at):
            return at.astimezone(UTC)  # a database takes fewer offsets than there are
    except (ValueError, OverflowError):
        pass
    raise ValueError(_g("at: a date and time with its offset, such as 2026-11-28T12:00:00Z"))
