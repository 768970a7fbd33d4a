"""Statements that end with their caller: no statement of a call, in any database, runs longer than the client waits."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.conf import settings
from django.db import connections, transaction
from psycopg.pq import TransactionStatus

LEAST = 1  # millisecond: 0 would be no limit


@contextmanager
def statements_end_in(seconds: float) -> Iterator[None]:
    """
    Within this, every transaction of this thread begins with the time that is left as the limit of its statements.

    # Note [SET LOCAL]: what is set for a session stays there for the next user of its connection, behind PgBouncer too.
    # A statement on its own gets a transaction, so that there is something to which the limit can be local.
    """
    ends_at = time.monotonic() + seconds

    def limited(execute: Callable[..., Any], sql: Any, parameters: Any, many: bool, context: dict[str, Any]) -> Any:
        connection = context["connection"]
        if not connection.in_atomic_block:
            with transaction.atomic(using=connection.alias):
                return limited(execute, sql, parameters, many, context)
        raw = connection.connection
        if raw.info.transaction_status == TransactionStatus.IDLE:
            left = max(LEAST, int((ends_at - time.monotonic()) * 1000))
            with connection.wrap_database_errors:
                raw.execute(f"SET LOCAL statement_timeout = {min(left, _limit())}")
        return execute(sql, parameters, many, context)

    with ExitStack() as stack:
        for alias in (*settings.DATABASES_HERE, *settings.STANDBYS.values()):
            stack.enter_context(connections[alias].execute_wrapper(limited))
        yield


def _limit() -> int:
    """The limit of every session in milliseconds, which no call exceeds."""
    return int(settings.DATABASE_LIMITS.statement * 1000)
