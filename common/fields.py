"""Serializer fields for the endpoints of every service: strict about input, exact in output."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, ClassVar

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.fields import SkipField, empty
from rest_framework.utils.html import is_html_input

from . import money
from .field_rules import FieldRule, broken
from .near import MOST_NAMED, refuse_unknown

MAX_INTEGER = 2**31 - 1
DIGITS = re.compile(r"-?[0-9]{1,20}")
AMOUNT = re.compile(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,9})?")


def is_one_line(text: str) -> bool:
    """Whether a text has no control characters."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


class Text(serializers.CharField):
    """One line of text: only strings are accepted, and no control characters in them."""

    default_error_messages = {
        "control_characters": "Text must not contain control characters.",
    }

    def run_validation(self, data: Any = empty) -> Any:
        # Before trimming: a line break at the end is a control character too, and the limit is for what was sent.
        if isinstance(data, str):
            if not is_one_line(data):
                self.fail("control_characters")
            if self.max_length is not None and len(data) > self.max_length:
                self.fail("max_length", max_length=self.max_length)
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Integer(serializers.Field):
    """An integer. Nothing is rounded to one; a string of ASCII digits is accepted only from an HTML form."""

    default_error_messages = {
        "invalid": "An integer is required.",
        "range": "An integer from {min_value} to {max_value} is required.",
    }

    def __init__(self, *, min_value: int = 0, max_value: int = MAX_INTEGER, **kwargs: Any) -> None:
        self.min_value, self.max_value = min_value, max_value
        super().__init__(**kwargs)

    def get_value(self, dictionary: Any) -> Any:
        value = super().get_value(dictionary)
        is_digits = is_html_input(dictionary) and isinstance(value, str) and DIGITS.fullmatch(value)
        return int(value) if is_digits else value

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        if not self.min_value <= data <= self.max_value:
            self.fail("range", min_value=self.min_value, max_value=self.max_value)
        return data

    def to_representation(self, value: int) -> int:
        return int(value)


class Boolean(serializers.BooleanField):
    """True or false; the strings "true" and "false" are accepted only from an HTML form."""

    def get_value(self, dictionary: Any) -> Any:
        value = super().get_value(dictionary)
        return value == "true" if is_html_input(dictionary) and value in ("true", "false") else value

    def run_validation(self, data: Any = empty) -> Any:
        if data is not empty and not isinstance(data, bool):
            self.fail("invalid", input=data)
        return super().run_validation(data)


class Currency(Text):
    """One of the currencies that are configured."""

    default_error_messages = {
        "unknown_currency": "One of these currencies is required: {currencies}.",
    }

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if text not in settings.CURRENCIES and text:
            self.fail("unknown_currency", currencies=", ".join(settings.CURRENCIES))
        return text


class Amount(serializers.Field):
    """
    An amount: a number or a numeric string outside, minor units inside.

    It is in the given currency, or in the one that the context of its serializer names, or else in the default one.
    """

    default_error_messages = {
        "invalid": "{detail}",
        "range": "An amount from {min_value} to {max_value} is required.",
    }

    def __init__(
        self, *, min_value: int = 0, max_value: int = money.LARGEST, currency: str = "", **kwargs: Any
    ) -> None:
        self.min_value, self.max_value, self.given_currency = min_value, max_value, currency
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, str) and not AMOUNT.fullmatch(data):
            self.fail("invalid", detail="An amount must be a number.")
        try:
            minor = money.minor_units(data, currency=self.currency)
        except money.NotAnAmount as error:
            self.fail("invalid", detail=error)
        if not self.min_value <= minor <= self.max_value:
            self.fail("range", min_value=self._number(self.min_value), max_value=self._number(self.max_value))
        return minor

    def to_representation(self, value: int) -> float:
        return self._number(value)

    @property
    def currency(self) -> str:
        return str(self.given_currency or self.context.get("currency") or settings.CURRENCY)

    def _number(self, minor: int) -> float:
        return money.number(minor, currency=self.currency)


class Amounts(serializers.Field):
    """
    An amount for each of some currencies, by the currency: minor units inside.

    `nullable` ones may be null, which says that there is none.
    """

    default_error_messages = {
        "not_a_dict": "An object with an amount for each currency is required.",
        "unknown_currency": "One of these currencies is required: {currencies}.",
    }

    def __init__(self, *, nullable: bool = False, **kwargs: Any) -> None:
        self.nullable = nullable
        super().__init__(**kwargs)

    def get_value(self, dictionary: Any) -> Any:
        return empty if is_html_input(dictionary) else super().get_value(dictionary)  # a form has no field for it

    def to_internal_value(self, data: Any) -> dict[str, int | None]:
        if not isinstance(data, dict):
            self.fail("not_a_dict")
        unknown = [currency for currency in data if currency not in settings.CURRENCIES]
        refused = self.error_messages["unknown_currency"].format(currencies=", ".join(settings.CURRENCIES))
        errors: dict[str, Any] = refuse_unknown(unknown, (), refused)
        amounts = {}
        for currency in settings.CURRENCIES:
            if currency in data:
                try:
                    amounts[currency] = self._amount(currency, data[currency])
                except serializers.ValidationError as error:
                    errors[currency] = error.detail
        if errors:
            raise serializers.ValidationError(errors)
        return amounts

    def to_representation(self, value: Mapping[str, int]) -> dict[str, float]:
        return {currency: money.number(amount, currency=currency) for currency, amount in value.items()}

    def _amount(self, currency: str, value: Any) -> int | None:
        if value is None and self.nullable:
            return None
        return int(Amount(currency=currency).run_validation(value))


class Metadata(serializers.DictField):
    """Texts under names that the client chooses, which mean nothing to us and are given back as they are."""

    MAX_KEYS, MAX_KEY, MAX_VALUE = 50, 40, 500  # characters
    MAX_BYTES = 32 * 1024  # of all keys and values in UTF-8: every event of an order carries them

    default_error_messages = {
        "not_a_dict": "An object with strings is required.",
        "too_many": "Metadata has at most {limit} keys.",
        "key": "A key has 1 to {limit} characters and no control characters.",
        "too_large": "Metadata has at most {limit} bytes in all.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            child=Text(allow_blank=True, trim_whitespace=False, max_length=self.MAX_VALUE), required=False, **kwargs
        )

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if isinstance(data, dict) and len(data) > self.MAX_KEYS:
            self.fail("too_many", limit=self.MAX_KEYS)
        texts: dict[str, str] = super().to_internal_value(data)
        wrong = self.error_messages["key"].format(limit=self.MAX_KEY)
        if errors := {key: [wrong] for key in texts if not 1 <= len(key) <= self.MAX_KEY or not is_one_line(key)}:
            raise serializers.ValidationError(errors)
        if sum(len(text.encode()) for pair in texts.items() for text in pair) > self.MAX_BYTES:
            self.fail("too_large", limit=self.MAX_BYTES)
        return texts


def _copy(field: Any) -> Any:
    """What `copy.copy` returns, in a fraction of its time; of a list, with a copy of what it is a list of."""
    copied = object.__new__(type(field))
    vars(copied).update(vars(field))
    if (child := vars(field).get("child")) is not None:
        copied.child = _copy(child)
        copied.child.parent = copied
    return copied


class StrictSerializer(serializers.Serializer[Any]):
    """
    A serializer that refuses unknown fields, because a misspelled name is a mistake.

    `rules` are those that span several fields: they are checked here and stated in the description of the API.
    """

    rules: ClassVar[Sequence[FieldRule]] = ()

    default_error_messages = {
        "unknown": _("There is no such field."),
        "invalid": "An object is required.",
    }

    def get_fields(self) -> dict[str, Any]:
        """
        A copy of each field.

        # Note [Shallow copies]: a field learns its name and its serializer, and else stays as it was declared. The deep
        # copy of the framework makes each one anew.
        """
        return {name: _copy(field) for name, field in self._declared_fields.items()}

    def to_internal_value(self, data: Any) -> Any:
        """The valid data. All mistakes are told at once: wrong values, unknown fields and broken rules."""
        is_json = isinstance(data, dict) and not is_html_input(data)
        names = [name for name in data if name not in self.fields] if is_json else ()
        unknown = self._refused(names) if names else {}
        try:
            known = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if isinstance(error.detail, dict) and isinstance(data, Mapping):
                error.detail.update(unknown)
                error.detail.update(broken(self.rules, self._given(data) | unknown, wrong=error.detail))
            raise
        if unknown:
            raise serializers.ValidationError(unknown | broken(self.rules, known | unknown, wrong=unknown))
        return known

    def _refused(self, names: Sequence[str]) -> dict[str, Any]:
        """The texts that refuse these unknown fields: one by one for the first of a request, in all of its lines."""
        root: Any = self.root
        most = getattr(root, "unknown_to_tell", MOST_NAMED)
        root.unknown_to_tell = max(0, most - len(names))
        return refuse_unknown(names, self.fields, self.error_messages["unknown"], most=most)

    def _given(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The values that were sent for the fields, as they are."""
        values = {name: field.get_value(data) for name, field in self.fields.items()}
        return {name: value for name, value in values.items() if value is not empty}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if errors := broken(self.rules, attrs):
            raise serializers.ValidationError(errors)
        return attrs

    def schema_of_rules(self) -> dict[str, Any]:
        """The rules in JSON Schema."""
        # Note [Rules as a condition]: generators of clients take `oneOf` beside `properties` for the fields themselves,
        # and lose some. A condition, which is always met here, is left to those that validate.
        rules = [rule.schema(self.fields) for rule in self.rules]
        return {"if": {"type": "object"}, "then": {"allOf": rules}} if rules else {}


class AnswerSerializer(serializers.Serializer[Any]):
    """
    A serializer of answers alone, whose fields are attributes that are no methods.

    # Note [How a field is read is found out once]: the framework finds out for each field of each object, which takes
    half of the time that a snapshot of an order takes; and each event of an order contains one.
    """

    @cached_property
    def _columns(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        """The fields, and what reads the attribute of each."""
        return [
            (field, attrgetter(str(field.source)) if field.source != "*" else _itself)
            for field in self._readable_fields
        ]

    def to_representation(self, instance: Any) -> dict[str, Any]:
        shown = {}
        for field, read in self._columns:
            try:
                value = read(instance)
            except AttributeError:
                try:
                    value = field.get_attribute(instance)
                except SkipField:  # it was not read
                    continue
            shown[field.field_name] = None if value is None else field.to_representation(value)
        return shown


def _itself(instance: Any) -> Any:
    return instance
