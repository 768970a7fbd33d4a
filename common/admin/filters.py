"""List filters that never ask a table which values it contains."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet, UUIDField
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from outbox.ids import floor7
from outbox.message import REGISTRY

AGES = {
    "hour": (_("the last hour"), timedelta(hours=1)),
    "day": (_("the last day"), timedelta(days=1)),
    "week": (_("the last week"), timedelta(days=7)),
    "month": (_("the last 30 days"), timedelta(days=30)),
}


class Age(admin.SimpleListFilter):
    """Rows by age. Where the primary key is a UUIDv7, which begins with the time, it is compared instead of a date."""

    title = _("age")
    parameter_name = "age"
    moment = "created_at"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, label) for name, (label, _age) in AGES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in AGES:
            return queryset
        start = timezone.now() - AGES[str(self.value())][1]
        if isinstance(queryset.model._meta.pk, UUIDField):
            return queryset.filter(pk__gte=floor7(start))
        return queryset.filter(**{f"{self.moment}__gte": start})


class ScanFilter(admin.SimpleListFilter):
    """
    Rows by a field without an index, so that writing to the table stays cheap.

    `KeysetChangeList` applies it, to a limited number of rows at a time.
    """

    choices_known: Iterable[tuple[str, Any]] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(self.choices_known)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset

    def matching(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{str(self.parameter_name): self.value()})


def scan_filter(field: str, label: Any, choices: Iterable[tuple[str, Any]]) -> type[ScanFilter]:
    """A scan filter by this field, with these choices."""
    return type("FieldScanFilter", (ScanFilter,), {"parameter_name": field, "title": label, "choices_known": choices})


class MessageType(ScanFilter):
    """Messages by their type."""

    title = _("type")
    parameter_name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, name) for name in sorted(REGISTRY)]


class Sent(admin.SimpleListFilter):
    """Outgoing messages by whether they have been sent."""

    title = _("sending")
    parameter_name = "sending"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("due", _("due but not sent")), ("waiting", _("scheduled for later")), ("sent", _("sent"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "due":
                return queryset.filter(published_at=None, due_at__lte=timezone.now())
            case "waiting":
                return queryset.filter(published_at=None, due_at__gt=timezone.now())
            case "sent":
                return queryset.filter(published_at__isnull=False)
        return queryset
