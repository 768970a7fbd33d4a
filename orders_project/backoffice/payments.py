"""The payments of orders, and what a person decides when the gateway refuses to return their money."""

from django.contrib import admin
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Action, ActionCall, ReadOnlyAdmin, ReasonForm, display, scan_filter
from payments import services
from payments.gateways import GATEWAYS
from payments.models import Payment

from . import approvals


def _try_again(call: ActionCall) -> str:
    services.try_return_again(order_id=call.row.pk, now=call.now)
    return _g("The gateway will be asked again.")


def _settle(call: ActionCall) -> str:
    payment = call.row
    if approvals.is_needed(payment.amount, payment.currency):
        approvals.request(
            action="settle_payment", subject=payment.pk, amount=payment.amount, currency=payment.currency,
            reason=call.values["reason"], by=call.actor,
        )  # fmt: skip
        return _g("A second person has to approve this. It is waiting under Approvals.")
    services.settle_by_hand(order_id=payment.pk, reason=call.values["reason"], actor=call.actor, now=call.now)
    return _g("Recorded: the money went back by another way.")


def _is_refused(payment: Payment) -> bool:
    return payment.status in Payment.REFUSED


@admin.register(Payment)
class Payments(ReadOnlyAdmin):
    """The payments of orders."""

    list_display = (
        "order_id", display.status(), display.amount("amount", _("amount")), "method", "gateway", "gateway_payment_id",
        "user_id", "created_at",
    )  # fmt: skip
    list_filter = (
        "status",
        scan_filter("method", _("method"), (("account", _("account")), ("gateway", _("gateway")))),
        scan_filter("gateway", _("gateway"), [(name, name) for name in GATEWAYS]),
    )
    search_by = ("order_id", "gateway_payment_id")
    order = ("-order_id",)
    empty = _("No payments yet. Each order that is to be paid has one.")
    fields = (
        display.order(), display.status(), display.amount("amount", _("amount")), "method", "user_id", "gateway",
        "gateway_payment_id", "fail_reason", "refusal", "settled_by", "settled_why", "tried_at", "unanswered", "ask_at",
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
