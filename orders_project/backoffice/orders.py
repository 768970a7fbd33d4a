"""The admin pages of orders: their list, and the page that shows an order over all services."""

import operator
from functools import reduce
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.db import Error
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common import authority
from common.admin import Action, ActionCall, Age, ReadOnlyAdmin, ReasonForm, display, panels, scan_filter
from orders import repair
from orders.gauges import GRACE
from orders.models import ENDS, Order
from orders.saga import TIMEOUTS

from . import drawing, order_panels, timeline

EVENTS = {
    "payment.pending": _("The gateway is processing the payment"),
    "payment.succeeded": _("The payment has succeeded"),
    "payment.failed": _("The payment has failed: no money was taken"),
    "payment.voided": _("The payment was voided: no money will be taken"),
    "payment.refunded": _("The payment has been refunded"),
    "order.processed": _("The processor has accepted the order"),
    "processing.refused": _("The processor has refused the order"),
    "stock.released": _("The stock of the order has been released"),
    "stock.hold_expired": _("The hold on the stock has expired"),
}


class VersionForm(ReasonForm):
    """Carries the version that the operator has seen, so that an order that has changed since is left alone."""

    version = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, initial={"version": row.version}, **kwargs)


class EvidenceForm(VersionForm):
    """Asks what has happened, and for the evidence."""

    truth = forms.ChoiceField(label=_("What has happened"))
    reason = forms.CharField(
        label=_("Evidence"),
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("How you know: the reference at the gateway, a ticket number, who confirmed it."),
    )
    field_order = ("truth", "reason")

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.fields["truth"].choices = [  # type: ignore[attr-defined]
            (name, f"{EVENTS.get(name, name)} ({name})") for name in repair.possible_events(row)
        ]


def _repeat(call: ActionCall) -> str:
    message = repair.repeat_request(order_id=call.row.pk)
    return _g("The request %(message)s has been sent again.") % {"message": message.type}


def _cancel(call: ActionCall) -> str:
    repair.cancel(
        order_id=call.row.pk, now=call.now, by=call.by, reason=call.values["reason"], if_version=call.values["version"],
    )  # fmt: skip
    return _g("The order is being canceled. It is canceled as soon as its stock and money are returned.")


def _compensate(call: ActionCall) -> str:
    repair.cancel_and_refund(
        order_id=call.row.pk, now=call.now, by=call.by, reason=call.values["reason"], if_version=call.values["version"],
    )  # fmt: skip
    return _g("The order is being canceled. It is canceled as soon as its stock and money are returned.")


def _resolve(call: ActionCall) -> str:
    order = repair.resolve(
        order_id=call.row.pk, event=call.values["truth"], evidence=call.values["reason"], now=call.now,
        by=call.by, if_version=call.values["version"],
    )  # fmt: skip
    return _g("The order is now %(status)s.") % {"status": order.get_status_display()}


def _explain_compensation(order: Any) -> str:
    text = _g(
        "Releases the stock of this order, then refunds its money (%(amount)s), and then marks the order as canceled."
        " If the processor accepts the order first, it is completed instead and nothing is returned."
    ) % {"amount": display.money_text(order.total, order.currency)}
    if order.total > authority.limit(order.currency):
        text += " " + _g("The amount is above the limit, so a second person has to approve this.")
    return text


class Progress(admin.SimpleListFilter):
    """Orders that have not ended yet, and those of them that are past the timeout of their status."""

    title = _("progress")
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", _("in progress")), ("stuck", _("stuck"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        match self.value():
            case "open":
                return queryset.exclude(status__in=ENDS)
            case "stuck":
                late = [
                    Q(status=status, status_since__lt=now - timeout() - GRACE) for status, timeout in TIMEOUTS.items()
                ]
                return queryset.filter(reduce(operator.or_, late))
        return queryset


@admin.display(description=_("customer"))
def customer(order: Order) -> str:
    return order.user_email or order.user_id or order.customer_id


@admin.register(Order)
class Orders(ReadOnlyAdmin):
    """Orders."""

    list_display = (
        "order_id", display.status(), display.amount("total", _("total")), customer, "fail_reason", "created_at",
        display.since("updated_at", _("updated")), "payment_method",
    )  # fmt: skip
    list_filter = (Progress, "status", Age, scan_filter("payment_method", _("payment method"), Order.Method.choices))
    search_by = ("order_id", "reference", "user_id", "user_email", "customer_id")
    order = ("-created_at", "-order_id")
    empty = _("No orders yet. POST /orders places one.")
    change_form_template = "admin/orders/order.html"
    fields = (
        "order_id", "principal", "reference", display.status(), display.amount("total", _("total")), "customer_id",
        "user_id", "user_email", "description", "payment_method", "payment_id", "fail_reason", "blocked", "version",
        display.json("metadata", _("metadata")), "created_at", "updated_at", "status_since",
    )  # fmt: skip
    page_actions = (
        Action(
            name="retry",
            label=_("Retry the step"),
            explanation=_("Sends the last request of the order again. If it has been handled, the reply is repeated."),
            permission="retry_order",
            perform=_repeat,
            is_possible=lambda order: repair.last_request(order) is not None,
        ),
        Action(
            name="cancel",
            label=_("Cancel"),
            explanation=_("The order is not paid yet. Its payment will be voided and its stock released."),
            permission="cancel_order",
            form=VersionForm,
            perform=_cancel,
            is_possible=lambda order: order.status in repair.UNPAID,
            destructive=True,
        ),
        Action(
            name="compensate",
            label=_("Cancel and refund"),
            explanation=_explain_compensation,
            permission="cancel_order",
            form=VersionForm,
            perform=_compensate,
            is_possible=lambda order: order.status in repair.PAID,
            destructive=True,
        ),
        Action(
            name="resolve",
            label=_("Resolve with evidence"),
            explanation=_(
                "Applies the event that another service should have sent. Only the order changes; the audit compares it"
                " with the money and the stock. If possible, retry the step instead."
            ),
            permission="resolve_order",
            form=EvidenceForm,
            perform=_resolve,
            is_possible=lambda order: order.status not in ENDS and bool(repair.possible_events(order)),
            destructive=True,
        ),
    )

    def lookup_allowed(self, lookup: str, value: str, request: Any = None) -> bool:
        """The bars of the dashboard link to the orders of an hour."""
        return lookup in {"created_at__gte", "created_at__lt"} or super().lookup_allowed(lookup, value, request)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if (order := context.get("original")) is not None:
            context |= _timeline_context(order)
        return super().render_change_form(request, context, *args, **kwargs)

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return order_panels.panels_of(row)


def _timeline_context(order: Order) -> dict[str, Any]:
    """The timeline of the order and why it waits; only the error if a database that is needed is down."""
    try:
        found = timeline.of(order.pk, now=timezone.now())
    except Error as error:
        return {"timeline_error": type(error).__name__}
    return {
        "drawing": drawing.drawn(found),
        "legend": drawing.legend(),
        "services": settings.SERVICES,
        "timeline_table": panels.Panel(_("The same as a table"), drawing.HEADS, drawing.as_rows(found.moments)),
        "waiting": found.waiting,
    }
