"""Periods of time as people give them: in UTC, from the first moment until before the second."""

from argparse import ArgumentTypeError
from datetime import UTC, datetime

from django.utils.dateparse import parse_date, parse_datetime
from django.utils.timezone import is_naive

HALF_OPEN = "Times are in UTC; a period is from its first moment until before its second."


def moment(text: str) -> datetime:
    """
    Return the moment that a text names: a date means its first moment in UTC, a time without an offset is in UTC.

    :raises ValueError: if it is neither
    """
    try:
        at = parse_datetime(text)
        if at is None and (day := parse_date(text)) is not None:
            at = datetime(day.year, day.month, day.day, tzinfo=UTC)
        if at is not None:
            return at.replace(tzinfo=UTC) if is_naive(at) else at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{text[:40]!r} is neither a date nor a time, such as 2026-11-28 or 2026-11-28T12:00:00Z.")


def argument(text: str) -> datetime:
    """Return the moment that an argument of a command names."""
    try:
        return moment(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
