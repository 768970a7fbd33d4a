"""Change lists of any length: a page is found by the key that it begins after, and rows are never counted."""

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils.text import capfirst

from .. import keyset, reads
from . import urls
from .display import field_shown
from .filters import ScanFilter

if TYPE_CHECKING:
    from .readonly import ReadOnlyAdmin

OLDER, NEWER = "older", "newer"
SORT = re.compile(r"(-?)(\d{1,3})(?!\d)")
SCAN_ROWS = 10_000  # rows that scan filters look through for a page
MOST_FOUND = 1000  # rows that a search finds by a part of something
NEAR_ROWS = 2000  # rows of the list that a wide search looks at before it asks an index
MOST_NAMED = 10  # rows with the term as a whole name that come first


class KeysetChangeList(ChangeList):
    """
    A change list whose pages are linked by keys.

    `order` of the model admin is the ordering of the keys (see common/keyset.py), unless one sorts by a column that its
    `sorts` has.

    # Note [One query for each field that is searched]: combined with OR, the planner may walk the table instead. Asked
    for one field at a time, in the order of the list, it reads the beginning of a range of that field's index.

    # Note [Scan filters]: values that no index knows are looked for in the next `SCAN_ROWS` rows. If these don't fill
    the page, the link to the next page continues after them and says so.

    # Note [Wide searches]: the rows whose text has a term are in the order of the text, not of the list. So no more
    # than `MOST_FOUND` of them are taken and put in order. If there are more, one meets them on the way through the
    # list: they are looked for as by a scan filter. What nearly every row has fills the page from the next `NEAR_ROWS`,
    # and no index is asked. Rows that have the term as a whole name come first nevertheless.
    """

    model_admin: "ReadOnlyAdmin"
    CURSORS = (OLDER, NEWER)
    order: tuple[str, ...] = ()
    sorted_by: int | None = None  # the column
    is_wide = False  # whether it is a wide search

    def __init__(self, request: HttpRequest, *args: Any) -> None:
        self.older_url = self.newer_url = ""
        self.viewer = reads.name_of(request)
        super().__init__(request, *args)
        self.title = capfirst(str(self.opts.verbose_name_plural))

    @property
    def export_url(self) -> str:
        """The page that makes a file of this list; empty where the list has no rows."""
        return urls.url_of(self.opts, "export") + self.get_query_string() if self.result_list else ""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        self.order = self.model_admin.order
        asked = SORT.match(self.params.get(ORDER_VAR, ""))
        column = int(asked[2]) if asked else len(self.list_display)
        if asked and column < len(self.list_display):
            names = self.model_admin.sorts.get(field_shown(self.list_display[column]))
            if names:
                self.order, self.sorted_by = tuple(f"{asked[1]}{name}" for name in names), column
        return list(self.order)

    def get_ordering_field_columns(self) -> dict[int, Any]:
        """The column by which the list is sorted."""
        shown = list(map(field_shown, self.list_display))
        for name, order in self.model_admin.sorts.items():
            if name in shown and order == tuple(keyset.names(self.order)):
                return {shown.index(name): "desc" if self.order[0].startswith("-") else "asc"}
        return {}

    def get_query_string(self, new_params: Any = None, remove: Any = None) -> str:
        """The query of this list with other parameters, from its first page on unless they name another."""
        return super().get_query_string(new_params, [*(remove or ()), *self.CURSORS])

    def get_filters_params(self, params: dict[str, Any] | None = None) -> dict[str, Any]:
        found = super().get_filters_params(params)
        return {name: value for name, value in found.items() if name not in self.CURSORS}

    def get_results(self, request: HttpRequest) -> None:
        """Read one row more than a page, which tells whether there is a next page."""
        forward, start = self._start(request)
        found, horizon = self._found(start, forward=forward)
        page = found[: self.list_per_page]
        more = page[-1] if len(found) > len(page) else None
        self.rows_scanned = SCAN_ROWS if horizon is not None and more is None else 0
        ahead, back = (OLDER, NEWER) if forward else (NEWER, OLDER)
        urls = dict.fromkeys((OLDER, NEWER), "")
        if (last := more or horizon) is not None:
            urls[ahead] = self._url({ahead: last})
        if start is not None:
            urls[back] = self._url({back: page[0]} if page else {})
        self.older_url, self.newer_url = urls[OLDER], urls[NEWER]
        if start is None and last is not None and self.is_wide:
            page = self._named(page)
        self.result_list = page if forward else page[::-1]
        self.result_count = len(page)
        self.full_result_count = None
        self.show_full_result_count = False
        self.show_admin_actions = bool(page)
        self.can_show_all = self.multi_page = False
        self.paginator = None

    def all_pages(self, size: int, *, may_lag: bool = False) -> Iterator[list[Model]]:
        """All rows of the list, however many pages it has, in lists of about this size."""
        self.list_per_page = size
        start: list[Any] | None = None
        databases = (self.opts.app_label,) if may_lag else ()
        while True:
            read = partial(self._found, start, forward=True)
            found, horizon = reads.may_lag(read, *databases, who=self.viewer)
            page = found[:size]
            yield page
            last = page[-1] if len(found) > size else horizon
            if last is None:
                return
            start = keyset.key_of(last, self.order)

    def _found(self, start: list[Any] | None, *, forward: bool) -> tuple[list[Model], Model | None]:
        """The rows of a page and one more; and the last row that the scan filters looked at, if they stopped early."""
        order = self.order
        rows = self.queryset if forward else self.queryset.reverse()
        if start is not None:
            rows = rows.filter(keyset.beyond(start, order, forward=forward))
        searches = [rows.filter(condition) for condition in self.model_admin.search_conditions(self.query)]
        wide = self.model_admin.wide_searches(self.root_queryset.order_by(), self.query)
        self.is_wide = bool(wide)
        scans: list[Callable[[QuerySet[Any]], QuerySet[Any]]] = [
            one.matching for one in self.filter_specs if isinstance(one, ScanFilter) and one.value()
        ]
        anywhere = self.model_admin.search_anywhere(self.query) if wide else Q()
        if wide and not scans:
            (first,), _beyond = self._within([rows], NEAR_ROWS, forward=forward)
            near = list(first.filter(anywhere)[: self.list_per_page + 1])
            if len(near) > self.list_per_page:
                return near, None
        found_by = [self._keys(one) for one in wide]
        if max(map(len, found_by), default=0) > MOST_FOUND:
            searches, found_by, scans = [rows], [], [*scans, lambda rows: rows.filter(anywhere)]
        for keys in found_by:
            if not scans:
                keys = self._first_of(keys, rows, start, forward=forward)
            searches.append(rows.filter(pk__in=[key[0] for key in keys]))
        horizon = None
        if scans:
            searches, horizon = self._within(searches, SCAN_ROWS, forward=forward)
        for scan in scans:
            searches = [scan(rows) for rows in searches]
        if len(searches) == 1:
            return list(searches[0][: self.list_per_page + 1]), horizon
        found = {row.pk: row for rows in searches for row in rows[: self.list_per_page + 1]}
        return self._in_order(found.values(), forward=forward)[: self.list_per_page + 1], horizon

    def _within(
        self, searches: list[QuerySet[Any]], most: int, *, forward: bool
    ) -> tuple[list[QuerySet[Any]], Model | None]:
        """These rows up to where one of the searches has so many, and the last row of that; none if none has more."""
        ends = [list(rows.select_related(None)[most - 1 : most + 1]) for rows in searches]
        for unseen in self._in_order((end[1] for end in ends if len(end) > 1), forward=forward)[:1]:
            horizon = next(end[0] for end in ends if unseen in end)
            seen = keyset.beyond(keyset.key_of(unseen, self.order), self.order, forward=not forward)
            return [rows.filter(seen) for rows in searches], horizon
        return searches, None

    def _named(self, page: list[Model]) -> list[Model]:
        """The first page, with the rows before it that have the term as a whole name, such as a number."""
        conditions = self.model_admin.named_conditions(self.query)
        named = {row.pk: row for condition in conditions for row in self.queryset.filter(condition)[:MOST_NAMED]}
        return [*named.values(), *(row for row in page if row.pk not in named)]

    def _keys(self, wide: QuerySet[Any]) -> list[tuple[Any, ...]]:
        """The first rows that a wide search finds, as their primary keys and what the list is ordered by."""
        return list(dict.fromkeys(wide.values_list("pk", *keyset.names(self.order))[: MOST_FOUND + 1]))

    def _first_of(
        self, keys: list[tuple[Any, ...]], rows: QuerySet[Any], start: list[Any] | None, *, forward: bool
    ) -> list[tuple[Any, ...]]:
        """Those of these keys that could be on the page: asked for them in order, the planner would walk the list."""
        descending = self.order[0].startswith("-") == forward
        if self.queryset.query.where:
            among = rows.filter(pk__in=[key[0] for key in keys]).order_by()
            keys = list(among.values_list("pk", *keyset.names(self.order)))
        elif start is not None:
            keys = [key for key in keys if (key[1:] < tuple(start) if descending else key[1:] > tuple(start))]
        keys.sort(key=operator.itemgetter(slice(1, None)), reverse=descending)
        return keys[: self.list_per_page + 1]

    def _in_order(self, rows: Iterable[Model], *, forward: bool) -> list[Model]:
        order = self.order
        key = operator.attrgetter(*keyset.names(order))
        return sorted(rows, key=key, reverse=order[0].startswith("-") == forward)

    def _start(self, request: HttpRequest) -> tuple[bool, list[Any] | None]:
        """Whether the page goes forward, and the key that it begins after."""
        for name in (OLDER, NEWER):
            if name in request.GET:
                try:
                    return name == OLDER, keyset.decode(request.GET[name], self.model, self.order, sort=self._sort)
                except ValueError as error:
                    raise IncorrectLookupParameters(error) from error
        return True, None

    def _url(self, start: dict[str, Model]) -> str:
        keys = {name: keyset.key_of(row, self.order) for name, row in start.items()}
        return self.get_query_string({name: keyset.encode(key, sort=self._sort) for name, key in keys.items()})

    @property
    def _sort(self) -> str:
        """What cursors say of the ordering that they are for: nothing if it is the usual one."""
        return "" if self.order == self.model_admin.order else self.order[0]
