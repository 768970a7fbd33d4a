"""Short tables on the page of a row: the newest related rows, with a link to the others."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

NEWEST = 20

Column = tuple[Any, Callable[[Any], Any]]


@dataclass(frozen=True)
class Panel:
    """A table with a title; `empty` is the text shown without rows, `more` the URL of the full list."""

    title: Any
    heads: Sequence[Any]
    rows: Sequence[Sequence[Any]]
    more: str = ""
    empty: Any = ""


def newest(
    rows: QuerySet[Any] | Sequence[QuerySet[Any]],
    *columns: Column,
    title: Any,
    more: str = "",
    empty: Any = "",
) -> Panel:
    """
    A panel of the first rows of an ordered queryset, or of several that are each ordered by key, the newest first.
    """
    if isinstance(rows, QuerySet):
        found = list(rows[: NEWEST + 1])
    else:
        found = sorted((row for some in rows for row in some[: NEWEST + 1]), key=lambda row: row.pk, reverse=True)
    return panel(found[:NEWEST], *columns, title=title, more=more if len(found) > NEWEST else "", empty=empty)


def panel(rows: Iterable[Any], *columns: Column, title: Any, more: str = "", empty: Any = "") -> Panel:
    """A panel of these rows."""
    table = [[cell(row) for _head, cell in columns] for row in rows]
    return Panel(title, [head for head, _cell in columns], table, more, empty)
