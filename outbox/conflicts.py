"""Transactions that the database ended in favor of another: run again at once."""

import functools
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import OperationalError, connections

P = ParamSpec("P")
R = TypeVar("R")

LOST_TO_ANOTHER = {"40001", "40P01"}  # serialization failure, deadlock
ATTEMPTS = 5


def lost_to_another(error: BaseException) -> bool:
    """Whether the database ended this transaction in favor of another, so that it can simply be run again."""
    return getattr(error.__cause__, "sqlstate", None) in LOST_TO_ANOTHER


def retry_on_conflict(work: Callable[P, R]) -> Callable[P, R]:
    """Return this work, run again a few times when the database ended it in favor of another transaction."""

    @functools.wraps(work)
    def retried(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return work(*args, **kwargs)
            except OperationalError as error:
                inside_another = any(
                    connection.in_atomic_block for connection in connections.all(initialized_only=True)
                )
                if attempt == ATTEMPTS or inside_another or not lost_to_another(error):
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise AssertionError("unreachable")

    return retried
