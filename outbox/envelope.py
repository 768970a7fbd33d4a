"""The envelope in which a message travels: CloudEvents 1.0 with a few extensions."""

import uuid
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, Self

from . import strict_json
from .context import Context
from .errors import Unreadable
from .message import REGISTRY, Message

MAX_ENVELOPE_BYTES = 4 * 1024  # what an envelope adds to its data
MAX_LENGTHS = {"type": 100, "subject": 64, "correlationid": 64, "causationid": 64, "traceparent": 55}  # as in models.py
MAX_ATTEMPT = 32_767


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A message on its way."""

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

    def as_dict(self) -> dict[str, Any]:
        """Return what travels; attributes without a value are left out."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def encode(self) -> bytes:
        """Return the envelope as JSON."""
        return strict_json.write(self.as_dict())

    @classmethod
    def parse(cls, raw: object) -> Self:
        """
        Return the envelope that this JSON value is.

        :raises Unreadable: if it is none
        """
        if not isinstance(raw, dict):
            raise Unreadable("malformed", "The envelope is not an object.")
        known = {field.name: field for field in fields(cls)}
        missing = [name for name, field in known.items() if field.default is MISSING and name not in raw]
        if missing:
            raise Unreadable("malformed", f"The envelope lacks {', '.join(missing)}.")
        hints = strict_json.hints(Envelope)
        # Attributes that we don't know are ignored: CloudEvents allows extensions.
        values = {
            name: raw[name] if name == "data" else strict_json.read(hints[name], raw[name], where=name)
            for name in known.keys() & raw.keys()
        }
        if too_long := [name for name, limit in MAX_LENGTHS.items() if len(values.get(name) or "") > limit]:
            raise Unreadable("malformed", f"The envelope's {', '.join(too_long)} is too long.")
        if not 0 <= values.get("attempt", 0) <= MAX_ATTEMPT or not 0 <= values["schemaversion"] <= MAX_ATTEMPT:
            raise Unreadable("malformed", "The envelope's attempt or version is out of range.")
        envelope = cls(**values)
        try:
            uuid.UUID(envelope.id)
        except ValueError as error:
            raise Unreadable("malformed", "The envelope's id is not a UUID.") from error
        _ = envelope.sent_at
        return envelope

    def message(self) -> Message:
        """
        Return the message inside.

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
        The earliest time at which it can have been sent: when it was due if it had to wait, else when it was written.

        :raises Unreadable: if one of the two is no time
        """
        try:
            written, due = (datetime.fromisoformat(moment) for moment in (self.time, self.due or self.time))
        except ValueError as error:
            raise Unreadable("malformed", "The envelope's time is not a time.") from error
        if written.tzinfo is None or due.tzinfo is None:
            raise Unreadable("malformed", "The envelope's time has no time zone.")
        return due

    @property
    def context(self) -> Context:
        """The context in which the message is handled."""
        return Context(
            correlation_id=self.correlationid,
            causation_id=self.id,
            traceparent=self.traceparent,
            subject=self.subject or None,
        )
