"""Transactions that lost to another one: done again at once."""

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
    """Whether the database ended this transaction in favour of another, so that it can simply be done again."""
    return getattr(error.__cause__, "sqlstate", None) in LOST_TO_ANOTHER


def retry_on_conflict(work: Callable[P, R]) -> Callable[P, R]:
    """Does the whole of this work again, some times, when the database ended it in favour of another transaction."""

    @functools.wraps(work)
    def settled(*args: P.args, **kwargs: P.kwargs) -> R:
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

    return settled
