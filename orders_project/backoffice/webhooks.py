"""What gateways have told, in the raw; and what people decide about what fits no payment."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Age, Briefly, Deed, Reasoned, Sure, Verb, Window
from common.admin import display as show
from payments import receipts
from payments.models import WebhookReceipt

from . import approvals


class Match(Sure):
    """Of which order it speaks."""

    order_id = forms.CharField(label=_("Order id"), max_length=64, help_text=_("Amount and currency have to agree."))


def _match(deed: Deed) -> str:
    receipt = receipts.match(
        receipt_id=str(deed.row.pk), order_id=deed.said["order_id"], actor=deed.actor, now=deed.now
    )
    return _g("The webhook is %(status)s now.") % {"status": receipt.get_status_display()}


def _refund(deed: Deed) -> str:
    row = deed.row
    if approvals.is_needed(row.amount, row.currency):
        approvals.ask(
            verb="refund_webhook", subject=str(row.pk), amount=row.amount, currency=row.currency,
            reason=deed.said["reason"], by=deed.actor,
        )  # fmt: skip
        return _g("A second person has to approve: it waits under Approvals.")
    receipts.refund(receipt_id=str(row.pk), actor=deed.actor)
    return _g("The gateway is asked to give the money back.")


def _discard(deed: Deed) -> None:
    receipts.discard(receipt_id=str(deed.row.pk), reason=deed.said["reason"], actor=deed.actor, now=deed.now)


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
class WebhooksIn(Window):
    """What gateways have told, in the raw."""

    list_display = (
        "webhook_id", "gateway", show.status(), "reason", "says", show.amount("amount", _("amount")), "payment_id",
        show.order(), "received_at",
    )  # fmt: skip
    list_filter = (Open, "status", Age)
    found_by = ("webhook_id", "payment_id", "order_id")
    order = ("-id",)
    empty = _("No webhooks yet. A gateway tells of its payments at /webhooks/payments.")
    fields = (
        "gateway", "webhook_id", show.status(), "reason", "says", show.amount("amount", _("amount")), "payment_id",
        show.order(), show.json("headers", _("headers")), show.json("body", _("body")), "decided_by", "received_at",
        "handled_at",
    )  # fmt: skip
    verbs = (
        Verb(
            name="match",
            label=_("Match with an order"),
            explains=_("You decide of which order it speaks; it is acted on as if it had said so."),
            permission="orders_project.match_webhook",
            form=Match,
            does=_match,
            possible=_is_open,
        ),
        Verb(
            name="refund",
            label=_("Refund"),
            explains=_("The money belongs to no order: the gateway is asked to give it back."),
            permission="orders_project.refund_webhook",
            form=Reasoned,
            does=_refund,
            possible=_brought_money,
            grave=True,
        ),
        Verb(
            name="discard",
            label=_("Discard"),
            explains=_("Nothing follows from it. It stays to be looked at."),
            permission="orders_project.discard_webhook",
            form=Briefly,
            does=_discard,
            possible=_is_open,
            grave=True,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return rows if self.on_one_page(request) else rows.defer("headers", "body")
