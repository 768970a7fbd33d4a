"""How the payment of an order and its refunds are written in requests and answers."""

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from common import money
from common.field_rules import AtMostOne
from common.fields import Amount, Boolean, Integer, StrictSerializer

from .models import Order, Refund
from .refunds import Wanted
from .serializers import MAX_LINES, MAX_QUANTITY, NullableText, optional_text


class InCurrencyOfOrder(StrictSerializer):
    """A request whose amounts are in the currency of the order in the path, which the context names."""


class CaptureSerializer(InCurrencyOfOrder):
    """How much of the reserved money to take."""

    amount = Amount(required=False, allow_null=True, min_value=1, help_text=_("Default: all of it."))
    reason = optional_text(max_length=200, help_text=_("Kept in the history of the order. Staff must give one."))


class RefundedLineSerializer(StrictSerializer):
    """Some pieces of a line of goods."""

    position = Integer(min_value=1, max_value=MAX_LINES)
    quantity = Integer(min_value=1, max_value=MAX_QUANTITY)


class RefundedLinesSerializer(serializers.ListSerializer[Any]):
    """The pieces to refund, each line once."""

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = super().to_internal_value(data)
        seen: dict[int, int] = {}
        errors: list[dict[str, Any]] = [{} for _line in lines]
        for number, line in enumerate(lines):
            if (first := seen.setdefault(line["position"], number)) != number:
                errors[number] = {"position": [_("The same line as lines[%d].") % first]}
        if any(errors):
            raise serializers.ValidationError(errors)
        return lines


class NewRefundSerializer(InCurrencyOfOrder):
    """What to refund: an amount, or pieces of lines; without both, all that is left."""

    amount = Amount(required=False, allow_null=True, min_value=1)
    lines = RefundedLinesSerializer(
        child=RefundedLineSerializer(), required=False, allow_null=True, allow_empty=False, max_length=MAX_LINES
    )
    restock = Boolean(default=False, help_text=_("Whether the pieces go back into stock, once the money is back."))
    reason = optional_text(max_length=200, help_text=_("Shown with the refund. Staff must give one."))

    rules = (AtMostOne("amount", "lines", _("Give an amount or lines, not both.")),)

    def wanted(self) -> Wanted:
        """What is wanted, once the data is valid."""
        data = self.validated_data
        lines = data.get("lines")
        return Wanted(
            amount=data.get("amount"),
            lines={line["position"]: line["quantity"] for line in lines} if lines else None,
            restock=data.get("restock", False),
            reason=data.get("reason") or "",
        )


class RefundSerializer(serializers.Serializer[Refund]):
    """A refund of an order."""

    refund_id = serializers.UUIDField(read_only=True)
    order_id = serializers.SerializerMethodField()
    amount = serializers.SerializerMethodField()
    currency = serializers.CharField(read_only=True)
    status = serializers.ChoiceField(Refund.Status.choices, read_only=True)
    reason = NullableText()
    fail_code = NullableText()
    lines = RefundedLineSerializer(many=True, read_only=True)
    restock = serializers.BooleanField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)

    def get_order_id(self, refund: Refund) -> str:
        return refund.order.shown_id

    def get_amount(self, refund: Refund) -> float:
        return money.number(refund.amount, currency=refund.currency)


class AttemptSerializer(serializers.Serializer[Any]):
    """An attempt to pay that was declined."""

    at = serializers.DateTimeField(read_only=True)
    code = serializers.CharField(read_only=True)
    message = NullableText()


class NextActionSerializer(serializers.Serializer[Any]):
    """What the payer has to do."""

    type = serializers.CharField(read_only=True)
    url = serializers.CharField(read_only=True, required=False, help_text=_("a page for the payer to open"))


PAYMENT_STATUSES = (
    "requested", "pending", "authorized", "capturing", "succeeded", "failed", "voiding", "voided", "refunding",
    "refunded", "void_refused", "refund_refused", "not_collected",
)  # fmt: skip


class PaymentSerializer(serializers.Serializer[Any]):
    """The payment of an order. What the payer needs is there while it is needed, for the order's own client."""

    payment_id = NullableText()
    order_id = serializers.CharField(read_only=True)
    method = serializers.ChoiceField(Order.Method.choices, read_only=True)
    gateway = NullableText()
    status = serializers.ChoiceField(PAYMENT_STATUSES, read_only=True)
    amount = serializers.FloatField(read_only=True)
    authorized_amount = serializers.FloatField(read_only=True)
    captured_amount = serializers.FloatField(read_only=True)
    refunded_amount = serializers.FloatField(read_only=True)
    currency = serializers.CharField(read_only=True)
    client_secret = NullableText()
    next_action = NextActionSerializer(read_only=True, allow_null=True)
    expires_at = serializers.DateTimeField(read_only=True, allow_null=True)
    attempts = AttemptSerializer(many=True, read_only=True)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)
