"""Fields for the doors of every service: strict about what they take, exact about what they give."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, ClassVar

from django.conf import settings
from rest_framework import serializers
from rest_framework.fields import empty
from rest_framework.utils.html import is_html_input

from . import money

LARGEST_WHOLE = 2**31 - 1
DIGITS = re.compile(r"-?[0-9]{1,20}")
AMOUNT = re.compile(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,9})?")


class Text(serializers.CharField):
    """A text of one line: no control characters, and nothing but a text is taken for one."""

    default_error_messages = {
        "control_characters": "A text has no control characters.",
    }

    def run_validation(self, data: Any = empty) -> Any:
        # Before anything is trimmed: a line break at an end is one too, and length is that of what was sent.
        if isinstance(data, str):
            if any(unicodedata.category(character) in ("Cc", "Cs") for character in data):
                self.fail("control_characters")
            if self.max_length is not None and len(data) > self.max_length:
                self.fail("max_length", max_length=self.max_length)
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Whole(serializers.Field):
    """A whole number; nothing is rounded to one, and only in a form it may be a text of ASCII digits."""

    default_error_messages = {
        "invalid": "A whole number is needed.",
        "range": "A whole number from {least} to {most} is needed.",
    }

    def __init__(self, *, least: int = 0, most: int = LARGEST_WHOLE, **kwargs: Any) -> None:
        self.least, self.most = least, most
        super().__init__(**kwargs)

    def get_value(self, dictionary: Any) -> Any:
        value = super().get_value(dictionary)
        written = is_html_input(dictionary) and isinstance(value, str) and DIGITS.fullmatch(value)
        return int(value) if written else value

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        if not self.least <= data <= self.most:
            self.fail("range", least=self.least, most=self.most)
        return data

    def to_representation(self, value: Any) -> int:
        return int(value)


class Flag(serializers.BooleanField):
    """True or false; only in a form it may be a word for one."""

    def get_value(self, dictionary: Any) -> Any:
        value = super().get_value(dictionary)
        return value == "true" if is_html_input(dictionary) and value in ("true", "false") else value

    def run_validation(self, data: Any = empty) -> Any:
        if data is not empty and not isinstance(data, bool):
            self.fail("invalid", input=data)
        return super().run_validation(data)


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
        if isinstance(data, str) and not AMOUNT.fullmatch(data):
            self.fail("invalid", detail="An amount is a number.")
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
    """
    Refuses fields that it doesn't know: a misspelt one is a mistake, not a detail.

    What its `validate` demands across fields it also says in JSON Schema: `across`, for the description of the API.
    """

    across: ClassVar[Mapping[str, Any]] = {}

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
