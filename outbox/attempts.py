"""How often handling a message is attempted, and how long it waits in between."""

from datetime import timedelta

LAST_ATTEMPT = 5  # the first one and five more; then it is a dead letter
ATTEMPTS = LAST_ATTEMPT + 1  # in a life; a replay begins another one, in which the count goes on


def backoff(attempt: int, *, spread: float) -> timedelta:
    """Return how long to wait after this attempt (from 0) failed: 1, 2, 4, 8, 16 s and up to a quarter more."""
    return timedelta(seconds=2 ** min(attempt, 4) * (1 + spread / 4))


def replays(attempt: int) -> int:
    """Return how often a message at this attempt has been replayed."""
    return attempt // ATTEMPTS


def last_attempt(attempt: int) -> int:
    """Return the last attempt in the life to which this one belongs."""
    return attempt - attempt % ATTEMPTS + LAST_ATTEMPT
