"""How often a letter is tried, and how long it waits in between."""

from datetime import timedelta

LAST_ATTEMPT = 5  # the first one and five more; then the letter is dead
ATTEMPTS = LAST_ATTEMPT + 1  # in a life; a replay begins another one, in which the count goes on


def backoff(attempt: int, *, spread: float) -> timedelta:
    """How long to wait after this attempt (counted from 0) failed: 1, 2, 4, 8, 16 s and up to a quarter more."""
    return timedelta(seconds=2 ** min(attempt, 4) * (1 + spread / 4))


def replays(attempt: int) -> int:
    """How often a letter at this attempt has been replayed."""
    return attempt // ATTEMPTS


def last_attempt(attempt: int) -> int:
    """The attempt after which a letter at this attempt is dead."""
    return attempt - attempt % ATTEMPTS + LAST_ATTEMPT
