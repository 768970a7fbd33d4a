"""
Rules that span several fields of a serializer.

Each rule checks a request and describes itself in JSON Schema, so that the API and its description cannot differ. A
serializer lists its rules: see `common.fields.StrictSerializer`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from django.utils.functional import Promise
from rest_framework import serializers

Fields = Mapping[str, Any]
Errors = dict[str, list[str | Promise]]
Schema = dict[str, Any]


class FieldRule(Protocol):
    """A rule: what is wrong with valid data, by field, and the same rule in JSON Schema."""

    def errors(self, data: Mapping[str, Any]) -> Errors: ...

    def schema(self, fields: Fields) -> Schema: ...


# What stands for a value that is wrong by itself: it is given, and nothing follows from which one it is.
WRONG = object()


def broken(rules: Sequence[FieldRule], data: Mapping[str, Any], *, wrong: Collection[str] = ()) -> dict[str, Any]:
    """
    What is wrong by these rules, by field.

    :param wrong: fields whose values are wrong: only what is wrong whether they are given or not is returned
    """
    there = {name: WRONG if name in wrong else value for name, value in data.items()}
    without = {name: value for name, value in data.items() if name not in wrong}
    errors, otherwise = (
        {name: texts for rule in rules for name, texts in rule.errors(each).items()} for each in (there, without)
    )
    return {name: texts for name, texts in errors.items() if name in otherwise and name not in wrong}


def is_given(data: Mapping[str, Any], name: str) -> bool:
    """Whether a field has a value: neither null nor an empty text."""
    return data.get(name) not in (None, "")


def given(fields: Fields, *names: str) -> Schema:
    """In JSON Schema: these fields have a value."""
    return {"required": list(names), "properties": {name: _value(fields[name]) for name in names}}


def absent(fields: Fields, name: str) -> Schema:
    """In JSON Schema: this field is left out, null or an empty text."""
    is_text = isinstance(fields[name], serializers.CharField)
    return {"properties": {name: {"type": ["string", "null"], "maxLength": 0} if is_text else {"type": "null"}}}


def _value(field: Any) -> Schema:
    if isinstance(field, serializers.ListSerializer):
        return {"type": "array"}
    if isinstance(field, serializers.CharField | serializers.ChoiceField):
        return {"type": "string", "pattern": r"\S"}
    return {"type": ["number", "string"]}


@dataclass(frozen=True)
class ExactlyOne:
    """One of two fields is given. If none is, the first is wrong; if both are, the second is."""

    first: str
    second: str
    none_given: str | Promise
    both_given: str | Promise

    def errors(self, data: Mapping[str, Any]) -> Errors:
        match is_given(data, self.first), is_given(data, self.second):
            case False, False:
                return {self.first: [self.none_given]}
            case True, True:
                return {self.second: [self.both_given]}
        return {}

    def schema(self, fields: Fields) -> Schema:
        return {
            "oneOf": [
                {"allOf": [given(fields, self.first), absent(fields, self.second)]},
                {"allOf": [given(fields, self.second), absent(fields, self.first)]},
            ]
        }


@dataclass(frozen=True)
class AtMostOne:
    """Not both of two fields are sent. If they are, the second is wrong."""

    first: str
    second: str
    both_given: str | Promise

    def errors(self, data: Mapping[str, Any]) -> Errors:
        return {self.second: [self.both_given]} if self.first in data and self.second in data else {}

    def schema(self, fields: Fields) -> Schema:
        return {"not": {"required": [self.first, self.second]}}


@dataclass(frozen=True)
class AtLeastOne:
    """One or more of these fields are given. If none is, the first is wrong."""

    names: tuple[str, ...]
    none_given: str | Promise

    def errors(self, data: Mapping[str, Any]) -> Errors:
        return {} if any(is_given(data, name) for name in self.names) else {self.names[0]: [self.none_given]}

    def schema(self, fields: Fields) -> Schema:
        return {"anyOf": [given(fields, name) for name in self.names]}


@dataclass(frozen=True)
class Requires:
    """If one field is given, or has this `value`, the other one is given. If it is not, it is wrong."""

    name: str
    other: str
    missing: str | Promise
    value: str | None = None

    def errors(self, data: Mapping[str, Any]) -> Errors:
        applies = is_given(data, self.name) if self.value is None else data.get(self.name) == self.value
        return {self.other: [self.missing]} if applies and not is_given(data, self.other) else {}

    def schema(self, fields: Fields) -> Schema:
        exempt = (
            absent(fields, self.name)
            if self.value is None
            else {"properties": {self.name: {"not": {"const": self.value}}}}
        )
        return {"anyOf": [exempt, given(fields, self.other)]}


@dataclass(frozen=True)
class Without:
    """None of these fields has a value. Those that have one are wrong."""

    names: tuple[str, ...]
    given: str | Promise

    def errors(self, data: Mapping[str, Any]) -> Errors:
        return {name: [self.given] for name in self.names if is_given(data, name)}

    def schema(self, fields: Fields) -> Schema:
        return {"allOf": [absent(fields, name) for name in self.names]}


@dataclass(frozen=True)
class When:
    """The rules `then`, where a field has one of these values, and the rules `otherwise`, where it has none of them."""

    name: str
    values: tuple[str, ...]
    then: tuple[FieldRule, ...]
    otherwise: tuple[FieldRule, ...]

    def errors(self, data: Mapping[str, Any]) -> Errors:
        if data.get(self.name) is WRONG:
            return {}
        rules = self.then if data.get(self.name) in self.values else self.otherwise
        return {name: texts for rule in rules for name, texts in rule.errors(data).items()}

    def schema(self, fields: Fields) -> Schema:
        any_of = {"anyOf": [{"const": value} for value in self.values]}
        is_one = {"required": [self.name], "properties": {self.name: any_of}}
        is_none = {"properties": {self.name: {"not": any_of}}}
        return {
            "oneOf": [
                {"allOf": [condition, *(rule.schema(fields) for rule in rules)]}
                for condition, rules in ((is_one, self.then), (is_none, self.otherwise))
            ]
        }


@dataclass(frozen=True)
class NotEmpty:
    """At least one field is sent."""

    nothing_sent: str | Promise

    def errors(self, data: Mapping[str, Any]) -> Errors:
        return {} if data else {"non_field_errors": [self.nothing_sent]}

    def schema(self, fields: Fields) -> Schema:
        return {"minProperties": 1}
