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

MAX_DEPTH = 32  # of lists and objects within each other; what is read calls itself for each of them

hints = functools.cache(typing.get_type_hints)


class TooDeep(ValueError):
    """JSON that is nested more deeply than `MAX_DEPTH`."""

    def __init__(self) -> None:
        super().__init__(f"it is nested more than {MAX_DEPTH} levels deep")


def write(value: object) -> bytes:
    """Return this value as JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def plain(value: Any) -> Any:
    """Return what JSON has for this value of an annotated type; what is plain already is not copied."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in vars(value).items()} if is_dataclass(value) else value


def parse(text: str | bytes, **options: Any) -> Any:
    """
    Return what `json.loads` returns with these options, for JSON that somebody else has written.

    :raises ValueError: if it is no JSON
    :raises TooDeep: if it is nested too deeply
    """
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise TooDeep from None
    if is_too_deep(value, text):
        raise TooDeep
    return value


def is_too_deep(value: object, text: str | bytes) -> bool:
    """Whether a value is nested more deeply than `MAX_DEPTH`, where this is the JSON of it."""
    brackets = (
        text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    )  # of nearly all JSON there are too few, so nothing else is looked at
    if brackets <= MAX_DEPTH:
        return False
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        inside = (each for one in level for each in (one.values() if isinstance(one, dict) else one))
        level = [each for each in inside if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def loads(text: str | bytes, *, number: Callable[[str], Any] = float) -> Any:
    """
    Return the plain value of JSON that somebody else has written.

    :param number: makes a number of one that is not whole
    :raises ValueError: if it is no JSON, has text that cannot be stored, or what is not read alike everywhere: NaN, or
        a name that occurs twice
    :raises TooDeep: if it is nested too deeply
    """
    return parse(text, parse_float=number, parse_constant=_refuse_constant, object_pairs_hook=_object)


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
    return reader(kind)(value, where, unknown)


Reader = Callable[[object, str, list[str]], Any]


@functools.cache
def reader(kind: Any) -> Reader:
    """What reads values of this type, as `read` does."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (given,) = (reader(option) for option in arguments if option is not types.NoneType)
        return lambda value, where, unknown: None if value is None else given(value, where, unknown)
    if origin is tuple:
        return _list_of(reader(arguments[0]))
    if origin is dict and arguments[1] is not Any:
        return _dict_of(reader(arguments[1]))
    return _object_of(kind) if is_dataclass(kind) else _plain(origin or kind)


def _plain(kind: type) -> Reader:
    def read(value: object, where: str, unknown: list[str]) -> object:
        if type(value) is not kind:
            raise Unreadable("malformed", f"{where} is not {kind.__name__}.")
        if isinstance(value, str) and not is_storable(value):
            raise Unreadable("malformed", f"{where} has characters that no text has.")
        return value

    return read


def _list_of(item: Reader) -> Reader:
    def read(value: object, where: str, unknown: list[str]) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Unreadable("malformed", f"{where} is not a list.")
        return tuple(item(each, f"{where}[{n}]", unknown) for n, each in enumerate(value))

    return read


def _dict_of(item: Reader) -> Reader:
    def read(value: object, where: str, unknown: list[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Unreadable("malformed", f"{where} is not an object.")
        return {name: item(each, f"{where}.{name}", unknown) for name, each in value.items()}

    return read


def _object_of(kind: Any) -> Reader:
    types_of = hints(kind)
    known = {field.name: reader(types_of[field.name]) for field in fields(kind)}
    required = [field.name for field in fields(kind) if field.default is MISSING]

    def read(value: object, where: str, unknown: list[str]) -> Any:
        if not isinstance(value, dict):
            raise Unreadable("malformed", f"{where} is not an object.")
        if missing := [name for name in required if name not in value]:
            raise Unreadable("malformed", f"{where} lacks {', '.join(missing)}.")
        if more := value.keys() - known.keys():
            unknown += sorted(f"{where}.{name}" for name in more)
        return kind(
            **{name: of(value[name], f"{where}.{name}", unknown) for name, of in known.items() if name in value}
        )

    return read


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store this text: JSON can express NUL and half a surrogate pair, text can't."""
    return "\0" not in text and (text.isascii() or text.encode(errors="ignore").decode() == text)
