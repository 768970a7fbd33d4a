"""The filters and the pages of the lists of orders and events."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, cast

from django.core.exceptions import ValidationError
from django.db.models import Exists, Model, OuterRef, QuerySet
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters
from django_filters.fields import IsoDateTimeField
from django_filters.utils import translate_validation
from drf_spectacular.utils import extend_schema_field
from rest_framework.request import Request

from common import keyset
from common.fields import MAX_INTEGER
from common.pagination import KeysetPagination
from common.search import whole

from .models import Order, OrderEvent, OrderLine, Status

MANY = 1000  # orders of a SKU


class MomentField(IsoDateTimeField):
    """A time in any zone, converted to UTC: ISO 8601 allows more zones than the database."""

    def clean(self, value: Any) -> datetime | None:
        moment: datetime | None = super().clean(value)
        try:
            return moment and moment.astimezone(UTC)
        except OverflowError:
            raise ValidationError(_("Enter a valid date/time."), code="invalid") from None


class Moment(filters.IsoDateTimeFilter):
    field_class = MomentField


def exactly(*, max_length: int, **options: Any) -> filters.CharFilter:
    """A filter for exactly this text, of at most the length of the column."""
    described = extend_schema_field({"type": "string", "maxLength": max_length})
    return described(filters.CharFilter(max_length=max_length, **options))


class OrderFilter(filters.FilterSet):
    """The filters of the list of orders."""

    status = filters.ChoiceFilter(choices=Status.choices)
    number = extend_schema_field({"type": "integer", "minimum": 1})(
        filters.NumberFilter(min_value=1, max_value=MAX_INTEGER, decimal_places=0, help_text=_("The order number."))
    )
    customer_id = exactly(max_length=100, method="named")
    user_id = exactly(max_length=100, method="named")
    user_email = exactly(max_length=254, lookup_expr="iexact", help_text=_("In any case."))
    sku = exactly(max_length=64, method="with_sku", help_text=_("Orders with a line that has it, in any case."))
    created_from = Moment("created_at", "gte", help_text=_("Not before this time."))
    created_to = Moment("created_at", "lt", help_text=_("Before this time."))
    updated_since = Moment("updated_at", "gte", help_text=_("Placed or changed at this time or later."))

    class Meta:
        model = Order
        fields: list[str] = []

    def named(self, orders: QuerySet[Order], name: str, value: str) -> QuerySet[Order]:
        """Orders with exactly this text, by the index that finds it in any case."""
        return orders.filter(**{f"{name}__iexact": value, name: value})

    def with_sku(self, orders: QuerySet[Order], name: str, sku: str) -> QuerySet[Order]:
        """
        Orders with a line that has this SKU.

        # Note [Orders of a SKU]: where many have it, the planner takes them to be spread evenly, and walks from the
        # newest order to the newest that has one: through all of them if it is not sold any more. So it is told the
        # times of the first and the last, to a day, as lines are stored in the order in which orders are placed.
        """
        lines = OrderLine.objects.filter(whole("sku", sku))
        found = list(lines.order_by("-id").values_list("order_id", flat=True)[: MANY + 1])
        if len(found) <= MANY:
            return orders.filter(pk__in=found)
        ends = (found[0], *lines.order_by("id").values_list("order_id", flat=True)[:1])
        times = sorted(Order.objects.filter(pk__in=ends).values_list("created_at", flat=True))
        placed = (times[0] - timedelta(days=1), times[-1] + timedelta(days=1))
        return orders.filter(Exists(lines.filter(order=OuterRef("pk"))), created_at__range=placed)


class NewestFirst(KeysetPagination):
    """Orders, the newest first unless another order is asked for."""

    ordering = ("-created_at", "-number")
    sorts: ClassVar = {
        "created_at": ("created_at", "number"),
        "-created_at": ordering,
        "updated_at": ("updated_at", "number"),
        "-updated_at": ("-updated_at", "-number"),
    }

    def key_in(self, cursor: str, model: type[Model], ordering: tuple[str, ...], *, sort: str) -> list[Any]:
        """As of any list; also in a cursor of the release before, which has the id of an order and not its number."""
        try:
            return super().key_in(cursor, model, ordering, sort=sort)
        except ValueError:
            at, order_id = keyset.decode(cursor, model, (ordering[0], "order_id"), sort=sort)
            number = Order.objects.filter(pk=order_id).values_list("number", flat=True).first()
            before_all = MAX_INTEGER if ordering[0].startswith("-") else 0
            return [at, before_all if number is None else number]


class OldestFirst(KeysetPagination):
    """The events of an order, the oldest first: all of them are given."""

    ordering = ("version",)
    model = OrderEvent
    default_limit = 100

    def rows_after(self, key: list[Any] | None, rows: Any, ordering: tuple[str, ...]) -> Any:
        return [event for event in rows if key is None or event.version > key[0]]


@dataclass(frozen=True)
class _Asked:
    """The parameters of a page that is not asked for over HTTP."""

    query_params: QueryDict

    def build_absolute_uri(self) -> str:
        return ""


def page_of(orders: QuerySet[Order], parameters: Mapping[str, str]) -> tuple[list[Order], str]:
    """
    The page of these orders that `GET /orders` would show with the same parameters, and the cursor of the next one.

    :raises ValidationError: if a parameter has a value that it cannot have
    """
    paging, filtering = QueryDict(mutable=True), QueryDict(mutable=True)
    for name, value in parameters.items():
        (filtering if name in OrderFilter.base_filters else paging)[name] = value
    found = OrderFilter(filtering, orders)
    if not found.is_valid():
        raise translate_validation(found.errors)
    pages = NewestFirst()
    page = pages.paginate_queryset(found.qs, cast(Request, _Asked(paging)))
    return page, QueryDict((pages.next or "?").partition("?")[2]).get("cursor", "")
