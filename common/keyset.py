"""
Keyset paging: each page begins after the last row of the page before, so that every page costs what the first one does.

An ordering names fields that are unique together, all ascending or all descending ("-"). An index on them answers
every query without looking at any other row.
"""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import F, Func, Lookup, Model, TextField, Value
from django.db.models.lookups import GreaterThan, GreaterThanOrEqual, LessThan, LessThanOrEqual

MAX_CURSOR_LENGTH = 400


class Row(Func):
    """Several values that the database compares as one."""

    function = "ROW"
    output_field = TextField()


def names(ordering: Sequence[str]) -> list[str]:
    """The fields of an ordering, without their direction."""
    return [name.removeprefix("-") for name in ordering]


def key_of(row: Model, ordering: Sequence[str]) -> list[Any]:
    """The position of a row in a list: its values of the fields of the ordering."""
    return [getattr(row, name) for name in names(ordering)]


def beyond(key: Sequence[Any], ordering: Sequence[str], *, forward: bool = True) -> "Lookup[Any]":
    """The condition that a row comes after this key in the list; before it, if not `forward`."""
    comparison = LessThan if ordering[0].startswith("-") == forward else GreaterThan
    return comparison(Row(*map(F, names(ordering))), Row(*map(Value, key)))


def from_on(key: Sequence[Any], ordering: Sequence[str]) -> "Lookup[Any]":
    """The condition that a row has this key or comes after it in the list."""
    comparison = LessThanOrEqual if ordering[0].startswith("-") else GreaterThanOrEqual
    return comparison(Row(*map(F, names(ordering))), Row(*map(Value, key)))


def encode(key: Sequence[Any], *, sort: str = "") -> str:
    """A key as an opaque text for URLs; `sort` names the ordering that it is for, if the list has several."""
    named = [sort, *key] if sort else key
    return base64.urlsafe_b64encode(json.dumps(named, default=str, separators=(",", ":")).encode()).decode()


def decode(cursor: str, model: type[Model], ordering: Sequence[str], *, sort: str = "") -> list[Any]:
    """
    The key in a cursor.

    :raises ValueError: if it is not a cursor for this model and ordering
    """
    try:
        if len(cursor) > MAX_CURSOR_LENGTH:
            raise ValueError(cursor)
        key = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        if not isinstance(key, list) or not all(str(value).isprintable() for value in key):
            raise ValueError(cursor)
        if sort and (not key or key.pop(0) != sort):
            raise ValueError(cursor)
        fields = [model._meta.pk if name == "pk" else model._meta.get_field(name) for name in names(ordering)]
        found = [_in_utc(field.to_python(value)) for field, value in zip(fields, key, strict=True)]  # type: ignore[union-attr]
    except (TypeError, RecursionError, OverflowError, ValidationError) as error:
        raise ValueError(cursor) from error
    # Note [Only what was encoded]: a field takes 1.5 and true for 1, and makes a text of a list. No row has such a key,
    # and null cannot be compared.
    if None in found or encode(found) != encode(key):
        raise ValueError(cursor)
    return found


def _in_utc(value: Any) -> Any:
    """A time in UTC, as rows have it; other values as they are."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value
