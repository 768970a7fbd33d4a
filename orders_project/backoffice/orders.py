"""Orders: their list, and the page that shows one of them through every service."""

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

from common.admin import Action, ActionCall, Age, ConfirmationForm, ReadOnlyAdmin, ReasonForm, panels, scan_filter
from common.admin import display as show
from orders import repair
from orders.gauges import GRACE
from orders.models import ENDS, Order, Status
from orders.saga import TIMEOUTS
from orders_project.backoffice import timeline

from . import approvals, drawing, everywhere

TRUTHS = {
    "payment.pending": _("The gateway has the payment"),
    "payment.succeeded": _("The money is in"),
    "payment.failed": _("No money was taken, and none will be"),
    "payment.voided": _("Nothing was taken, and nothing ever will be"),
    "payment.refunded": _("What was taken has been given back"),
    "order.processed": _("The processor has accepted the order"),
    "processing.refused": _("The processor won't have the order"),
    "stock.released": _("No stock is held for the order"),
    "stock.hold_expired": _("The hold has outlived its time"),
}


class ReadOnlyMixin(ReasonForm):
    """Carries the version that the operator looked at, so that nothing is done to an order that has moved on."""

    version = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, initial={"version": row.version}, **kwargs)


class Evidence(ReadOnlyMixin):
    """What is true, and how we know."""

    truth = forms.ChoiceField(label=_("What is true"))
    reason = forms.CharField(
        label=_("Evidence"),
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("How you know: the gateway's reference, a ticket, who confirmed it."),
    )
    field_order = ("truth", "reason")

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.fields["truth"].choices = [  # type: ignore[attr-defined]
            (name, f"{TRUTHS.get(name, name)} ({name})") for name in repair.possible_events(row)
        ]


def _repeat(call: ActionCall) -> str:
    message = repair.repeat_request(order_id=call.row.pk)
    return _g("The order has asked again: %(message)s.") % {"message": message.type}


def _cancel(call: ActionCall) -> str:
    repair.turn_back(
        order_id=call.row.pk, now=call.now, actor=call.actor, reason=call.values["reason"],
        if_version=call.values["version"],
    )  # fmt: skip
    return _g("The order is on its way back. It is canceled once stock and money are back.")


def _compensate(call: ActionCall) -> str:
    order = call.row
    if approvals.is_needed(order.total, order.currency):
        approvals.ask(
            verb="compensate_order", subject=order.pk, amount=order.total, currency=order.currency,
            reason=call.values["reason"], by=call.actor,
        )  # fmt: skip
        return _g("A second person has to approve: it waits under Approvals.")
    return _cancel(call)


def _resolve(call: ActionCall) -> str:
    order = repair.resolve(
        order_id=call.row.pk, event=call.values["truth"], evidence=call.values["reason"], now=call.now, actor=call.actor,
        if_version=call.values["version"],
    )  # fmt: skip
    return _g("The order is %(status)s now.") % {"status": order.get_status_display()}


def _explain_compensation(order: Any) -> str:
    words = _g(
        "The stock of this order goes back, then its money (%(amount)s), then it is shown as canceled. If the processor"
        " accepts it first, it is done instead and nothing goes back."
    ) % {"amount": show.money_text(order.total, order.currency)}
    if approvals.is_needed(order.total, order.currency):
        words += " " + _g("Above the set amount: it happens when a second person has approved.")
    return words


class Standing(admin.SimpleListFilter):
    """Orders under way, and those that wait longer than the saga is patient."""

    title = _("standing")
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", _("under way")), ("stuck", _("stuck"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        match self.value():
            case "open":
                return queryset.exclude(status__in=ENDS)
            case "stuck":
                late = [
                    Q(status=status, updated_at__lt=now - timeout() - GRACE) for status, timeout in TIMEOUTS.items()
                ]
                return queryset.filter(reduce(operator.or_, late))
        return queryset


@admin.display(description=_("whose"))
def whose(order: Order) -> str:
    return order.user_email or order.user_id or order.customer_id


@admin.register(Order)
class Orders(ReadOnlyAdmin):
    """Orders."""

    list_display = (
        "order_id", show.status(), show.amount("total", _("total")), whose, "fail_reason", "created_at",
        show.since("updated_at", _("updated")), "payment_method",
    )  # fmt: skip
    list_filter = (Standing, "status", Age, scan_filter("payment_method", _("payment method"), Order.Method.choices))
    search_by = ("order_id", "user_id", "user_email", "customer_id")
    order = ("-created_at", "-order_id")
    empty = _("No orders yet. POST /orders places one.")
    change_form_template = "admin/orders/order.html"
    fields = (
        "order_id", show.status(), show.amount("total", _("total")), "customer_id", "user_id", "user_email",
        "description", "payment_method", "payment_id", "fail_reason", "version", "created_at", "updated_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="retry",
            label=_("Retry the step"),
            explanation=_("Says again what the order last asked for. Whoever did it already answers as before."),
            permission="orders_project.retry_order",
            form=ConfirmationForm,
            perform=_repeat,
            is_possible=lambda order: repair.last_request(order) is not None,
        ),
        Action(
            name="cancel",
            label=_("Cancel"),
            explanation=_("No money is in yet. Its payment is called off and its stock goes back."),
            permission="orders_project.cancel_order",
            form=ReadOnlyMixin,
            perform=_cancel,
            is_possible=lambda order: order.status in (Status.PENDING, Status.RESERVED, Status.PAYMENT_PENDING),
            destructive=True,
        ),
        Action(
            name="compensate",
            label=_("Compensate from here"),
            explanation=_explain_compensation,
            permission="orders_project.cancel_order",
            form=ReadOnlyMixin,
            perform=_compensate,
            is_possible=lambda order: order.status == Status.PAID,
            destructive=True,
        ),
        Action(
            name="resolve",
            label=_("Resolve with evidence"),
            explanation=_(
                "Tells the order what another service should have told it. Only the order moves; the audit compares it"
                " with what money and stock say. Prefer to retry the step."
            ),
            permission="orders_project.resolve_order",
            form=Evidence,
            perform=_resolve,
            is_possible=lambda order: order.status not in ENDS and bool(repair.possible_events(order)),
            destructive=True,
        ),
    )

    def lookup_allowed(self, lookup: str, value: str, request: Any = None) -> bool:
        """The dashboard's bars lead to the orders of an hour."""
        return lookup in {"created_at__gte", "created_at__lt"} or super().lookup_allowed(lookup, value, request)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if (order := context.get("original")) is not None:
            context |= _way(order)
        return super().render_change_form(request, context, *args, **kwargs)

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return everywhere.panels_of(row)


def _way(order: Order) -> dict[str, Any]:
    """The order's way and why it waits; nothing of it while a database that it needs doesn't answer."""
    try:
        seen = timeline.of(order.pk, now=timezone.now())
    except Error as error:
        return {"way_unknown": type(error).__name__}
    rows = drawing.as_rows(seen.moments)
    return {
        "drawing": drawing.drawn(seen),
        "legend": drawing.legend(),
        "services": settings.SERVICES,
        "way": panels.Panel(_("The same as a table"), drawing.HEADS, rows),
        "waiting": seen.waiting,
    }
