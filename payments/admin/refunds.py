"""Admin pages of refunds and disputes. Both change by what the gateway says; a dispute is answered there."""

import operator
from datetime import timedelta
from functools import reduce
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Age, ReadOnlyAdmin, display, scan_filter

from ..gauges import DUE_SOON, LATE_AFTER
from ..models import Dispute, Refund


class Trouble(admin.SimpleListFilter):
    """Refunds that take far too long, and those that have failed within a day."""

    title = _("trouble")
    parameter_name = "trouble"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("late", _("takes too long")), ("failed", _("failed within a day"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        match self.value():
            case "late":
                late = [Q(status=status, created_at__lt=now - after) for status, after in LATE_AFTER.items()]
                return queryset.filter(reduce(operator.or_, late), status__in=LATE_AFTER)
            case "failed":
                return queryset.filter(status=Refund.Status.FAILED, updated_at__gt=now - timedelta(days=1))
        return queryset


ORIGINS = {False: _("made here"), True: _("made at the gateway")}
ORIGIN = display.words("is_foreign", _("origin"), ORIGINS)


@admin.register(Refund)
class Refunds(ReadOnlyAdmin):
    """Parts of payments that go back."""

    list_display = (
        "refund_id", display.status(), display.amount("amount", _("amount")), display.order("payment_id"), "gateway",
        ORIGIN, "created_at",
    )  # fmt: skip
    list_filter = (
        "status",
        Trouble,
        scan_filter("is_foreign", _("origin"), [(str(value), text) for value, text in ORIGINS.items()]),
        Age,
    )
    search_by = ("refund_id", "payment_id", "gateway_refund_id")
    order = ("-refund_id",)
    sorts: ClassVar = {"created_at": ("refund_id",)}
    empty = _("No parts of payments have been refunded yet. Orders are refunded on their pages.")
    fields = (
        "refund_id", display.order("payment_id"), display.explained_status(), display.amount("amount", _("amount")),
        "reason", display.reason("fail_reason", _("fail reason"), explained=True),
        "gateway", "gateway_refund_id", ORIGIN, "unanswered", "ask_at", "created_at", "updated_at",
    )  # fmt: skip


class Standing(admin.SimpleListFilter):
    """Disputes that are not decided, and those that have to be answered soon."""

    title = _("decision")
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", _("not decided")), ("due", _("to be answered soon"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        queryset = queryset.filter(status=Dispute.Status.OPENED)
        return queryset.filter(respond_by__lt=timezone.now() + DUE_SOON) if self.value() == "due" else queryset


@admin.display(description=_("what to do"))
def _what_to_do(dispute: Dispute) -> str:
    if dispute.status != Dispute.Status.OPENED:
        return _g("Nothing: the gateway has said how it ended.")
    if dispute.respond_by is not None and dispute.respond_by < timezone.now() - timedelta(days=1):
        return _g("It is too late to answer. How it ends will be booked when the gateway says so.")
    return _g("Answer at the gateway, in time. How it ends will be booked when the gateway says so.")


@admin.register(Dispute)
class Disputes(ReadOnlyAdmin):
    """Payers' banks that want money back."""

    list_display = (
        "dispute_id", display.status(), display.amount("amount", _("amount")), display.order("payment_id"), "reason",
        "respond_by", "gateway", "created_at",
    )  # fmt: skip
    list_filter = (Standing, scan_filter("status", _("status"), Dispute.Status.choices), Age)
    search_by = ("id", "dispute_id", "payment_id")
    order = ("-id",)
    sorts: ClassVar = {"created_at": ("id",)}
    empty = _("No payment has been disputed.")
    fields = (
        "dispute_id", display.order("payment_id"), display.explained_status(),
        display.amount("amount", _("amount")), "reason", "respond_by", _what_to_do, "gateway",
        "created_at", "updated_at",
    )  # fmt: skip
