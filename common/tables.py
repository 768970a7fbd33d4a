"""Tables for people who keep books: as CSV that no spreadsheet takes for formulas, and as text in columns."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from . import money

FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet begins to compute


def decimal(minor: int, *, currency: str) -> str:
    """Return an amount in minor units as a number that programs read: 120000 becomes 1200.00."""
    exponent = money.EXPONENTS.get(currency, 0)
    return f"{Decimal(minor).scaleb(-exponent):.{exponent}f}"


def text_cell(text: str) -> str:
    """Return text as a cell that a spreadsheet shows and does not compute."""
    return f"'{text}" if text.startswith(FORMULAS) else text


def csv_lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a CSV file (RFC 4180). Cells of text have to be made by `text_cell`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    for row in rows:
        writer.writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
