"""
Rules about stored data, such as "the holds of a product add up to its counters", and what breaks them.

A service exports the rules about its own tables as `RULES` in its module `audit`. `manage.py audit` checks the rules of
all services, and those between them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connections

from .reads import source_of

BATCH = 5_000
MAX_FINDINGS = 1_000


@dataclass(frozen=True)
class Scope:
    """The time of an audit, how far back it looks, and how young a change must be to count as in flight."""

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
    """
    Something that breaks a rule: the rule's name, the thing that breaks it, how, and what repairs it.

    `order_id` names the order concerned, if there is one: while messages about it are under way it is not reported.
    """

    check: str
    subject: str
    detail: str
    repair: str
    order_id: str = ""

    def asdict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """
    A promise about stored data. `check` yields what breaks it.

    Make one from a query with `Rule.of_query`; a rule that needs more than one query has a function of its own.
    """

    name: str
    promise: str
    check: Callable[[Scope], Iterable[Finding]]

    @classmethod
    def of_query(cls, name: str, promise: str, *, service: str, query: str, repair: str) -> "Rule":
        """
        A rule that one query of a service's database checks.

        The query selects the subject and the detail of each thing that breaks the rule, and as a third column, if
        there is one, the id of the order concerned. It takes no parameters. At most `MAX_FINDINGS` are reported.
        """

        query_some = f"SELECT * FROM ({query}) broken LIMIT {MAX_FINDINGS}"  # noqa: S608

        def check(scope: Scope) -> Iterator[Finding]:
            for subject, detail, *order_id in rows(service, query_some):
                yield Finding(name, subject, detail, repair, *order_id)

        return cls(name, promise, check)


def rows(service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run a query in a service's database, or its standby if that may lag here, and return its rows."""
    with connections[source_of(service)].cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return cursor.fetchall()


def batches(service: str, sql: str, *parameters: Any, start: Any, size: int = BATCH) -> Iterator[list[tuple[Any, ...]]]:
    """
    Yield the rows of a big table in batches, by the first column of the query, which is its key.

    The query says `key > %s … ORDER BY key LIMIT %s`; its other parameters come first.
    """
    last = start
    while page := rows(service, sql, *parameters, last, size):
        yield page
        last = page[-1][0]
