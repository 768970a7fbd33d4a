"""
Older and newer versions of a message.

While one release replaces another, both write messages and both read them; and what waits in an outbox or a queue is
read by releases to come. So an older version is brought up to today's by upcasters, and a newer one is read if its
writer says that today's readers understand it.
"""

from collections.abc import Callable
from typing import Any

from .errors import NotKnownYet, Unreadable
from .message import Message

Data = dict[str, Any]
Upcaster = Callable[[Data], Data]

UPCASTERS: dict[tuple[str, int], Upcaster] = {}


def upcasts(message: type[Message], *, from_: int) -> Callable[[Upcaster], Upcaster]:
    """
    Make this function the one that turns the data of version `from_` into those of the next version.

    It is pure: it gets a copy and returns the data. Write it beside the message.

    :raises TypeError: if there is one already, or the message has no next version
    """

    def register(upcaster: Upcaster) -> Upcaster:
        if not message.oldest <= from_ < message.version:
            raise TypeError(f"{message.name} is at version {message.version} and has none after {from_} to read.")
        if UPCASTERS.setdefault((message.name, from_), upcaster) is not upcaster:
            raise TypeError(f"{message.name} has an upcaster from version {from_} already.")
        return upcaster

    return register


def missing_upcasters(message: type[Message]) -> list[int]:
    """Return the versions of a message that it promises to read and has no upcaster from."""
    return [number for number in range(message.oldest, message.version) if (message.name, number) not in UPCASTERS]


def read(message: type[Message], data: object, *, version: int, compatible_from: int | None) -> Message:
    """
    Return the message that these data of this version are.

    :param compatible_from: the oldest version whose readers understand the data; None: `version` alone
    :raises NotKnownYet: if only later releases understand it
    :raises Unreadable: if the version is no longer read, or the data are not those of the message
    """
    if version < message.oldest:
        raise Unreadable("unknown_version", f"Version {version} of {message.name} is no longer read.")
    if message.version < (compatible_from or version):
        raise NotKnownYet("unknown_version", f"{message.name} is at version {message.version}, this is {version}.")
    if version < message.version and isinstance(data, dict):
        data = dict(data)
        for number in range(version, message.version):
            data = UPCASTERS[message.name, number](data)
    return message.read(data)
