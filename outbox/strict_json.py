"""JSON as it travels: written without spaces, read as annotated types and as nothing else."""

import functools
import json
import types
import typing
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NoReturn

from .errors import Unreadable

hints = functools.cache(typing.get_type_hints)


def write(value: object) -> bytes:
    """Return this value as JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def loads(text: str | bytes, *, number: Callable[[str], Any] = float) -> Any:
    """
    Return the plain value of JSON that somebody else has written.

    :param number: makes a number of one that is not whole
    :raises ValueError: if it is no JSON, has text that cannot be stored, or what is not read alike everywhere: NaN, or
        a name that occurs twice
    :raises RecursionError: if it is nested too deeply
    """
    return json.loads(text, parse_float=number, parse_constant=_refuse_constant, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
        raise ValueError(f"{twice[0][:50]!r} occurs twice")
    for name, value in pairs:
        for text in (name, *(value if isinstance(value, list) else [value])):
            if isinstance(text, str) and not is_storable(text):
                raise ValueError("a string contains a null character or half of a surrogate pair")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def read(kind: Any, value: object, *, where: str, unknown: list[str]) -> Any:
    """
    Return a plain JSON value as the annotated type: nothing is coerced.

    :param where: what the value is called in an error
    :param unknown: takes the names of the fields that the type does not have; their values are ignored
    :raises Unreadable: if the value is of another type, or lacks fields
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        (kind,) = (option for option in options if option is not type(None))
        return read(kind, value, where=where, unknown=unknown)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise Unreadable("malformed", f"{where} is not a list.")
        (item_kind, *_) = typing.get_args(kind)
        return tuple(read(item_kind, item, where=f"{where}[{n}]", unknown=unknown) for n, item in enumerate(value))
    if origin is dict and typing.get_args(kind)[1] is not Any:
        if not isinstance(value, dict):
            raise Unreadable("malformed", f"{where} is not an object.")
        (_, item_kind) = typing.get_args(kind)
        return {name: read(item_kind, item, where=f"{where}.{name}", unknown=unknown) for name, item in value.items()}
    kind = origin if origin is dict else kind
    if is_dataclass(kind):
        return _read_object(kind, value, where=where, unknown=unknown)
    if type(value) is not kind:
        raise Unreadable("malformed", f"{where} is not {kind.__name__}.")
    if isinstance(value, str) and not is_storable(value):
        raise Unreadable("malformed", f"{where} has characters that no text has.")
    return value


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store this text: JSON can express NUL and half a surrogate pair, text can't."""
    return "\0" not in text and (text.isascii() or text.encode(errors="ignore").decode() == text)


def _read_object(kind: Any, value: object, *, where: str, unknown: list[str]) -> Any:
    if not isinstance(value, dict):
        raise Unreadable("malformed", f"{where} is not an object.")
    types_of = hints(kind)
    known = {field.name: field for field in fields(kind)}
    unknown += sorted(f"{where}.{name}" for name in value.keys() - known.keys())
    missing = [name for name, field in known.items() if name not in value and field.default is MISSING]
    if missing:
        raise Unreadable("malformed", f"{where} lacks {', '.join(missing)}.")
    return kind(
        **{
            name: read(types_of[name], value[name], where=f"{where}.{name}", unknown=unknown)
            for name in known.keys() & value.keys()
        }
    )
