"""The admin pages of orders: their list, and the page that shows an order over all services."""

import operator
from functools import reduce
from typing import Any, ClassVar

from django.conf import settings
from django.contrib import admin
from django.contrib.postgres.aggregates import BoolOr
from django.db import Error
from django.db.models import OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.lookups import Exact
from django.http import HttpRequest
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common import authority, reasons
from common.admin import Action, ActionCall, Age, ReadOnlyAdmin, display, panels, scan_filter
from common.search import beginning, has_parts
from orders import archive, refunds, repair, saga, services
from orders.gauges import GRACE
from orders.models import ENDS, ORDER_PARTS, NamesInHistory, Order, OrderLine
from orders.saga import TIMEOUTS

from . import drawing, obstacles, order_panels, timeline
from .order_forms import CaptureForm, EvidenceForm, RefundForm, VersionForm


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


def _capture(call: ActionCall) -> str:
    services.capture_order(
        order_id=call.row.pk, amount=call.values["amount"], now=call.now, by=call.by, reason=call.values["reason"],
        versions=[call.values["version"]],
    )  # fmt: skip
    return _g("The money is being captured.")


def _refund(call: ActionCall) -> str:
    refund = refunds.ask(
        order_id=call.row.pk, wanted=RefundForm.wanted(call.values), now=call.now, by=call.by,
        if_version=call.values["version"],
    )  # fmt: skip
    return _g("%(amount)s is being refunded.") % {"amount": display.money_text(refund.amount, refund.currency)}


def _can_capture(order: Order) -> bool:
    return isinstance(saga.decide(order, saga.CaptureRequested), saga.Step)


def _can_refund(order: Order) -> bool:
    return not refunds.obstacle(order) and refunds.left_of(order).amount > 0


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
    return text + _second_person(order, order.total)


def _explain_capture(order: Any) -> str:
    text = _g("Takes the money that is reserved for this order (%(amount)s), or less. The rest is released.") % {
        "amount": display.money_text(order.total, order.currency)
    }
    return text + _second_person(order, order.total)


def _explain_refund(order: Any) -> str:
    left = refunds.left_of(order)
    text = _g(
        "Refunds an amount, pieces of its lines with their share of taxes and discounts or, without both, all that is"
        " left (%(amount)s). The order stays as it is."
    ) % {"amount": display.money_text(left.amount, order.currency)}
    if left.before + left.amount > authority.limit(order.currency):
        text += " " + _g("Once more than the limit of the order is refunded in all, a second person has to approve.")
    return text


def _second_person(order: Any, amount: int) -> str:
    if amount <= authority.limit(order.currency):
        return ""
    return " " + _g("The amount is above the limit, so a second person has to approve this.")


class Progress(admin.SimpleListFilter):
    """Orders that have not ended yet; those past the timeout of their status; those that only ask again since."""

    title = _("progress")
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", _("in progress")), ("stuck", _("stuck")), ("repeating", _("asking again and again"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        match self.value():
            case "open":
                return queryset.exclude(status__in=ENDS)
            case "stuck" | "repeating" as wanted:
                late = [
                    Q(status=status, status_since__lt=now - timeout() - GRACE)
                    for status, timeout in TIMEOUTS.items()
                    if wanted == "stuck" or status in saga.REPEATING
                ]
                return queryset.filter(reduce(operator.or_, late))
        return queryset


PAGES = {
    "webhookreceipt": _("Open the webhook"), "deadletter": _("Open the dead letter"), "payment": _("Open the payment"),
}  # fmt: skip
WHO = (
    "number", "order_id", "user_email", "user_id", "customer_id", "description", "principal", "reference", "created_at",
)  # fmt: skip


@admin.display(description=_("customer"))
def customer(order: Order) -> str:
    return order.user_email or order.user_id or order.customer_id


@admin.register(Order)
class Orders(ReadOnlyAdmin):
    """Orders."""

    list_display = (
        "order_id", "number", display.status(), display.amount("total", _("total")), customer,
        display.reason("fail_reason", _("fail reason")), "created_at",
        display.at("updated_at", _("updated")), "payment_method",
    )  # fmt: skip
    list_filter = (Progress, "status", Age, scan_filter("payment_method", _("payment method"), Order.Method.choices))
    search_by = ("number", "order_id", "reference")
    search_beginnings = ("user_email", "user_id", "customer_id")
    search_parts = ORDER_PARTS
    part_fields = search_beginnings
    order = ("-created_at", "-number")
    sorts: ClassVar = {
        "number": ("number",),
        "created_at": ("created_at", "number"),
        "updated_at": ("updated_at", "number"),
    }
    empty = _("No orders yet. POST /orders places one.")
    change_form_template = "admin/orders/order.html"
    fields = (
        "number", "order_id", "principal", "reference", display.status(), display.amount("total", _("total")),
        "customer_id", "user_id", "user_email", "description", "payment_method", "payment_id", "capture",
        display.amount("captured", _("captured")), display.amount("refunded", _("refunded")), "fail_reason", "blocked",
        "version", display.json("metadata", _("metadata")), "created_at", "updated_at", "status_since",
    )  # fmt: skip
    bulk_actions = ("cancel",)
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
            label=_("Cancel order"),
            keep=_("Keep order"),
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
            keep=_("Keep order"),
            explanation=_explain_compensation,
            permission="cancel_order",
            form=VersionForm,
            perform=_compensate,
            is_possible=lambda order: order.status in repair.PAID,
            destructive=True,
        ),
        Action(
            name="capture",
            label=_("Capture money"),
            explanation=_explain_capture,
            permission="capture_order",
            form=CaptureForm,
            perform=_capture,
            is_possible=_can_capture,
        ),
        Action(
            name="refund",
            label=_("Refund money"),
            explanation=_explain_refund,
            permission="refund_order",
            form=RefundForm,
            perform=_refund,
            is_possible=_can_refund,
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

    @property
    def search_help_text(self) -> Any:  # type: ignore[override]
        return format_lazy("{} {}", super().search_help_text, _("Or the beginning of a SKU."))

    def wide_searches(self, rows: QuerySet[Any], term: str) -> list[QuerySet[Any]]:
        found = super().wide_searches(rows, term)
        return [*found, beginning(rows, "lines__sku", term.strip())] if found else []

    def parts_found(self, rows: QuerySet[Any], term: str) -> list[QuerySet[Any]]:
        return [rows.filter(has_parts(NamesInHistory("events__data"), term), events__version=1)]

    def search_anywhere(self, term: str) -> Q:
        # Not EXISTS: combined with OR, the planner may look through all lines for it.
        lines = OrderLine.objects.filter(order=OuterRef("pk")).order_by().values("order")
        has_sku = lines.annotate(found=BoolOr(Q(sku__istartswith=term.strip()))).values("found")
        return super().search_anywhere(term) | Q(Exact(Subquery(has_sku), Value(True)))

    def lookup_allowed(self, lookup: str, value: str, request: Any = None) -> bool:
        """The bars of the dashboard link to the orders of an hour."""
        return lookup in {"created_at__gte", "created_at__lt"} or super().lookup_allowed(lookup, value, request)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if (order := context.get("original")) is not None:
            context |= _page_of(order)
        return super().render_change_form(request, context, *args, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Who ordered, at the top; the rest at the end of the page."""
        who = [name for name in WHO if name in self.fields and getattr(obj, name, True)]
        rest = [name for name in self.fields if name not in WHO]
        return ((None, {"fields": who}), (_("More fields"), {"fields": rest, "classes": ("collapse",)}))

    def title_of(self, row: Any) -> str:
        return f"{row.number} · {row.order_id}"

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return order_panels.others_of(row)


def _page_of(order: Order) -> dict[str, Any]:
    """What the page of an order shows besides its fields: the timeline only if the databases that it needs answer."""
    context: dict[str, Any] = {
        "first_panels": order_panels.first_of(order),
        "status_meaning": obstacles.in_progress(order),
        "total": display.money_text(order.total, order.currency),
        "refunded": display.money_text(order.refunded, order.currency) if order.refunded else "",
        "disputes": order_panels.disputes_of(order),
        "blocked": reasons.explained(order.blocked),
    }
    try:
        context["turned_back"] = timeline.turned_back(order, archive.history_of(order))
        found = timeline.of(order.pk, now=timezone.now())
    except archive.HistoryDetached as detached:
        return context | {"timeline_error": True, "detached": detached}
    except Error:
        return context | {"timeline_error": True}
    return context | {
        "drawing": drawing.drawn(found),
        "legend": drawing.legend(),
        "services": settings.SERVICES,
        "timeline_table": panels.Panel(_("The same as a table"), drawing.HEADS, drawing.as_rows(found.moments)),
        "waiting": found.waiting,
        "pages": [display.page_link(*page, PAGES[page[1]]) for page in found.waiting.pages] if found.waiting else [],
    }
