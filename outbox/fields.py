"""Fields for the doors of every room: strict about what they take, exact about what they give."""

import unicodedata
from typing import Any

from django.conf import settings
from rest_framework import serializers
from rest_framework.fields import empty
from rest_framework.utils.html import is_html_input

from . import money

LARGEST_WHOLE = 2**31 - 1
DIGITS = 20


class Text(serializers.CharField):
    """A text of one line: no control characters, and nothing but a text is taken for one."""

    default_error_messages = {
        "control_characters": "A text has no control characters.",
    }

    def run_validation(self, data: Any = empty) -> Any:
        # Before anything is trimmed: a line break at an end is one too.
        if isinstance(data, str) and any(unicodedata.category(character) in ("Cc", "Cs") for character in data):
            self.fail("control_characters")
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Whole(serializers.Field):
    """A whole number, written with ASCII digits; nothing is rounded to one."""

    default_error_messages = {
        "invalid": "A whole number is needed.",
        "range": "A whole number from {least} to {most} is needed.",
    }

    def __init__(self, *, least: int = 0, most: int = LARGEST_WHOLE, **kwargs: Any) -> None:
        self.least, self.most = least, most
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int | str):
            self.fail("invalid")
        if isinstance(data, str):
            digits = data.removeprefix("-")
            if not (digits.isascii() and digits.isdecimal() and len(digits) <= DIGITS):
                self.fail("invalid")
        value = int(data)
        if not self.least <= value <= self.most:
            self.fail("range", least=self.least, most=self.most)
        return value

    def to_representation(self, value: Any) -> int:
        return int(value)


class Amount(serializers.Field):
    """An amount in the shop's currency: a number or a string of one outside, minor units inside."""

    default_error_messages = {
        "invalid": "{detail}",
        "range": "An amount from {least} to {most} is needed.",
    }

    def __init__(self, *, least: int = 0, most: int = money.LARGEST, **kwargs: Any) -> None:
        self.least, self.most = least, most
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> int:
        try:
            minor = money.minor_units(data, currency=settings.CURRENCY)
        except money.NotAnAmount as error:
            self.fail("invalid", detail=error)
        if not self.least <= minor <= self.most:
            least, most = (money.number(edge, currency=settings.CURRENCY) for edge in (self.least, self.most))
            self.fail("range", least=least, most=most)
        return minor

    def to_representation(self, value: int) -> float:
        return money.number(value, currency=settings.CURRENCY)


class Strict(serializers.Serializer[Any]):
    """Refuses fields that it doesn't know: a misspelt one is a mistake, not a detail."""

    default_error_messages = {
        "unknown": "There is no such field.",
        "invalid": "An object is needed.",
    }

    def to_internal_value(self, data: Any) -> Any:
        unknown = {}
        if isinstance(data, dict) and not is_html_input(data):
            unknown = {name: [self.error_messages["unknown"]] for name in data if name not in self.fields}
        try:
            known = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if isinstance(error.detail, dict):
                error.detail.update(unknown)
            raise
        if unknown:
            raise serializers.ValidationError(unknown)
        return known
