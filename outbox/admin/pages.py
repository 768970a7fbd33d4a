"""Lists as long as they like: a page is found by the row it begins after, and nothing is ever counted."""

import operator
from functools import reduce
from typing import TYPE_CHECKING, Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils.text import capfirst

if TYPE_CHECKING:
    from .window import Window

OLDER, NEWER = "older", "newer"


class Pages(ChangeList):
    """
    A list whose pages are linked by keys.

    `order` of the model admin names the key, all of it ascending or all of it descending, its last field unique. It
    should be an index: then the millionth page costs what the first one does.
    """

    model_admin: "Window"

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
        rows = self.queryset._clone()
        if edge is not None:
            rows = rows.filter(_beyond(edge, self.model_admin.order, forward=forward))
        if not forward:
            rows = rows.reverse()
        page = list(rows[: self.list_per_page + 1])
        more = len(page) > self.list_per_page
        page = page[: self.list_per_page]
        if not forward:
            page.reverse()
        if page and (more if forward else edge is not None):
            self.older_url = self._url(OLDER, page[-1])
        if page and (edge is not None if forward else more):
            self.newer_url = self._url(NEWER, page[0])
        self.result_list = page
        self.result_count = len(page)
        self.full_result_count = None
        self.show_full_result_count = False
        self.show_admin_actions = bool(page)
        self.can_show_all = self.multi_page = False
        self.paginator = None

    def _edge(self, request: HttpRequest) -> tuple[bool, Model | None]:
        for name in (OLDER, NEWER):
            if name in request.GET:
                try:
                    return name == OLDER, self.root_queryset.filter(pk=request.GET[name]).first()
                except (ValidationError, ValueError) as error:
                    raise IncorrectLookupParameters(error) from error
        return True, None

    def _url(self, name: str, row: Model) -> str:
        return self.get_query_string({name: str(row.pk)}, remove=[OLDER, NEWER])


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
