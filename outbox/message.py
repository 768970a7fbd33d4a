"""
The base of every message.

A message is a frozen dataclass; its name is its address. `shop.reserve` asks (a command), `sale.paid` tells (an event);
`to` is the service that acts on it, or `events` for facts told to the outside world. It waits in the service's queue
unless it names another: work that would keep the service's other messages waiting has a `queue` of its own.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self, dataclass_transform

from . import conf, strict_json

EVENTS = "events"
MAX_BYTES = 256 * 1024  # of a message's data, as JSON

REGISTRY: dict[str, type["Message"]] = {}


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Message:
    """
    Write `class Reserve(Message, name="shop.reserve", to="shop")` and list the fields.

    A field that is added with a default needs no new version: readers ignore what they don't know. A change that an
    older reader would get wrong does: count `version` up, and write an upcaster from the version before (versions.py).
    `compatible_from` is the oldest version whose readers get it right all the same, `oldest` the oldest that is read.

    `withheld` names fields that readers of the release before refuse, because it ignored none that it did not know:
    they are not written while `OUTBOX_WITHHOLDS`, and each has a default.

    `batched`: those that are sent at the same time travel together, for a handler that takes many: see batches.py.
    """

    name: ClassVar[str]
    to: ClassVar[str]
    queue: ClassVar[str]
    version: ClassVar[int]
    compatible_from: ClassVar[int]
    oldest: ClassVar[int]
    withheld: ClassVar[tuple[str, ...]]
    batched: ClassVar[bool]

    def __init_subclass__(
        cls,
        *,
        name: str,
        to: str,
        queue: str = "",
        version: int = 1,
        compatible_from: int | None = None,
        oldest: int = 1,
        withheld: tuple[str, ...] = (),
        batched: bool = False,
    ) -> None:
        dataclass(frozen=True, kw_only=True)(cls)
        cls.name, cls.to, cls.queue = name, to, queue or to
        cls.version, cls.compatible_from, cls.oldest = version, compatible_from or version, oldest
        cls.withheld, cls.batched = withheld, batched
        if REGISTRY.setdefault(name, cls).__qualname__ != cls.__qualname__:
            raise TypeError(f"Two messages are named {name!r}.")

    @property
    def type(self) -> str:
        return self.name

    @property
    def subject(self) -> str:
        """What the message is about: the field that `OUTBOX_SUBJECT_FIELD` names, unless a message overrides this."""
        return getattr(self, conf.OUTBOX_SUBJECT_FIELD, "")

    @property
    def data(self) -> dict[str, Any]:
        """The fields as JSON has them; what is plain already is not copied."""
        data: dict[str, Any] = strict_json.plain(self)
        for name in self.withheld if conf.OUTBOX_WITHHOLDS else ():
            del data[name]
        return data

    @classmethod
    def read(cls, data: object) -> Self:
        """
        Return the message of this JSON object; fields that this release does not know are ignored and counted.

        :raises Unreadable: if a field is missing or of another type
        """
        unknown: list[str] = []
        message: Self = strict_json.read(cls, data, where="data", unknown=unknown)
        if unknown:
            from . import metrics  # when it is needed: settings, which say where to count, may not be read yet above

            metrics.UNKNOWN_FIELDS.labels(cls.name).inc(len(unknown))
        return message
