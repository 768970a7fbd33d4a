"""Pages of the lists in the API."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.db.models import Model
from django.template import loader
from django.utils.translation import gettext as _
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from . import keyset, parameters


class Filters(DjangoFilterBackend):
    """Filters a list. What else is wrong with the parameters is told together with what is wrong with the filters."""

    def filter_queryset(self, request: Request, queryset: Any, view: Any) -> Any:
        wrong = view.paginator.mistakes(request, view)
        try:
            found = super().filter_queryset(request, queryset, view)
        except ValidationError as error:
            of_filters: Any = error.detail  # by name
            raise ValidationError({**of_filters, **wrong}) from None
        if wrong:
            raise ValidationError(wrong)
        return found


class KeysetPagination(BasePagination):
    """
    Pages by cursor. A subclass gives the `ordering`: see keyset.py.

    :cvar model: whose rows the list has, if it is no query set
    :cvar sorts: the orderings by the values of the parameter `sort`, the usual one among them; none: no such parameter
    """

    ordering: tuple[str, ...]
    model: ClassVar[type[Model] | None] = None
    sorts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    default_limit = 20
    max_limit = 100

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any]:
        if wrong := self.mistakes(request, view):
            raise ValidationError(wrong)
        limit = self._limit(request)
        sort = request.query_params.get("sort", "")
        ordering = self.sorts[sort] if sort else self.ordering
        # Note [The usual cursor names no order]: so it is the same as in releases that had one order only.
        sort = "" if ordering == self.ordering else sort
        key = None
        if cursor := request.query_params.get("cursor"):
            try:
                key = self.key_in(cursor, self.model or queryset.model, ordering, sort=sort)
            except ValueError:
                raise ValidationError({"cursor": [_("This is not a valid cursor: take it from `next`.")]}) from None
        rows = list(self.rows_after(key, queryset, ordering)[: limit + 1])
        self.next = None
        if len(rows) > limit:
            rows = rows[:limit]
            cursor = keyset.encode(keyset.key_of(rows[-1], ordering), sort=sort)
            self.next = replace_query_param(request.build_absolute_uri(), "cursor", cursor)
        return rows

    def key_in(self, cursor: str, model: type[Model], ordering: tuple[str, ...], *, sort: str) -> list[Any]:
        """
        Return the key in a cursor.

        :raises ValueError: if it is not a cursor for this model and ordering
        """
        return keyset.decode(cursor, model, ordering, sort=sort)

    def rows_after(self, key: list[Any] | None, rows: Any, ordering: tuple[str, ...]) -> Any:
        """Return the rows that come after this key, or all of them without one, in their order."""
        if key is not None:
            rows = rows.filter(keyset.beyond(key, ordering))
        return rows.order_by(*ordering)

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"results": data, "next": self.next})

    def mistakes(self, request: Request, view: APIView | None) -> dict[str, list[Any]]:
        """
        What is wrong with the parameters, apart from the values of filters, by name.

        :param view: none if the page is not asked for over HTTP, where there are no other parameters
        """
        wrong = parameters.mistakes(request, view) if view is not None else {}
        if not self._limit(request):
            wrong["limit"] = [_("A page has 1 to %d entries.") % self.max_limit]
        if self.sorts and (sort := request.query_params.get("sort")) and sort not in self.sorts:
            wrong["sort"] = [_("Sort by one of: %s.") % ", ".join(self.sorts)]
        return wrong

    def _limit(self, request: Request) -> int:
        """How many entries a page has; zero if this is not asked for correctly."""
        text = request.query_params.get("limit") or str(self.default_limit)
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        return int(text) if is_number and 1 <= int(text) <= self.max_limit else 0

    # For people and for the schema

    def to_html(self) -> str:
        template = loader.get_template("rest_framework/pagination/previous_and_next.html")
        return template.render({"previous_url": None, "next_url": self.next})

    @property
    def display_page_controls(self) -> bool:  # type: ignore[override]
        return getattr(self, "next", None) is not None

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["results", "next"],
            "properties": {
                "results": schema,
                "next": {"type": ["string", "null"], "format": "uri", "description": "The next page, if any."},
            },
        }

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        limit = {"type": "integer", "minimum": 1, "maximum": self.max_limit, "default": self.default_limit}
        cursor = {"type": "string", "maxLength": keyset.MAX_CURSOR_LENGTH}
        described = [
            {"name": "limit", "in": "query", "schema": limit, "description": "The size of the page, at most."},
            {"name": "cursor", "in": "query", "schema": cursor, "description": "Where the page begins: see `next`."},
        ]
        if self.sorts:
            usual = next(name for name, ordering in self.sorts.items() if ordering == self.ordering)
            sort = {"type": "string", "enum": list(self.sorts), "default": usual}
            described.append(
                {"name": "sort", "in": "query", "schema": sort, "description": "The order; `-` means descending."}
            )
        return described
