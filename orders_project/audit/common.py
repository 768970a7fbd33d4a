"""What the checks of an audit share."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connections

BATCH = 5_000


@dataclass(frozen=True)
class Scope:
    """When the audit looks, how far back, and what it passes over as too fresh."""

    now: datetime
    window: timedelta
    grace: timedelta

    @property
    def settled(self) -> datetime:
        return self.now - self.grace

    @property
    def since(self) -> datetime:
        return self.now - self.window


@dataclass(frozen=True)
class Finding:
    """Something that does not add up, and what would set it right."""

    check: str
    subject: str
    detail: str
    repair: str
    order_id: str = ""

    def asdict(self) -> dict[str, str]:
        return asdict(self)


def rows(service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Ask a service's database."""
    with connections[service].cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def batches(service: str, sql: str, *parameters: Any, start: Any, size: int = BATCH) -> Iterator[list[tuple[Any, ...]]]:
    """
    Page through a big table by the first column of the query, which is its key.

    The query says `key > %s … ORDER BY key LIMIT %s`; its other parameters come first.
    """
    last = start
    while page := rows(service, sql, *parameters, last, size):
        yield page
        last = page[-1][0]
