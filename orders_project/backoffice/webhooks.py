"""What gateways have told, in the raw; and what people decide about what fits no payment."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Action, ActionCall, Age, ConfirmationForm, ReadOnlyAdmin, ReasonForm, ShortReasonForm
from common.admin import display as show
from payments import receipts
from payments.models import WebhookReceipt

from . import approvals


class Match(ConfirmationForm):
    """Of which order it speaks."""

    order_id = forms.CharField(label=_("Order id"), max_length=64, help_text=_("Amount and currency have to agree."))


def _match(call: ActionCall) -> str:
    receipt = receipts.match(
        receipt_id=str(call.row.pk), order_id=call.values["order_id"], actor=call.actor, now=call.now
    )
    return _g("The webhook is %(status)s now.") % {"status": receipt.get_status_display()}


def _refund(call: ActionCall) -> str:
    row = call.row
    if approvals.is_needed(row.amount, row.currency):
        approvals.ask(
            verb="refund_webhook", subject=str(row.pk), amount=row.amount, currency=row.currency,
            reason=call.values["reason"], by=call.actor,
        )  # fmt: skip
        return _g("A second person has to approve: it waits under Approvals.")
    receipts.refund(receipt_id=str(row.pk), actor=call.actor)
    return _g("The gateway is asked to give the money back.")


def _discard(call: ActionCall) -> None:
    receipts.discard(receipt_id=str(call.row.pk), reason=call.values["reason"], actor=call.actor, now=call.now)


def _is_open(receipt: WebhookReceipt) -> bool:
    return receipt.status in receipts.OPEN


def _brought_money(receipt: WebhookReceipt) -> bool:
    return _is_open(receipt) and receipt.says == receipts.Says.SUCCEEDED and not receipt.decided_by


class Open(admin.SimpleListFilter):
    """Those that wait for a person, or for their payment."""

    title = _("waiting")
    parameter_name = "waiting"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("for a decision"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status__in=receipts.OPEN) if self.value() else queryset


@admin.register(WebhookReceipt)
class WebhooksIn(ReadOnlyAdmin):
    """What gateways have told, in the raw."""

    list_display = (
        "webhook_id", "gateway", show.status(), "reason", "says", show.amount("amount", _("amount")), "payment_id",
        show.order(), "received_at",
    )  # fmt: skip
    list_filter = (Open, "status", Age)
    search_by = ("webhook_id", "payment_id", "order_id")
    order = ("-id",)
    empty = _("No webhooks yet. A gateway tells of its payments at /webhooks/payments.")
    fields = (
        "gateway", "webhook_id", show.status(), "reason", "says", show.amount("amount", _("amount")), "payment_id",
        show.order(), show.json("headers", _("headers")), show.json("body", _("body")), "decided_by", "received_at",
        "handled_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="match",
            label=_("Match with an order"),
            explanation=_("You decide of which order it speaks; it is acted on as if it had said so."),
            permission="orders_project.match_webhook",
            form=Match,
            perform=_match,
            is_possible=_is_open,
        ),
        Action(
            name="refund",
            label=_("Refund"),
            explanation=_("The money belongs to no order: the gateway is asked to give it back."),
            permission="orders_project.refund_webhook",
            form=ReasonForm,
            perform=_refund,
            is_possible=_brought_money,
            destructive=True,
        ),
        Action(
            name="discard",
            label=_("Discard"),
            explanation=_("Nothing follows from it. It stays to be looked at."),
            permission="orders_project.discard_webhook",
            form=ShortReasonForm,
            perform=_discard,
            is_possible=_is_open,
            destructive=True,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return rows if self.on_one_page(request) else rows.defer("headers", "body")
