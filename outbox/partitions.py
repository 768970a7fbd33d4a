"""
The queues of a service, where it has more than one: `shop`, `shop.1`, `shop.2` and so on.

A queue of its own, for work that would keep the service's other messages waiting, stays one.

# Note [Which of them]: what is about one thing waits in one queue, so that a queue that stands still delays its things
# and no others. Every process must find the same one, so it is a checksum and not Python's `hash`, which each process
# salts. A message that is about nothing is spread by its own id, which it keeps however often it is sent. Nothing is
# lost or doubled where two relays differ in how many there are: each queue is consumed, and the inbox is one.
"""

from zlib import crc32

from . import conf
from .message import EVENTS, REGISTRY


def name_of(service: str, number: int) -> str:
    """Return the name of a queue of a service by its number; the first one has the name of the service."""
    return f"{service}.{number}" if number else service


def names(service: str, count: int) -> list[str]:
    """Return the names of the first queues of a service."""
    return [name_of(service, number) for number in range(count)]


def number_of(about: str, count: int) -> int:
    """Return which of so many queues has what is about this."""
    return crc32(about.encode()) % count


def queue_of(type: str, *, to: str, subject: str, id: str) -> str:
    """Return the queue in which this message for a service waits."""
    kind = REGISTRY.get(type)
    if kind is not None and kind.to == to and kind.queue != to:
        return kind.queue
    return to if to == EVENTS else name_of(to, number_of(subject or id, conf.OUTBOX_QUEUES))
