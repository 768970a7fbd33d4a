"""Webhooks received from gateways, and the decisions about those that match no payment."""

import re
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import (
    Action,
    ActionCall,
    Age,
    ReadOnlyAdmin,
    ReasonForm,
    ShortReasonForm,
    display,
)
from common.money import Money
from payments import decisions
from payments.gauges import UNMATCHED_AFTER
from payments.models import WebhookReceipt


class Match(ReasonForm):
    """Asks which order the webhook belongs to, and why."""

    order_id = forms.CharField(label=_("Order id"), max_length=64, help_text=_("Amount and currency must match."))
    field_order = ("order_id", "reason")


def _match(call: ActionCall) -> str:
    receipt = decisions.match(
        receipt_id=str(call.row.pk), order_id=call.values["order_id"], reason=call.values["reason"], by=call.by,
        now=call.now,
    )  # fmt: skip
    return _g("The webhook is now %(status)s.") % {"status": receipt.get_status_display()}


def _found(call: ActionCall) -> dict[str, Any]:
    money = decisions.money_at_gateway(receipt_id=str(call.row.pk))
    return {"amount": money.amount, "currency": money.currency}


def _refund(call: ActionCall) -> str:
    decisions.refund(
        receipt_id=str(call.row.pk), money=Money(**call.found), reason=call.values["reason"], by=call.by
    )  # fmt: skip
    return _g("The gateway has been asked to return the money.")


def _discard(call: ActionCall) -> None:
    decisions.discard(receipt_id=str(call.row.pk), reason=call.values["reason"], by=call.by, now=call.now)


def _is_open(receipt: WebhookReceipt) -> bool:
    return receipt.status in decisions.OPEN


def _is_refundable(receipt: WebhookReceipt) -> bool:
    return _is_open(receipt) and receipt.says_that_money_came_in and not receipt.decided_by


# What lets its holder pay, or see a payment at the gateway, is for the payer alone.
SECRET = re.compile(rb'("client_secret"\s*:\s*)"[^"]*"')


@admin.display(description=_("body"))
def _body(receipt: WebhookReceipt) -> Any:
    return display.laid_out(SECRET.sub(rb'\1"***"', bytes(receipt.body)))


class Open(admin.SimpleListFilter):
    """Webhooks that wait for a decision or for their payment."""

    title = _("waiting")
    parameter_name = "waiting"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("for a decision")), ("late", _("for its payment, for too long"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "late":
            late = timezone.now() - UNMATCHED_AFTER
            return queryset.filter(status=WebhookReceipt.Status.UNMATCHED, received_at__lt=late)
        return queryset.filter(status__in=decisions.OPEN) if self.value() else queryset


@admin.register(WebhookReceipt)
class WebhooksIn(ReadOnlyAdmin):
    """Webhooks received from gateways."""

    list_display = (
        "webhook_id", "gateway", display.status(), display.reason("reason", _("reason")), "about",
        "says", display.amount("amount", _("amount")),
        "payment_id", display.order(), "received_at",
    )  # fmt: skip
    list_filter = (Open, "status", Age)
    search_by = ("webhook_id", "payment_id", "order_id")
    order = ("-id",)
    empty = _("No webhooks have been received yet. Gateways send them to /webhooks/payments.")
    fields = (
        "gateway", "webhook_id", display.explained_status(), display.reason("reason", _("reason"), explained=True),
        "about", "says", display.amount("amount", _("amount")),
        "payment_id", display.order(), display.json("headers", _("headers")), _body,
        "decided_by", "received_at", "handled_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="match",
            label=_("Match with an order"),
            explanation=_("Assigns the webhook to an order, and processes it as if it had named that order."),
            permission="match_webhook",
            form=Match,
            perform=_match,
            is_possible=_is_open,
        ),
        Action(
            name="refund",
            label=_("Refund the money"),
            explanation=_("The money belongs to no order. The gateway will be asked to return it."),
            permission="refund_webhook",
            form=ReasonForm,
            first=_found,
            perform=_refund,
            is_possible=_is_refundable,
            destructive=True,
        ),
        Action(
            name="discard",
            label=_("Discard the webhook"),
            keep=_("Keep the webhook"),
            explanation=_("The webhook has no effect. It remains visible."),
            permission="discard_webhook",
            form=ShortReasonForm,
            perform=_discard,
            is_possible=_is_open,
            destructive=True,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return rows if self.on_one_page(request) else rows.defer("headers", "body")
