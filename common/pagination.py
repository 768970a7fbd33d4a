"""Pages of the lists in the API."""

from typing import Any

from django.template import loader
from django.utils.translation import gettext as _
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from . import keyset


class KeysetPagination(BasePagination):
    """Pages by cursor. A subclass gives the `ordering`: see keyset.py."""

    ordering: tuple[str, ...]
    default_limit = 20
    max_limit = 100

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any]:
        self._refuse_unknown(request, view)
        limit = self._limit(request.query_params.get("limit"))
        if cursor := request.query_params.get("cursor"):
            try:
                key = keyset.decode(cursor, queryset.model, self.ordering)
            except ValueError:
                raise ValidationError({"cursor": [_("This is not a valid cursor: take it from `next`.")]}) from None
            queryset = queryset.filter(keyset.beyond(key, self.ordering))
        rows = list(queryset.order_by(*self.ordering)[: limit + 1])
        self.next = None
        if len(rows) > limit:
            rows = rows[:limit]
            cursor = keyset.encode(keyset.key_of(rows[-1], self.ordering))
            self.next = replace_query_param(request.build_absolute_uri(), "cursor", cursor)
        return rows

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"results": data, "next": self.next})

    @staticmethod
    def _refuse_unknown(request: Request, view: APIView | None) -> None:
        """Refuse unknown parameters: a misspelled filter must not show everything."""
        filters = getattr(getattr(view, "filterset_class", None), "base_filters", ())
        known = {"limit", "cursor", "format", *filters}
        if unknown := [name for name in request.query_params if name not in known]:
            raise ValidationError({name: [_("There is no such filter.")] for name in unknown})

    def _limit(self, text: str | None) -> int:
        if not text:
            return self.default_limit
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= self.max_limit):
            raise ValidationError({"limit": [_("A page has 1 to %d entries.") % self.max_limit]})
        return int(text)

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
        return [
            {"name": "limit", "in": "query", "schema": limit, "description": "The size of the page, at most."},
            {"name": "cursor", "in": "query", "schema": cursor, "description": "Where the page begins: see `next`."},
        ]
