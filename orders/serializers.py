"""What an order looks like on its way in and on its way out."""

from typing import Any

from django.conf import settings
from django.core.validators import EmailValidator, RegexValidator
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.utils.html import is_html_input

from common import money
from common.fields import Amount, Strict, Text, Whole

from . import services
from .models import Order, OrderEvent, OrderLine, Status

MOST_LINES = 100
MOST_OF_A_LINE = 1_000_000

LINES_FORM = {"template": "orders/new_lines.html", "rows": range(3)}

AN_ORDER_ID = RegexValidator(r"\A(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}\Z", _("At most 64 of A-Z a-z 0-9 . _ -"))
A_PRODUCT_ID = RegexValidator(r"\A[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z", _("Must be a valid UUID."))


# In JSON Schema: a text that says something, and one that may be left out and says nothing.
SAYS: dict[str, Any] = {"type": "string", "pattern": r"\S"}
SILENT: dict[str, Any] = {"type": ["string", "null"], "maxLength": 0}


def said(**kwargs: Any) -> Text:
    """A text that may be left out; null and empty say nothing either."""
    return Text(required=False, allow_null=True, allow_blank=True, **kwargs)


class NewLineSerializer(Strict):
    """A product of the catalogue by `product_id`, or by `sku` with its price; an unknown sku is a free line."""

    product_id = said(trim_whitespace=False, validators=[A_PRODUCT_ID])
    sku = said(max_length=64)
    quantity = Whole(least=1, most=MOST_OF_A_LINE)
    price = Amount(required=False, allow_null=True)

    across = {
        "oneOf": [
            {"required": ["product_id"], "properties": {"product_id": SAYS, "sku": SILENT}},
            {
                "required": ["sku", "price"],
                "properties": {"product_id": SILENT, "sku": SAYS, "price": {"type": ["number", "string"]}},
            },
        ]
    }

    def validate(self, line: dict[str, Any]) -> dict[str, Any]:
        product_id, sku = line.get("product_id"), line.get("sku")
        if not product_id and not sku:
            raise serializers.ValidationError({"product_id": [_("Say what is ordered: product_id or sku.")]})
        if product_id and sku:
            raise serializers.ValidationError({"sku": [_("Give either product_id or sku.")]})
        if sku and line.get("price") is None:
            raise serializers.ValidationError({"price": [_("A line with a sku needs its price.")]})
        return line


class LinesSerializer(serializers.ListSerializer[Any]):
    """The lines; those that were left empty in a form are none."""

    def get_value(self, dictionary: Any) -> Any:
        lines = super().get_value(dictionary)
        if is_html_input(dictionary) and isinstance(lines, list):
            return [line for line in lines if any(line.values())] or serializers.empty
        return lines

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = super().to_internal_value(data)
        seen: dict[tuple[str, str], int] = {}
        errors: list[dict[str, Any]] = [{} for _line in lines]
        for number, line in enumerate(lines):
            what = ("product_id", line["product_id"].lower()) if line.get("product_id") else ("sku", line["sku"])
            if (first := seen.setdefault(what, number)) != number:
                errors[number] = {what[0]: [_("Ordered already in items[%d]: say the quantity there.") % first]}
        if any(errors):
            raise serializers.ValidationError(errors)
        return lines


class NewOrderSerializer(Strict):
    """An order as asked for: by `items`, or by an `amount` alone."""

    order_id = said(trim_whitespace=False, validators=[AN_ORDER_ID], help_text=_("Made here if it is left out."))
    customer_id = said(max_length=100)
    user_id = said(max_length=100, help_text=_("Pays from this user's account."))
    user_email = said(max_length=254, validators=[EmailValidator()])
    items = LinesSerializer(
        child=NewLineSerializer(),
        required=False,
        allow_null=True,
        allow_empty=False,
        max_length=MOST_LINES,
        style=LINES_FORM,
    )
    amount = Amount(required=False, allow_null=True, least=1, help_text=_("Instead of items."))
    currency = said(max_length=3, help_text=_("Only the system's own, if it is given."))
    description = said(max_length=500)
    payment_method = serializers.ChoiceField(
        Order.Method.choices,
        required=False,
        allow_blank=True,
        allow_null=True,
        help_text=_("The user's account if there is a user_id, else the gateway."),
    )

    across = {
        "allOf": [
            {"properties": {"currency": {"pattern": f"^({settings.CURRENCY})?$"}}},
            {
                "oneOf": [
                    {"required": ["items"], "properties": {"items": {"type": "array"}, "amount": {"type": "null"}}},
                    {
                        "required": ["amount"],
                        "properties": {"items": {"type": "null"}, "amount": {"type": ["number", "string"]}},
                    },
                ]
            },
            {
                "anyOf": [
                    {"required": [whose], "properties": {whose: SAYS}}
                    for whose in ("customer_id", "user_id", "user_email")
                ]
            },
            {
                "anyOf": [
                    {"properties": {"payment_method": {"not": {"const": Order.Method.ACCOUNT.value}}}},
                    {"required": ["user_id"], "properties": {"user_id": SAYS}},
                ]
            },
        ]
    }

    def validate_currency(self, currency: str) -> str:
        if currency and currency != settings.CURRENCY:
            raise serializers.ValidationError(_("Orders are in %s.") % settings.CURRENCY, code="wrong_currency")
        return currency

    def validate(self, order: dict[str, Any]) -> dict[str, Any]:
        errors = {}
        items, amount = order.get("items"), order.get("amount")
        if items is None and amount is None:
            errors["items"] = [_("Say what is ordered: items or an amount.")]
        elif items is not None and amount is not None:
            errors["amount"] = [_("Give either items or an amount.")]
        if not any(order.get(name) for name in ("customer_id", "user_id", "user_email")):
            errors["customer_id"] = [_("Say whose order it is: customer_id, user_id or user_email.")]
        if order.get("payment_method") == Order.Method.ACCOUNT and not order.get("user_id"):
            errors["user_id"] = [_("Say whose account pays.")]
        if errors:
            raise serializers.ValidationError(errors)
        return order

    def new_order(self, *, principal: str) -> services.NewOrder:
        """What was asked for, when it is valid."""
        asked = self.validated_data
        lines = tuple(
            services.Line(
                quantity=line["quantity"],
                product_id=(line.get("product_id") or "").lower() or None,
                sku=line.get("sku") or "",
                price=line.get("price"),
            )
            for line in asked.get("items") or ()
        )
        texts = ("customer_id", "user_id", "user_email", "description", "payment_method")
        return services.NewOrder(
            lines=lines or (services.Line(quantity=1, name=asked.get("description") or "", price=asked["amount"]),),
            order_id=asked.get("order_id") or None,
            principal=principal,
            **{name: asked.get(name) or "" for name in texts},
        )


class Shown(serializers.CharField):
    """A text; null where there is none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_null=True, read_only=True, **kwargs)

    def to_representation(self, value: Any) -> Any:
        return str(value) or None


class LineSerializer(serializers.Serializer[OrderLine]):
    """A line of an order."""

    product_id = serializers.UUIDField(allow_null=True, read_only=True)
    sku = Shown()
    name = Shown()
    quantity = serializers.IntegerField(read_only=True)
    price = serializers.SerializerMethodField()

    def get_price(self, line: OrderLine) -> float:
        return money.number(line.unit_price, currency=line.order.currency)


class OrderSerializer(serializers.Serializer[Order]):
    """An order, wherever it is shown."""

    order_id = serializers.CharField(read_only=True)
    customer_id = Shown()
    user_id = Shown()
    user_email = Shown()
    status = serializers.ChoiceField(Status.choices, read_only=True)
    total_amount = serializers.SerializerMethodField()
    currency = serializers.CharField(read_only=True)
    version = serializers.IntegerField(read_only=True)
    items = LineSerializer(many=True, read_only=True, source="lines")
    description = Shown()
    payment_method = serializers.ChoiceField(Order.Method.choices, read_only=True)
    payment_id = Shown()
    fail_reason = Shown()
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)

    def get_total_amount(self, order: Order) -> float:
        return money.number(order.total, currency=order.currency)


class EventSerializer(serializers.Serializer[OrderEvent]):
    """One transition of an order."""

    version = serializers.IntegerField(read_only=True)
    type = serializers.CharField(read_only=True, help_text=_("what the order heard"))
    status = serializers.ChoiceField(Status.choices, read_only=True, help_text=_("what it became"))
    fail_reason = serializers.SerializerMethodField()
    payment_id = serializers.SerializerMethodField()
    actor = Shown()
    correlation_id = Shown()
    at = serializers.DateTimeField(read_only=True)

    def get_fail_reason(self, event: OrderEvent) -> str | None:
        return event.data.get("fail_reason") or None

    def get_payment_id(self, event: OrderEvent) -> str | None:
        return event.data.get("payment_id") or None
