"""Rows in lists of a bounded size."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

BATCH = 500
Row = TypeVar("Row")


def in_batches(rows: Iterable[Row], size: int = BATCH) -> Iterator[list[Row]]:
    """Yield these in lists of at most this size."""
    left = iter(rows)
    while batch := list(islice(left, size)):
        yield batch
