"""The envelope in which a message travels: CloudEvents 1.0 with a few extensions."""

import functools
import uuid
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, Self

from . import strict_json, versions
from .attempts import replays
from .context import Context
from .errors import NotKnownYet, Unreadable
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
    compatiblefrom: int | None = None  # the oldest version whose readers understand this one; None: this one
    waitingsince: str | None = None  # when a worker first put it back because its release did not know it
    sequence: str | None = None  # of an event: the later of two with the same subject has the greater text
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
        if missing := [name for name in _required() if name not in raw]:
            raise Unreadable("malformed", f"The envelope lacks {', '.join(missing)}.")
        # Attributes that we don't know are ignored: CloudEvents allows extensions.
        values = {name: read(raw[name], name, []) for name, read in _readers().items() if name in raw}
        values["data"] = raw["data"]  # which the message reads
        if too_long := [name for name, limit in MAX_LENGTHS.items() if len(values.get(name) or "") > limit]:
            raise Unreadable("malformed", f"The envelope's {', '.join(too_long)} is too long.")
        numbers = (values.get("attempt", 0), values["schemaversion"], values.get("compatiblefrom") or 0)
        if not all(0 <= number <= MAX_ATTEMPT for number in numbers):
            raise Unreadable("malformed", "The envelope's attempt or version is out of range.")
        envelope = cls(**values)
        try:
            uuid.UUID(envelope.id)
        except ValueError as error:
            raise Unreadable("malformed", "The envelope's id is not a UUID.") from error
        _ = envelope.sent_at, envelope.waiting_since
        return envelope

    def message(self) -> Message:
        """
        Return the message inside.

        :raises NotKnownYet: if its type or version is one that this release does not know
        :raises Unreadable: if its data doesn't fit, or its version is no longer read
        """
        kind = REGISTRY.get(self.type)
        if kind is None:
            raise NotKnownYet("unknown_type", f"No message is named {self.type!r}.")
        return versions.read(kind, self.data, version=self.schemaversion, compatible_from=self.compatiblefrom)

    @property
    def waiting_since(self) -> datetime | None:
        """
        When the message was first put back because a release did not know it.

        :raises Unreadable: if that is no time
        """
        return self._moment(self.waitingsince) if self.waitingsince else None

    @property
    def sent_at(self) -> datetime:
        """
        The earliest time at which it can have been sent: when it was due if it had to wait, else when it was written.

        :raises Unreadable: if one of the two is no time
        """
        written = self._moment(self.time)
        return self._moment(self.due) if self.due else written

    def _moment(self, text: str) -> datetime:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise Unreadable("malformed", "The envelope's time is not a time.") from error
        if moment.tzinfo is None:
            raise Unreadable("malformed", "The envelope's time has no time zone.")
        return moment

    @property
    def context(self) -> Context:
        """The context in which the message is handled."""
        return Context(
            correlation_id=self.correlationid,
            causation_id=self.id,
            traceparent=self.traceparent,
            subject=self.subject or None,
            is_replay=replays(self.attempt) > 0,
        )


@functools.cache
def _required() -> list[str]:
    return [field.name for field in fields(Envelope) if field.default is MISSING]


@functools.cache
def _readers() -> dict[str, strict_json.Reader]:
    return {name: strict_json.reader(kind) for name, kind in strict_json.hints(Envelope).items() if name != "data"}
