"""
Correcting a dead letter: its message is sent with other data, and the dead letter keeps the original.

# Note [A correction keeps the message's id]: whatever has handled the original does not handle the correction as well,
in this service or in another one, and whatever handles the correction ignores a late copy of the original. A message
with an id of its own could have its effect a second time.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from django.utils.translation import gettext as _g

from . import strict_json
from .envelope import Envelope
from .errors import OutboxError, Unreadable
from .message import REGISTRY


class NotCorrectable(OutboxError):
    """The corrected data are not those of such a message, or not another version of what the dead letter holds."""

    code = "not_correctable"


@dataclass(frozen=True)
class DataChange:
    """A value that differs between two versions of some data, as JSON; one that is not there is empty."""

    path: str
    before: str
    after: str


def parse(text: str | bytes) -> Any:
    """
    Return the data that a person has written as JSON.

    :raises NotCorrectable: if it is no JSON, or has a value that only some programs read as JSON
    """
    try:
        return strict_json.loads(text)
    except ValueError as error:
        raise NotCorrectable(_g("This is not JSON: %(why)s") % {"why": error}) from error


def correct(envelope: Envelope, data: Any) -> Envelope:
    """
    Return the envelope with these data, which are checked against the fields of the message's type.

    :raises NotCorrectable: if they are not those of such a message about the same subject, or nothing is different
    """
    kind = REGISTRY.get(envelope.type)
    if kind is None:
        raise NotCorrectable(_g("This release knows no message that is named %(type)s.") % {"type": envelope.type})
    if not isinstance(data, dict):
        raise NotCorrectable(_g("The data must be a JSON object."))
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # every message is a dataclass
    if unknown := data.keys() - known - set(envelope.data if isinstance(envelope.data, dict) else ()):
        raise NotCorrectable(
            _g("%(type)s has no field %(unknown)s. It has: %(known)s.")
            % {"type": envelope.type, "unknown": ", ".join(sorted(unknown)), "known": ", ".join(sorted(known))}
        )
    if not all(map(strict_json.is_storable, _texts(data))):
        raise NotCorrectable(_g("The data contain characters that no text has."))
    corrected = replace(envelope, data=data)
    try:
        message = corrected.message()
    except Unreadable as refusal:
        raise NotCorrectable(_g("It can't be read: %(why)s") % {"why": refusal}) from refusal
    if message.subject != envelope.subject:
        raise NotCorrectable(_g("It must stay about the same subject: %(subject)s.") % {"subject": envelope.subject})
    if not changes(envelope.data, data):
        raise NotCorrectable(_g("Nothing is different. Replay the message as it is."))
    return corrected


def changes(before: Any, after: Any) -> list[DataChange]:
    """Return the values that differ, by their paths."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return [
        DataChange(path, old.get(path, ""), new.get(path, ""))
        for path in old | new
        if old.get(path) != new.get(path)
    ]  # fmt: skip


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The values inside of this one that contain no others, with their paths."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{number}]")
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def _texts(value: Any) -> Iterator[str]:
    """All names and texts inside of this value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _texts(inner)
