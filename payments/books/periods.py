"""Periods of time as people give them: in UTC, from the first moment until before the second."""

from argparse import ArgumentTypeError
from datetime import UTC, datetime

from django.utils.dateparse import parse_date, parse_datetime
from django.utils.timezone import is_naive

from common.errors import Refusal

HALF_OPEN = "Times are in UTC; a period begins with --from and ends just before --to."
MAX_LENGTH = 40  # of a moment as text
YEARS = range(1900, 9000)  # a day before or after a moment is one as well


class NoPeriod(Refusal):
    """There is no such period: it ends before it begins, or nothing says when it is."""

    code = "no_period"


def moment(text: str) -> datetime:
    """
    Return the moment that a text names: a date means its first moment in UTC, a time without an offset is in UTC.

    :raises ValueError: if it is neither
    """
    try:
        at = _parsed(text) if len(text) <= MAX_LENGTH else None
        if at is not None and at.year in YEARS:
            return at.replace(tzinfo=UTC) if is_naive(at) else at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{text[:40]!r} is neither a date nor a time, such as 2026-11-28 or 2026-11-28T12:00:00Z.")


def _parsed(text: str) -> datetime | None:
    day = parse_date(text)
    return datetime(day.year, day.month, day.day) if day is not None else parse_datetime(text)


def argument(text: str) -> datetime:
    """Return the moment that an argument of a command names."""
    try:
        return moment(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
