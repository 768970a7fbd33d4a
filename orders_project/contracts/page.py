"""The messages as a page for people: the channels, messages, fields and examples of the AsyncAPI document."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SCHEMA = re.compile(r'"#/components/schemas/(\w+)"')
Schemas = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Field:
    """A field of a message's data, or of what several messages have in common."""

    name: str
    type: str
    required: bool
    description: str


@dataclass(frozen=True)
class Message:
    """A message: the fields that only it has, and the names of what it has in common with others."""

    name: str
    summary: str
    description: str
    fields: list[Field]
    common: list[str]
    example: str


@dataclass(frozen=True)
class Channel:
    """A queue, the exchange or the webhooks, and what is sent there."""

    name: str
    summary: str
    description: str
    messages: list[Message]


@dataclass(frozen=True)
class Common:
    """Fields that several messages have in common."""

    name: str
    description: str
    fields: list[Field]


def content(document: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of an AsyncAPI document."""
    messages, schemas = document["components"]["messages"], document["components"]["schemas"]
    uses = Counter(name for message in messages.values() for name in _names(message))
    common = [name for name in schemas if uses[name] > 1]
    summaries = {_last(one["channel"]["$ref"]): one["summary"] for one in document["operations"].values()}
    return {
        "info": document["info"],
        "channels": [
            Channel(
                name,
                summaries.get(name, ""),
                channel.get("description", ""),
                [_message(each, messages[each], schemas, common) for each in channel["messages"]],
            )
            for name, channel in document["channels"].items()
        ],
        "common": [Common(name, schemas[name].get("description", ""), list(_fields(schemas[name]))) for name in common],
    }


def _message(name: str, message: dict[str, Any], schemas: Schemas, common: list[str]) -> Message:
    used = _names(message)
    of_its_own = [schemas[each] for each in used if each not in common]
    data: dict[str, Any] = of_its_own[0] if of_its_own else {}
    return Message(
        name,
        message["summary"],
        data.get("description", "").partition("\n")[2].strip(),
        list(_fields(data)),
        [each for each in common if each in used],
        json.dumps(message["examples"][0]["payload"], indent=2, ensure_ascii=False),
    )


def _names(message: dict[str, Any]) -> set[str]:
    """The names of the schemas that a message refers to."""
    return set(SCHEMA.findall(json.dumps(message)))


def _fields(schema: dict[str, Any], path: str = "") -> Iterator[Field]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield Field(f"{path}{name}", _type(field), name in required, field.get("description", ""))
        inner, mark = (field["items"], "[].") if "items" in field else (field, ".")
        yield from _fields(inner, f"{path}{name}{mark}")


def _type(schema: dict[str, Any]) -> str:
    """The type of a field in a few words, such as `string or null, date-time`."""
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    types = schema.get("type", "anything")
    words = types if isinstance(types, str) else " or ".join(types)
    return f"{words}, {schema['format']}" if "format" in schema else words


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]
