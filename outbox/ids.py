"""Time-ordered identifiers (RFC 9562, version 7)."""

import os
import time
import uuid
from datetime import UTC, datetime

from .errors import Undeliverable

ahead = 0  # nanoseconds by which the clock of the databases is ahead of a host's that is wrong: see clock.py


def uuid7(at: datetime | None = None) -> uuid.UUID:
    """Return a new UUIDv7, with the time `at` in it, or now."""
    nanoseconds = time.time_ns() + ahead if at is None else int(at.timestamp() * 1000) * 1_000_000
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    # Note [Sub-millisecond order]: twelve bits of the fraction keep ids of one process in the order made.
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") >> 2
    return uuid.UUID(int=(milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)


def uuid7_from(seed: bytes, *, at: datetime) -> uuid.UUID:
    """Return the UUIDv7 of this time whose random part is taken from the seed: always the same."""
    random = int.from_bytes(seed[:10], "big")
    fraction, rest = random >> 68, random & (1 << 62) - 1
    return uuid.UUID(int=floor7(at).int | fraction << 64 | rest)


def uuid_of(text: str) -> uuid.UUID:
    """
    Return the id that a message names by this text.

    :raises Undeliverable: if it names none, which no further attempt changes
    """
    try:
        return uuid.UUID(text)
    except ValueError:
        raise Undeliverable("malformed", f"{text[:50]!r} is no id.") from None


def time7(made: uuid.UUID) -> datetime:
    """Return when a UUIDv7 was made."""
    return datetime.fromtimestamp((made.int >> 80) / 1000, UTC)


def floor7(at: datetime) -> uuid.UUID:
    """Return the smallest UUIDv7 that could have been made at this time: a bound for range scans over ids."""
    return uuid.UUID(int=(int(at.timestamp() * 1000) & (1 << 48) - 1) << 80 | 0x7 << 76 | 0b10 << 62)
