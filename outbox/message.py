"""
The base of every message, and the letter it travels in.

A message is a frozen dataclass; its name is its address. `payments.charge` asks (a command), `payment.succeeded`
tells (an event); `to` is the service that acts on it, or `events` for facts told to the outside world. It waits in the
service's queue unless it names another: work that would keep the service's other letters waiting has a `queue` of its own.
"""

import functools
import json
import types
import typing
import uuid
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from datetime import datetime
from typing import Any, ClassVar, Self, dataclass_transform

EVENTS = "events"
MAX_BYTES = 256 * 1024  # of a message's data, as JSON
ENVELOPE_BYTES = 4 * 1024  # what a letter adds to it, at most


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


REGISTRY: dict[str, type["Message"]] = {}


class Unreadable(ValueError):
    """What arrived is no letter that this system can act on; `code` says why."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Message:
    """Say `class Charge(Message, name="payments.charge", to="payments")` and list the fields."""

    name: ClassVar[str]
    to: ClassVar[str]
    queue: ClassVar[str]
    version: ClassVar[int]

    def __init_subclass__(cls, *, name: str, to: str, queue: str = "", version: int = 1) -> None:
        dataclass(frozen=True, kw_only=True)(cls)
        cls.name, cls.to, cls.queue, cls.version = name, to, queue or to, version
        if REGISTRY.setdefault(name, cls).__qualname__ != cls.__qualname__:
            raise TypeError(f"Two messages are named {name!r}.")

    @property
    def type(self) -> str:
        return self.name

    @property
    def subject(self) -> str:
        """What the message is about: the order, unless a message says otherwise."""
        return getattr(self, "order_id", "")

    @property
    def data(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]  # every subclass is a dataclass

    @classmethod
    def read(cls, data: object) -> Self:
        """
        The message that this JSON object says.

        :raises Unreadable: if a field is missing, unknown or of another type
        """
        return _read(cls, data, where="data")


def _read(kind: Any, value: object, *, where: str) -> Any:
    """Read a plain JSON value as the annotated type, strictly: nothing is coerced and nothing is ignored."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        (kind,) = (option for option in options if option is not type(None))
        return _read(kind, value, where=where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise Unreadable("malformed", f"{where} is not a list.")
        return tuple(_read(typing.get_args(kind)[0], item, where=f"{where}[{n}]") for n, item in enumerate(value))
    if is_dataclass(kind):
        return _read_object(kind, value, where=where)
    if type(value) is not kind:
        raise Unreadable("malformed", f"{where} is not {kind.__name__}.")
    if isinstance(value, str) and not is_storable(value):
        raise Unreadable("malformed", f"{where} has characters that no text has.")
    return value


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can keep this text: JSON can say NUL and half a surrogate pair, text can't."""
    return "\0" not in text and (text.isascii() or text.encode(errors="ignore").decode() == text)


def write(value: object) -> bytes:
    """JSON as it travels."""
    return json.dumps(value, separators=(",", ":")).encode()


def _read_object(kind: Any, value: object, *, where: str) -> Any:
    if not isinstance(value, dict):
        raise Unreadable("malformed", f"{where} is not an object.")
    hints = _hints(kind)
    known = {field.name: field for field in fields(kind)}
    if unknown := value.keys() - known.keys():
        raise Unreadable("malformed", f"{where} has unknown fields: {', '.join(sorted(map(str, unknown)))}.")
    missing = [name for name, field in known.items() if name not in value and field.default is MISSING]
    if missing:
        raise Unreadable("malformed", f"{where} lacks {', '.join(missing)}.")
    return kind(**{name: _read(hints[name], item, where=f"{where}.{name}") for name, item in value.items()})


# What the mailbox has space for.
LONGEST = {"type": 100, "subject": 64, "correlationid": 64, "causationid": 64, "traceparent": 55}
MOST_ATTEMPTS = 32_767


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A message on its way, in the form of a CloudEvents 1.0 envelope."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    schemaversion: int
    correlationid: str
    data: dict[str, Any]
    causationid: str | None = None
    traceparent: str | None = None
    attempt: int = 0
    due: str | None = None
    specversion: str = "1.0"
    datacontenttype: str = "application/json"

    def envelope(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def body(self) -> bytes:
        return write(self.envelope())

    @classmethod
    def open(cls, envelope: object) -> Self:
        """
        The letter in this envelope.

        :raises Unreadable: if it isn't one
        """
        if not isinstance(envelope, dict):
            raise Unreadable("malformed", "The letter is not an object.")
        known = {field.name: field for field in fields(cls)}
        missing = [name for name, field in known.items() if field.default is MISSING and name not in envelope]
        if missing:
            raise Unreadable("malformed", f"The letter lacks {', '.join(missing)}.")
        hints = _hints(Letter)
        # Extensions of others (CloudEvents allows them) are passed over.
        values = {
            name: envelope[name] if name == "data" else _read(hints[name], envelope[name], where=name)
            for name in known.keys() & envelope.keys()
        }
        if too_long := [name for name, most in LONGEST.items() if len(values.get(name) or "") > most]:
            raise Unreadable("malformed", f"The letter's {', '.join(too_long)} is too long.")
        if not 0 <= values.get("attempt", 0) <= MOST_ATTEMPTS or not 0 <= values["schemaversion"] <= MOST_ATTEMPTS:
            raise Unreadable("malformed", "The letter's attempt or version is out of range.")
        letter = cls(**values)
        try:
            uuid.UUID(letter.id)
        except ValueError as error:
            raise Unreadable("malformed", "The letter's id is no UUID.") from error
        _ = letter.sent_at
        return letter

    def read(self) -> Message:
        """
        The message inside.

        :raises Unreadable: if its type or version is unknown here, or its data doesn't fit
        """
        kind = REGISTRY.get(self.type)
        if kind is None:
            raise Unreadable("unknown_type", f"No message is named {self.type!r}.")
        if self.schemaversion != kind.version:
            raise Unreadable(
                "unknown_version", f"{self.type} is at version {kind.version}, this is {self.schemaversion}."
            )
        return kind.read(self.data)

    @property
    def sent_at(self) -> datetime:
        """
        When it set out, at the earliest: when it was due if it had to wait, else when it was written.

        :raises Unreadable: if a time of the letter is no time
        """
        try:
            written, due = (datetime.fromisoformat(moment) for moment in (self.time, self.due or self.time))
        except ValueError as error:
            raise Unreadable("malformed", "The time of the letter is not a time.") from error
        if written.tzinfo is None or due.tzinfo is None:
            raise Unreadable("malformed", "The time of the letter has no zone.")
        return due
