"""Transactions that the database ended in favor of another: run again at once."""

import functools
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import Error, connections

from .sqlstates import Verdict, verdict_on

P = ParamSpec("P")
R = TypeVar("R")

ATTEMPTS = 5


def retry_on_conflict(work: Callable[P, R]) -> Callable[P, R]:
    """Return this work, run again a few times when the database ended it in favor of another transaction."""

    @functools.wraps(work)
    def retried(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return work(*args, **kwargs)
            except Error as error:
                inside_another = any(
                    connection.in_atomic_block for connection in connections.all(initialized_only=True)
                )
                if attempt == ATTEMPTS or inside_another or verdict_on(error) is not Verdict.REPEAT:
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise AssertionError("unreachable")

    return retried
