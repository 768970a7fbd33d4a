"""Pages of a long list: each begins where the last one ended, so that the thousandth costs what the first did."""

import base64
import json
from typing import Any

from django.core.exceptions import ValidationError as NotAValue
from django.db.models import F, Func, Model, TextField, Value
from django.db.models.lookups import GreaterThan, LessThan
from django.template import loader
from django.utils.translation import gettext as _
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

LONGEST_CURSOR = 400


class Row(Func):
    """Several values, compared as one: what an index on them answers without looking at any other row."""

    function = "ROW"
    output_field = TextField()


class Pages(BasePagination):
    """
    Pages by cursor. Subclass it with the `ordering`: fields that are unique together, all up or all down ("-").
    """

    ordering: tuple[str, ...]
    default_limit = 20
    most = 100

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any]:
        self._refuse_unknown(request, view)
        limit = self._limit(request.query_params.get("limit"))
        cursor = request.query_params.get("cursor")
        names = [name.removeprefix("-") for name in self.ordering]
        if cursor:
            beyond = LessThan if self.ordering[0].startswith("-") else GreaterThan
            values = _decoded(cursor, queryset.model, names)
            queryset = queryset.filter(beyond(Row(*map(F, names)), Row(*map(Value, values))))
        rows = list(queryset.order_by(*self.ordering)[: limit + 1])
        self.next = None
        if len(rows) > limit:
            rows = rows[:limit]
            at = _encoded([getattr(rows[-1], name) for name in names])
            self.next = replace_query_param(request.build_absolute_uri(), "cursor", at)
        return rows

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"results": data, "next": self.next})

    @staticmethod
    def _refuse_unknown(request: Request, view: APIView | None) -> None:
        """A filter that is misspelt must not show everything."""
        filters = getattr(getattr(view, "filterset_class", None), "base_filters", ())
        known = {"limit", "cursor", "format", *filters}
        if unknown := [name for name in request.query_params if name not in known]:
            raise ValidationError({name: [_("There is no such filter.")] for name in unknown})

    def _limit(self, text: str | None) -> int:
        if not text:
            return self.default_limit
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= self.most):
            raise ValidationError({"limit": [_("A page has 1 to %d entries.") % self.most]})
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
        limit = {"type": "integer", "minimum": 1, "maximum": self.most, "default": self.default_limit}
        return [
            {"name": "limit", "in": "query", "schema": limit, "description": "How many at most."},
            {
                "name": "cursor",
                "in": "query",
                "schema": {"type": "string", "maxLength": LONGEST_CURSOR},
                "description": "Where to go on: take it from `next`.",
            },
        ]


def _encoded(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values, default=str, separators=(",", ":")).encode()).decode()


def _decoded(cursor: str, model: type[Model], names: list[str]) -> list[Any]:
    try:
        if len(cursor) > LONGEST_CURSOR:
            raise ValueError(cursor)
        values = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        if not isinstance(values, list) or not all(str(value).isprintable() for value in values):
            raise ValueError(cursor)
        fields = [model._meta.get_field(name) for name in names]
        return [field.to_python(value) for field, value in zip(fields, values, strict=True)]  # type: ignore[union-attr]
    except (ValueError, TypeError, RecursionError, OverflowError, NotAValue):
        raise ValidationError({"cursor": [_("This is no cursor of ours: take it from `next`.")]}) from None
