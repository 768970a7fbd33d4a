"""The messages as JSON Schema: what `strict_json.read` takes."""

import inspect
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from . import strict_json
from .envelope import MAX_LENGTHS, Envelope
from .message import Message

NAMES = {str: "string", int: "integer", bool: "boolean", float: "number"}
UUID = {"type": "string", "format": "uuid"}
TIME = {"type": "string", "format": "date-time"}
ENVELOPE_FORMATS: dict[str, dict[str, Any]] = {
    "id": UUID, "time": TIME, "due": TIME, "waitingsince": TIME, "specversion": {"const": "1.0"},
    "sequence": {
        "pattern": "^[0-9]{10}$",
        "description": "Of an event: of two with the same subject, the later one has the greater text.",
    },
}  # fmt: skip


def of_message(kind: type[Message]) -> dict[str, Any]:
    """Return the schema of a message's data."""
    return {"description": inspect.cleandoc(kind.__doc__ or "")} | _of_class(kind)


def of_envelope() -> dict[str, Any]:
    """Return the schema of an envelope."""
    schema = _of_class(Envelope)
    properties = schema["properties"]
    for name, limit in MAX_LENGTHS.items():
        properties[name]["maxLength"] = limit
    for name, form in ENVELOPE_FORMATS.items():
        properties[name] |= form
    return {"description": inspect.cleandoc(Envelope.__doc__ or "")} | schema


def _of_class(kind: Any) -> dict[str, Any]:
    hints = strict_json.hints(kind)
    required = [field.name for field in fields(kind) if field.default is MISSING]
    return {
        "type": "object",
        "required": required,
        "properties": {field.name: _of_type(hints[field.name]) for field in fields(kind)},
    }


def _of_type(kind: Any) -> dict[str, Any]:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        (option,) = (option for option in typing.get_args(kind) if option is not type(None))
        schema = _of_type(option)
        return schema | {"type": [schema["type"], "null"]}
    if origin is tuple:
        return {"type": "array", "items": _of_type(typing.get_args(kind)[0])}
    if origin is dict:
        return {"type": "object"}
    if is_dataclass(kind):
        return _of_class(kind)
    return {"type": NAMES[kind]}
