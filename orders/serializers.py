"""How an order is written in a request and in an answer."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.validators import EmailValidator, RegexValidator
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.utils.html import is_html_input

from common import money
from common.field_rules import AtLeastOne, ExactlyOne, Requires, When, Without
from common.fields import Amount, AnswerSerializer, Currency, Integer, Metadata, StrictSerializer, Text

from .models import Order, OrderEvent, OrderLine, Status
from .new_order import NewOrder
from .pricing import Line

MAX_LINES = 100
MAX_QUANTITY = 1_000_000

LINES_FORM = {"template": "orders/new_lines.html", "rows": range(3)}

ORDER_ID = RegexValidator(r"\A(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}\Z", _("At most 64 of A-Z a-z 0-9 . _ -"))
PRODUCT_ID = RegexValidator(r"\A[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z", _("Must be a valid UUID."))
ITEM = OrderLine.Kind.ITEM
AMOUNTS = frozenset({"amount", "price", "total_amount"})
ADDED = (OrderLine.Kind.TAX, OrderLine.Kind.DISCOUNT, OrderLine.Kind.SHIPPING)  # lines that are no goods


def optional_text(**kwargs: Any) -> Text:
    """A text that may be left out, null or empty, which all mean the same."""
    return Text(required=False, allow_null=True, allow_blank=True, **kwargs)


class NewLineSerializer(StrictSerializer):
    """
    A product of the catalog by `product_id`, or by `sku` with its price; an unknown sku is a free line.

    With a `type` it is a tax, a discount or shipping: its `name` and `amount`, which is positive for a discount too. It
    belongs to the line of goods of the number `of`, counted from 1, or without that to the order as a whole.
    """

    type = serializers.ChoiceField(
        OrderLine.Kind.choices, required=False, allow_blank=True, allow_null=True, help_text=_("Default: item.")
    )
    product_id = optional_text(trim_whitespace=False, validators=[PRODUCT_ID])
    sku = optional_text(max_length=64)
    quantity = Integer(min_value=1, max_value=MAX_QUANTITY, required=False, allow_null=True)
    price = Amount(required=False, allow_null=True)
    name = optional_text(max_length=500)
    amount = Amount(required=False, allow_null=True, min_value=1)
    of = Integer(min_value=1, max_value=MAX_LINES, required=False, allow_null=True)

    rules = (
        When(
            "type",
            ADDED,
            then=(
                AtLeastOne(("name",), none_given=_("Say what it is for.")),
                AtLeastOne(("amount",), none_given=_("This field is required.")),
                Without(("product_id", "sku", "quantity", "price"), given=_("Only goods have this.")),
            ),
            otherwise=(
                ExactlyOne(
                    "product_id",
                    "sku",
                    none_given=_("Say what is ordered: product_id or sku."),
                    both_given=_("Give either product_id or sku."),
                ),
                AtLeastOne(("quantity",), none_given=_("This field is required.")),
                Requires("sku", "price", missing=_("A line with a sku needs its price.")),
                Without(("name", "amount", "of"), given=_("Goods do not have this.")),
            ),
        ),
    )

    @staticmethod
    def line(data: dict[str, Any]) -> Line:
        """The line that valid data stands for."""
        is_added = data.get("type") in ADDED
        return Line(
            kind=data.get("type") or ITEM,
            quantity=data.get("quantity") or 1,
            product_id=(data.get("product_id") or "").lower() or None,
            sku=data.get("sku") or "",
            name=data.get("name") or "",
            price=data.get("amount" if is_added else "price"),
            of=data.get("of"),
        )


class LinesSerializer(serializers.ListSerializer[Any]):
    """The lines. Rows of an HTML form that were left empty are skipped."""

    def get_value(self, dictionary: Any) -> Any:
        lines = super().get_value(dictionary)
        if is_html_input(dictionary) and isinstance(lines, list):
            return [line for line in lines if any(line.values())] or serializers.empty
        return lines

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        try:
            lines: list[dict[str, Any]] = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if isinstance(error.detail, dict) and isinstance(data, list) and "non_field_errors" not in error.detail:
                for number, again in self._repeated(data).items():
                    error.detail.setdefault(number, again)
            raise
        if repeated := self._repeated(lines):
            raise serializers.ValidationError(repeated)
        return lines

    @staticmethod
    def _repeated(lines: list[Any]) -> dict[Any, Any]:
        """What is wrong with the lines that order what a line before them orders, by the number of the line."""
        first_of: dict[tuple[str, str], int] = {}
        errors = {}
        for number, line in enumerate(lines):
            if not isinstance(line, Mapping) or line.get("type") in ADDED:
                continue
            field = "product_id" if line.get("product_id") else "sku"
            name = line.get(field)
            if not isinstance(name, str) or not name:
                continue
            product = (field, name.lower() if field == "product_id" else name)
            if (first := first_of.setdefault(product, number)) != number:
                errors[number] = {field: [_("Ordered already in items[%d]: give the quantity there.") % first]}
        return errors


class NewOrderSerializer(StrictSerializer):
    """A new order: either of `items` or of an `amount` alone."""

    order_id = optional_text(trim_whitespace=False, validators=[ORDER_ID], help_text=_("Generated if it is left out."))
    customer_id = optional_text(max_length=100)
    user_id = optional_text(max_length=100, help_text=_("The order is paid from this user's account."))
    user_email = optional_text(max_length=254, validators=[EmailValidator()])
    items = LinesSerializer(
        child=NewLineSerializer(),
        required=False,
        allow_null=True,
        allow_empty=False,
        max_length=MAX_LINES,
        style=LINES_FORM,
    )
    amount = Amount(required=False, allow_null=True, min_value=1, help_text=_("Instead of items."))
    currency = Currency(
        required=False,
        allow_null=True,
        allow_blank=True,
        max_length=3,
        help_text=_("Of all amounts. Default: the first currency of the system."),
    )
    total_amount = Amount(
        required=False, allow_null=True, min_value=1, help_text=_("If given, the lines must sum to it.")
    )
    description = optional_text(max_length=500)
    payment_method = serializers.ChoiceField(
        Order.Method.choices,
        required=False,
        allow_blank=True,
        allow_null=True,
        help_text=_("Default: account if there is a user_id, gateway if there is a user_email, else invoice."),
    )
    capture = serializers.ChoiceField(
        ("automatic", Order.Capture.MANUAL),
        required=False,
        allow_blank=True,
        allow_null=True,
        help_text=_("`manual`: the gateway reserves the money, which is taken by POST /orders/{id}/capture."),
    )
    metadata = Metadata(allow_null=True, help_text=_("Texts of your own, given back with the order and its events."))

    rules = (
        ExactlyOne(
            "items",
            "amount",
            none_given=_("Say what is ordered: items or an amount."),
            both_given=_("Give either items or an amount."),
        ),
        AtLeastOne(
            ("customer_id", "user_id", "user_email"),
            none_given=_("Say whose order it is: customer_id, user_id or user_email."),
        ),
        Requires("payment_method", "user_id", value=Order.Method.ACCOUNT, missing=_("Say whose account pays.")),
    )

    def to_internal_value(self, data: Any) -> Any:
        asked = data.get("currency") if isinstance(data, Mapping) else None
        context: dict[str, Any] = self.context  # type: ignore[assignment]  # which a serializer's own context is
        context["currency"] = asked if asked in settings.CURRENCIES else settings.CURRENCY
        try:
            return super().to_internal_value(data)
        except serializers.ValidationError as error:
            if isinstance(error.detail, dict) and "currency" in error.detail:
                raise serializers.ValidationError(_but_amounts(error.detail)) from None
            raise

    def new_order(self, *, principal: str) -> NewOrder:
        """The new order, once the data is valid."""
        data = self.validated_data
        lines = tuple(map(NewLineSerializer.line, data.get("items") or ()))
        texts = ("customer_id", "user_id", "user_email", "description", "payment_method")
        return NewOrder(
            lines=lines or (Line(quantity=1, name=data.get("description") or "", price=data["amount"]),),
            order_id=data.get("order_id") or None,
            principal=principal,
            metadata=data.get("metadata") or {},
            capture=Order.Capture.MANUAL if data.get("capture") == Order.Capture.MANUAL else "",
            currency=self.context["currency"],
            total=data.get("total_amount"),
            **{name: data.get(name) or "" for name in texts},
        )


def _but_amounts(errors: Any) -> Any:
    """What is wrong besides amounts, which nobody can check without knowing their currency."""
    if isinstance(errors, list):
        return [_but_amounts(each) for each in errors]
    if isinstance(errors, dict):
        kept = {name: _but_amounts(each) for name, each in errors.items() if name not in AMOUNTS}
        return {name: each for name, each in kept.items() if each and (not isinstance(each, list) or any(each))}
    return errors


class CancellationSerializer(StrictSerializer):
    """Why an order is canceled."""

    reason = optional_text(max_length=200, help_text=_("Kept in the history of the order. Staff must give one."))


class NullableText(serializers.CharField):
    """A text in an answer; null if it is empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_null=True, read_only=True, **kwargs)

    def to_representation(self, value: Any) -> Any:
        return str(value) or None


class LineSerializer(AnswerSerializer):
    """A line of an order. The price of a discount is negative."""

    position = serializers.IntegerField(read_only=True)
    type = serializers.ChoiceField(OrderLine.Kind.choices, read_only=True, source="kind")
    of = serializers.IntegerField(
        read_only=True, allow_null=True, source="of_position", help_text=_("the line of goods that it belongs to")
    )
    product_id = serializers.UUIDField(allow_null=True, read_only=True)
    sku = NullableText()
    name = NullableText()
    quantity = serializers.IntegerField(read_only=True)
    price = serializers.SerializerMethodField()
    free_line = serializers.SerializerMethodField(
        help_text=_("whether it is goods that are not in the catalog, of which no stock is held")
    )

    def get_free_line(self, line: OrderLine) -> bool:
        return line.is_free

    def get_price(self, line: OrderLine) -> float:
        return money.number(line.unit_price, currency=line.order.currency)


class EventSerializer(AnswerSerializer):
    """One transition of an order."""

    version = serializers.IntegerField(read_only=True)
    type = serializers.CharField(read_only=True, help_text=_("the event"))
    status = serializers.ChoiceField(Status.choices, read_only=True, help_text=_("the status that followed"))
    fail_reason = serializers.SerializerMethodField()
    payment_id = serializers.SerializerMethodField()
    actor = NullableText()
    correlation_id = NullableText()
    at = serializers.DateTimeField(read_only=True)

    def get_fail_reason(self, event: OrderEvent) -> str | None:
        return event.data.get("fail_reason") or None

    def get_payment_id(self, event: OrderEvent) -> str | None:
        return event.data.get("payment_id") or None


class OrderSerializer(AnswerSerializer):
    """An order in an answer."""

    order_id = serializers.CharField(source="shown_id", read_only=True)
    number = serializers.IntegerField(read_only=True, help_text=_("A short number for people, unique in this system."))
    customer_id = NullableText()
    user_id = NullableText()
    user_email = NullableText()
    status = serializers.ChoiceField(Status.choices, read_only=True)
    total_amount = serializers.SerializerMethodField()
    tax_amount = serializers.SerializerMethodField()
    discount_amount = serializers.SerializerMethodField()
    shipping_amount = serializers.SerializerMethodField()
    refunded_amount = serializers.SerializerMethodField()
    currency = serializers.CharField(read_only=True)
    version = serializers.IntegerField(read_only=True)
    items = LineSerializer(many=True, read_only=True, source="loaded_lines")
    description = NullableText()
    payment_method = serializers.ChoiceField(Order.Method.choices, read_only=True)
    payment_id = NullableText()
    fail_reason = NullableText()
    metadata = serializers.DictField(child=serializers.CharField(), read_only=True)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)
    events = EventSerializer(
        many=True, required=False, source="loaded_events", help_text=_("Its history, with expand=events.")
    )  # left out where the order was read without

    def get_total_amount(self, order: Order) -> float:
        return money.number(order.total, currency=order.currency)

    def get_refunded_amount(self, order: Order) -> float:
        return money.number(order.refunded, currency=order.currency)

    def get_tax_amount(self, order: Order) -> float:
        return self._sum(order, OrderLine.Kind.TAX)

    def get_discount_amount(self, order: Order) -> float:
        return self._sum(order, OrderLine.Kind.DISCOUNT)

    def get_shipping_amount(self, order: Order) -> float:
        return self._sum(order, OrderLine.Kind.SHIPPING)

    @staticmethod
    def _sum(order: Order, kind: str) -> float:
        return money.number(order.sum_of(kind), currency=order.currency)


SERIALIZER = OrderSerializer()  # created once: a serializer copies all of its fields


def snapshot(order: Order) -> dict[str, Any]:
    """
    The order as its events contain it: as `GET /orders/{id}` answers, but by the id that is unique for all clients.

    The order must have been read with its lines.
    """
    # Note [The total in minor units]: all amounts are numbers in the unit of the currency, and only this one, from
    # release 1.0.0, is not. It is deprecated.
    shown: dict[str, Any] = SERIALIZER.to_representation(order)
    return shown | {"order_id": order.order_id, "reference": order.reference or None, "total": order.total}
