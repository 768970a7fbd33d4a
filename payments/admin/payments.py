"""The admin page of payments, with what has become of each."""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common import reasons
from common.admin import Action, ActionCall, Age, ReadOnlyAdmin, ReasonForm, display, panels, scan_filter

from .. import ledger, services
from ..gateways import GATEWAYS
from ..gauges import SILENT_AFTER
from ..models import Entry, Payment


def _try_again(call: ActionCall) -> str:
    services.try_return_again(order_id=call.row.pk, now=call.now)
    return _g("The gateway will be asked again.")


def _settle(call: ActionCall) -> str:
    services.settle_by_hand(order_id=call.row.pk, reason=call.values["reason"], by=call.by, now=call.now)
    return _g("Recorded: the money went back by another way.")


def _is_refused(payment: Payment) -> bool:
    return payment.status in Payment.REFUSED


class Unanswered(admin.SimpleListFilter):
    """Payments about which the gateway does not answer."""

    title = _("answer of the gateway")
    parameter_name = "answers"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("no", _("missing"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(ask_at__isnull=False, unanswered__gte=SILENT_AFTER) if self.value() else queryset


METHODS = {"account": _("account"), "gateway": _("gateway")}


METHOD = display.words("method", _("method"), METHODS)


@admin.display(description=_("captured"))
def _captured(payment: Payment) -> str:
    return display.money_text(ledger.of_order(payment.pk).captured, payment.currency)


@admin.display(description=_("refunded"))
def _refunded(payment: Payment) -> str:
    return display.money_text(ledger.of_order(payment.pk).refunded, payment.currency)


@admin.display(description=_("disputed"))
def _disputed(payment: Payment) -> str:
    money = ledger.of_order(payment.pk)
    return display.money_text(money.disputed + money.lost, payment.currency)


@admin.register(Payment)
class Payments(ReadOnlyAdmin):
    """The payments of orders."""

    list_display = (
        "order_id", display.status(), display.amount("amount", _("amount")), METHOD, "gateway", "gateway_payment_id",
        "user_id", "created_at",
    )  # fmt: skip
    list_filter = (
        "status",
        Unanswered,
        Age,
        scan_filter("method", _("method"), METHODS.items()),
        scan_filter("gateway", _("gateway"), [(name, name) for name in GATEWAYS]),
    )
    search_by = ("order_id", "gateway_payment_id")
    order = ("-created_at", "-order_id")
    sorts: ClassVar = {"created_at": ("created_at", "order_id")}
    empty = _("No payments yet. Each order that is to be paid has one.")
    fields = (
        display.order(), display.explained_status(), display.amount("amount", _("amount")), _captured, _refunded,
        _disputed,
        display.flag("is_manual", _("captured on request")), "authorized_until", METHOD, "user_id",
        "gateway", "gateway_payment_id", "gateway_refund_id",
        display.reason("fail_reason", _("fail reason"), explained=True),
        display.reason("refusal", _("refused because"), explained=True),
        "settled_by", "settled_why", "tried_at", "unanswered", "ask_at",
        "created_at", "updated_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="try_again",
            label=_("Ask the gateway again"),
            explanation=_("The gateway has refused to return the money. It is asked once more."),
            permission="retry_order",
            perform=_try_again,
            is_possible=_is_refused,
        ),
        Action(
            name="settle",
            label=_("Record that it was settled by hand"),
            explanation=_(
                "The money went back by another way, such as a bank transfer or at the gateway itself. The ledger and"
                " the order continue as if the gateway had returned it. Say how, and how you know."
            ),
            permission="resolve_order",
            form=ReasonForm,
            perform=_settle,
            is_possible=_is_refused,
            destructive=True,
        ),
    )

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        of_order = f"q={row.pk}"
        return [
            panels.newest(
                row.attempts.order_by("-id"),
                (_("at"), lambda attempt: display.moment(attempt.at)),
                (_("code"), lambda attempt: reasons.explained(attempt.code)),
                (_("message"), lambda attempt: attempt.message or display.NOTHING),
                title=_("Declined attempts"),
                empty=_("No attempt to pay has been declined."),
            ),
            panels.newest(
                row.refunds.order_by("-refund_id"),
                (_("refund"), lambda one: display.page_link("payments", "refund", one.pk, one.pk)),
                (_("status"), lambda one: one.get_status_display()),
                (_("amount"), lambda one: display.money_cell(one.amount, one.currency)),
                (_("reason"), lambda one: one.reason or display.NOTHING),
                (_("fail reason"), lambda one: reasons.explained(one.fail_reason) or display.NOTHING),
                (_("created at"), lambda one: display.moment(one.created_at)),
                title=_("Refunds"),
                more=display.list_url("payments", "refund", of_order),
                empty=_("No part of this payment has been refunded."),
            ),
            panels.newest(
                row.disputes.order_by("-id"),
                (_("dispute"), lambda one: display.page_link("payments", "dispute", one.pk, one.dispute_id)),
                (_("status"), lambda one: one.get_status_display()),
                (_("amount"), lambda one: display.money_cell(one.amount, one.currency)),
                (_("reason"), lambda one: one.reason or display.NOTHING),
                (_("respond by"), lambda one: display.moment(one.respond_by)),
                title=_("Disputes"),
                more=display.list_url("payments", "dispute", of_order),
                empty=_("This payment has not been disputed."),
            ),
            panels.newest(
                Entry.objects.filter(order_id=row.pk).select_related("source", "target").order_by("-id"),
                (_("at"), lambda entry: display.moment(entry.at)),
                (_("kind"), lambda entry: display.page_link("payments", "entry", entry.pk, entry.get_kind_display())),
                (_("from"), lambda entry: entry.source),
                (_("to"), lambda entry: entry.target),
                (_("amount"), lambda entry: display.money_cell(entry.amount, entry.currency)),
                title=_("Ledger"),
                more=display.list_url("payments", "entry", of_order),
                empty=_("No money has moved for this order yet."),
            ),
        ]
