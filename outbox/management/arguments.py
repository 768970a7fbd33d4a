"""Times and durations as people write them at a terminal."""

import re
from argparse import ArgumentTypeError
from datetime import UTC, date, datetime, time, timedelta

LONGEST = timedelta(days=3650)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration(text: str) -> timedelta:
    """
    Read 90s, 15m, 2h or 7d.

    :raises ArgumentTypeError: if it is none
    """
    match = re.fullmatch(r"(\d{1,6})([smhd])", text, re.ASCII)
    found = timedelta(seconds=int(match[1]) * UNITS[match[2]]) if match is not None else None
    if found is None or found > LONGEST:
        raise ArgumentTypeError(f"{text!r} is not a duration: write 90s, 15m, 2h or 7d")
    return found


def number(text: str) -> float:
    """
    Read a number of seconds or hours: 0 or more.

    :raises ArgumentTypeError: if it is none
    """
    try:
        found = float(text)
    except ValueError:
        found = -1
    if not 0 <= found <= LONGEST.total_seconds():  # neither is NaN
        raise ArgumentTypeError(f"{text!r} is not a number from 0 to {LONGEST.total_seconds():.0f}")
    return found


def count(text: str) -> int:
    """
    Read a whole number: 1 or more.

    :raises ArgumentTypeError: if it is none
    """
    if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 to 999999999")
    return int(text)


def moment(text: str) -> datetime:
    """
    Read a date, which means its midnight in UTC, or a time with its time zone.

    :raises ArgumentTypeError: if it is neither
    """
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no date and no time: write 2026-11-01 or 2026-11-01T12:00Z.") from None
    if found.tzinfo is None:
        raise ArgumentTypeError(f"{text!r} has no time zone: write {text}Z for UTC, or {text}+01:00.")
    try:
        return found.astimezone(UTC)  # a database takes fewer offsets than there are
    except OverflowError:
        raise ArgumentTypeError(f"{text!r} is too early or too late.") from None
