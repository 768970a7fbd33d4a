"""The HTTP endpoint of statements."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.http import StreamingHttpResponse
from django.utils.translation import gettext as _g
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from common.parameters import mistakes
from outbox import clock

from ..api import CURRENCY, EntryShown, OneAccount
from . import statements
from .periods import MAX_LENGTH, moment


class CSVRenderer(JSONRenderer):
    """Lets a client ask for CSV, by `format` or `Accept`."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"


@extend_schema_serializer(component_name="StatementLine")
class StatementLine(EntryShown):
    """An entry of a statement, with the balance after it."""

    balance = serializers.FloatField(read_only=True)

    class Meta(EntryShown.Meta):
        fields = ("entry_id", "kind", "amount", "balance", "order_id", "reason", "at")
        read_only_fields = fields


@extend_schema_serializer(component_name="Statement")
class StatementShown(serializers.Serializer[Any]):
    """The statement of an account."""

    user_id = serializers.CharField(read_only=True)
    currency = serializers.CharField(read_only=True)
    opening_balance = serializers.FloatField(read_only=True, help_text="What the account had at the beginning.")
    entries = StatementLine(many=True, read_only=True)
    closing_balance = serializers.FloatField(read_only=True, help_text="What the account had at the end.")

    def get_fields(self) -> dict[str, Any]:
        """`from` is a word of Python's."""
        ends = {name: serializers.DateTimeField(read_only=True) for name in ("from", "to")}
        return super().get_fields() | ends


def _end(name: str, meaning: str) -> OpenApiParameter:
    return OpenApiParameter(
        name,
        {"type": "string", "maxLength": MAX_LENGTH, "examples": ["2026-11-01", "2026-11-01T12:00:00Z"]},
        description=f"{meaning} A date, which is its first moment in UTC, or a time (ISO 8601).",
    )


class Statement(OneAccount):
    """The statement of an account."""

    renderer_classes = [JSONRenderer, CSVRenderer]
    serializer_class = StatementShown
    ends: Mapping[str, datetime] = {}  # of the period, as far as the request names them

    @extend_schema(
        operation_id="get_statement",
        parameters=[
            CURRENCY,
            _end("from", "The beginning of the period. Default: when the account was opened."),
            _end("to", "The end of the period, which does not belong to it. Default: now."),
        ],
        responses={
            (200, "application/json"): StatementShown,
            (200, "text/csv"): OpenApiResponse(
                OpenApiTypes.STR, description="One line for each entry, between the balances at both ends."
            ),
        },
    )
    def get(self, request: Request, user_id: str) -> StreamingHttpResponse:
        """Return the entries of a period with the balance after each, the oldest first, as JSON or CSV."""
        account = self.account()
        stated = statements.statement(
            account=account,
            since=self.ends.get("from", account.created_at),
            until=self.ends.get("to", clock.now("payments")),
        )
        name = str(request.accepted_renderer.format)
        answer = StreamingHttpResponse(
            statements.FORMATS[name](stated),
            content_type="text/csv; charset=utf-8" if name == "csv" else "application/json",
        )
        if name == "csv":
            answer["Content-Disposition"] = 'attachment; filename="statement.csv"'
        return answer

    def check_parameters(self, request: Request) -> None:
        """Read the ends of the period; tell what is wrong with them together with parameters that are unknown."""
        wrong, ends = mistakes(request, self), dict[str, datetime]()
        for name in ("from", "to"):
            if text := request.query_params.get(name):
                try:
                    ends[name] = moment(text)
                except ValueError as error:
                    wrong.setdefault(name, [str(error)])
        if len(ends) == 2 and ends["to"] < ends["from"]:
            wrong.setdefault("to", [_g("The period ends before it begins.")])
        if wrong:
            raise ValidationError(wrong)
        self.ends = ends
