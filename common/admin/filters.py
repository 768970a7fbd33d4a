"""List filters that never ask a table which values it contains."""

from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet, UUIDField
from django.http import HttpRequest, QueryDict
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
    """
    Rows by age, or of the days from one date to another, both included, in the time zone of the page.

    Where the primary key is a UUIDv7, which begins with the time, it is compared instead of a date.
    """

    title = _("age")
    parameter_name = "age"
    moment = "created_at"
    template = "admin/age_filter.html"
    days = ("from", "to")

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        self.used_parameters |= {name: params.pop(name)[-1] for name in self.days if name in params}

    def expected_parameters(self) -> list[str | None]:
        return [self.parameter_name, *self.days]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, label) for name, (label, _age) in AGES.items()]

    def choices(self, changelist: Any) -> Iterator[Any]:
        own = (*self.expected_parameters(), *changelist.CURSORS)
        self.kept = [(name, value) for name, value in changelist.params.items() if name not in own]
        choice: Any
        for choice in super().choices(changelist):
            choice["selected"] &= not any(self.used_parameters.get(name) for name in self.days)
            choice["query_string"] = _without(choice["query_string"], self.days)
            yield choice

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() in AGES:
            queryset = self._beyond(queryset, timezone.now() - AGES[str(self.value())][1], "gte")
        if first := self.used_parameters.get("from"):
            queryset = self._beyond(queryset, _midnight(first), "gte")
        if last := self.used_parameters.get("to"):
            queryset = self._beyond(queryset, _midnight(last, days=1), "lt")
        return queryset

    def _beyond(self, queryset: QuerySet[Any], moment: datetime, lookup: str) -> QuerySet[Any]:
        if isinstance(queryset.model._meta.pk, UUIDField):
            return queryset.filter(**{f"pk__{lookup}": floor7(moment)})
        return queryset.filter(**{f"{self.moment}__{lookup}": moment})


def _midnight(day: str, *, days: int = 0) -> datetime:
    """
    The beginning of a day in the time zone of the page, or so many days after it.

    :raises IncorrectLookupParameters: if it is no date
    """
    try:
        return timezone.make_aware(datetime.combine(date.fromisoformat(day) + timedelta(days), time()))
    except (ValueError, OverflowError) as error:
        raise IncorrectLookupParameters(error) from error


def _without(query: str, names: Iterable[str]) -> str:
    left = QueryDict(query.removeprefix("?"), mutable=True)
    for name in names:
        left.pop(name, None)
    return f"?{left.urlencode()}"


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
