"""Which orders to show, and in what portions."""

from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters
from django_filters.fields import IsoDateTimeField
from drf_spectacular.utils import extend_schema_field

from common.pagination import KeysetPagination

from .models import Order, Status


class MomentField(IsoDateTimeField):
    """A time in any zone, taken as UTC: databases know fewer zones than ISO 8601 has space for."""

    def clean(self, value: Any) -> datetime | None:
        moment: datetime | None = super().clean(value)
        try:
            return moment and moment.astimezone(UTC)
        except OverflowError:
            raise ValidationError(_("Enter a valid date/time."), code="invalid") from None


class Moment(filters.IsoDateTimeFilter):
    field_class = MomentField


def exactly(*, most: int) -> filters.CharFilter:
    """Rows with this very text, which is no longer than the column."""
    described = extend_schema_field({"type": "string", "maxLength": most})
    return described(filters.CharFilter(max_length=most))


class OrderFilter(filters.FilterSet):
    """Filters of the list of orders."""

    status = filters.ChoiceFilter(choices=Status.choices)
    customer_id = exactly(most=100)
    user_id = exactly(most=100)
    user_email = exactly(most=254)
    created_from = Moment("created_at", "gte", help_text=_("Not before this time."))
    created_to = Moment("created_at", "lt", help_text=_("Before this time."))

    class Meta:
        model = Order
        fields: list[str] = []


class NewestFirst(KeysetPagination):
    """Orders, the newest first."""

    ordering = ("-created_at", "-order_id")


class OldestFirst(KeysetPagination):
    """The history of an order, from its beginning."""

    ordering = ("version",)
    default_limit = 100
