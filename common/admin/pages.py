"""Lists as long as they like: a page is found by the row it begins after, and nothing is ever counted."""

import operator
from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING, Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils.text import capfirst

from .filters import ScanFilter

if TYPE_CHECKING:
    from .readonly import ReadOnlyAdmin

OLDER, NEWER = "older", "newer"
STRETCH = 10_000  # rows that sieves look through for a page


class Pages(ChangeList):
    """
    A list whose pages are linked by keys.

    `order` of the model admin names the key, all of it ascending or all of it descending, its last field unique. It
    should be an index: then the millionth page costs what the first one does.

    # Note [A query for each way]: a search looks its term up in several fields. Asked with OR, the planner may walk the
    # table instead; asked for each field, in the order of the list, it reads the beginning of a range of its index.

    # Note [Sieves]: what no index knows is looked for in the next `STRETCH` rows. If that doesn't fill the page, the
    # link to the next page goes on after them, and says so.
    """

    model_admin: "ReadOnlyAdmin"

    def __init__(self, request: HttpRequest, *args: Any) -> None:
        self.older_url = self.newer_url = ""
        super().__init__(request, *args)
        self.title = capfirst(str(self.opts.verbose_name_plural))

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return list(self.model_admin.order)

    def get_filters_params(self, params: dict[str, Any] | None = None) -> dict[str, Any]:
        found = super().get_filters_params(params)
        return {name: value for name, value in found.items() if name not in (OLDER, NEWER)}

    def get_results(self, request: HttpRequest) -> None:
        """Read a page and one row more, which tells whether there is another page."""
        forward, edge = self._edge(request)
        found, horizon = self._found(edge, forward=forward)
        page = found[: self.list_per_page]
        more = page[-1] if len(found) > len(page) else None
        self.looked_through = STRETCH if horizon is not None and more is None else 0
        ahead, back = (OLDER, NEWER) if forward else (NEWER, OLDER)
        urls = dict.fromkeys((OLDER, NEWER), "")
        if (last := more or horizon) is not None:
            urls[ahead] = self._url({ahead: last})
        if edge is not None:
            urls[back] = self._url({back: page[0]} if page else {})
        self.older_url, self.newer_url = urls[OLDER], urls[NEWER]
        self.result_list = page if forward else page[::-1]
        self.result_count = len(page)
        self.full_result_count = None
        self.show_full_result_count = False
        self.show_admin_actions = bool(page)
        self.can_show_all = self.multi_page = False
        self.paginator = None

    def _found(self, edge: Model | None, *, forward: bool) -> tuple[list[Model], Model | None]:
        """The rows of a page and one more; and the row after which sieves didn't look, if they didn't look at all."""
        rows = self.queryset if forward else self.queryset.reverse()
        if edge is not None:
            rows = rows.filter(_beyond(edge, self.model_admin.order, forward=forward))
        ways = [rows.filter(way) for way in self.model_admin.ways(self.query)]
        sieves = [one for one in self.filter_specs if isinstance(one, ScanFilter) and one.value()]
        horizon = None
        if sieves:
            ends = [list(way.select_related(None)[STRETCH - 1 : STRETCH + 1]) for way in ways]
            for unseen in self._in_order((end[1] for end in ends if len(end) > 1), forward=forward)[:1]:
                horizon = next(end[0] for end in ends if unseen in end)
                ways = [way.filter(_beyond(unseen, self.model_admin.order, forward=not forward)) for way in ways]
        for sieve in sieves:
            ways = [sieve.sift(way) for way in ways]
        if len(ways) == 1:
            return list(ways[0][: self.list_per_page + 1]), horizon
        found = {row.pk: row for way in ways for row in way[: self.list_per_page + 1]}
        return self._in_order(found.values(), forward=forward)[: self.list_per_page + 1], horizon

    def _in_order(self, rows: Iterable[Model], *, forward: bool) -> list[Model]:
        order = self.model_admin.order
        key = operator.attrgetter(*(name.lstrip("-") for name in order))
        return sorted(rows, key=key, reverse=order[0].startswith("-") == forward)

    def _edge(self, request: HttpRequest) -> tuple[bool, Model | None]:
        for name in (OLDER, NEWER):
            if name in request.GET:
                try:
                    return name == OLDER, self.root_queryset.filter(pk=request.GET[name]).first()
                except (ValidationError, ValueError) as error:
                    raise IncorrectLookupParameters(error) from error
        return True, None

    def _url(self, edge: dict[str, Model]) -> str:
        return self.get_query_string({name: str(row.pk) for name, row in edge.items()}, remove=[OLDER, NEWER])


def _beyond(edge: Model, order: tuple[str, ...], *, forward: bool) -> Q:
    """The rows that come after this one in the list; before it, if not `forward`."""
    descending = order[0].startswith("-")
    step = "lt" if descending == forward else "gt"
    names = [name.lstrip("-") for name in order]
    values = {name: getattr(edge, name) for name in names}
    ties = [
        Q(**{before: values[before] for before in names[:depth]}, **{f"{name}__{step}": values[name]})
        for depth, name in enumerate(names)
    ]
    bound = Q(**{f"{names[0]}__{step}e": values[names[0]]})  # lets the database begin at the right place of the index
    return bound & reduce(operator.or_, ties)
