"""
What an error of PostgreSQL means for the work that met it: one table for consumers, relays, web, gRPC and tasks.

The longest prefix of the SQLSTATE decides. An error without one comes from the driver: the connection is gone, or
could not be made, or ended with the very answer to a COMMIT, which psycopg calls an internal error.
"""

import functools
import logging
from collections.abc import Callable
from enum import Enum
from typing import ParamSpec

import psycopg
from django.db import Error, InterfaceError, InternalError, OperationalError, connections

from . import metrics

logger = logging.getLogger(__name__)

P = ParamSpec("P")

LOCKED = {"55P03", "40P01"}  # a lock was not available in time, or two waited for each other


class Verdict(Enum):
    """
    What to do after an error of the database.

    REPEAT   The transaction lost to another one: run it again at once.
    WAIT     The database cannot do this now, whatever the work is. Wait and try again; it costs no attempt.
    RETRY    It may succeed later, but perhaps never: try again, and count the attempts.
    FAIL     The work itself is at fault.

    An endpoint answers the first three by 503 or UNAVAILABLE: the caller may try again.
    """

    REPEAT = "repeat"
    WAIT = "wait"
    RETRY = "retry"
    FAIL = "fail"


REPEAT, WAIT, RETRY, FAIL = Verdict.REPEAT, Verdict.WAIT, Verdict.RETRY, Verdict.FAIL

# fmt: off
VERDICTS: dict[str, Verdict] = {
    "08":    WAIT,    # the connection is gone
    "0A":    REPEAT,  # a column has changed its type since a statement was prepared: see store.py
    "25006": WAIT,    # read-only: a standby, a failover, or a provider that has run out of disk
    "25P03": WAIT,    # idle in a transaction for too long: this process was frozen or very slow
    "25P04": WAIT,    # a transaction that took too long
    "28":    WAIT,    # not let in: a password is being changed
    "3D":    WAIT,    # no such database: it is being restored
    "40":    REPEAT,  # serialization failure, deadlock
    "40002": FAIL,    # a constraint was violated at the commit
    "40003": WAIT,    # the connection was lost during a statement
    "53":    WAIT,    # no disk space, memory or connection left
    "55006": WAIT,    # in use by another session
    "55P03": WAIT,    # a lock was not available within lock_timeout
    "57":    WAIT,    # shutting down, starting, terminated by an administrator
    "57014": RETRY,   # canceled, perhaps by statement_timeout: too slow a statement never succeeds
    "58":    WAIT,    # the server's files or disk
    "72":    REPEAT,  # the snapshot is too old
    "XX":    RETRY,   # a fault of the server, perhaps with one row or index only
}
# fmt: on


READ_ONLY = "25006"
OF_ONE_SESSION = ("25P03", "25P04")  # which took too long
OF_CONNECTION = (
    OperationalError, InterfaceError, InternalError,
    psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError,
)  # fmt: skip


def sqlstate_of(error: BaseException) -> str:
    """Return the SQLSTATE of an error of Django or psycopg; "" if it has none."""
    for one in (error, error.__cause__):
        if state := getattr(one, "sqlstate", None):
            return str(state)
    return ""


def verdict_on(error: BaseException) -> Verdict:
    """Return what this error means. What is no error of the database is the fault of the work."""
    if not isinstance(error, Error | psycopg.Error):
        return FAIL
    state = sqlstate_of(error)
    if not state:
        return WAIT if isinstance(error, OF_CONNECTION) else FAIL
    return next((VERDICTS[state[:n]] for n in (5, 2) if state[:n] in VERDICTS), FAIL)


def is_unavailable(error: BaseException) -> bool:
    """Whether the database is why this failed, so that trying again later can help."""
    return verdict_on(error) is not FAIL


def note(error: BaseException, *, where: str) -> None:
    """Count an error for which the database is to blame, log it in one line, and let go of a lost connection."""
    state = sqlstate_of(error) or "none"
    metrics.DATABASE_ERRORS.labels(state).inc()
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    logger.warning("%s: the database cannot do this now (SQLSTATE %s): %s", where, state, first)
    let_go(error)


def let_go(error: BaseException) -> None:
    """
    Close this thread's connections outside of transactions after an error that may stay with the session.

    # Note [Why the session is given up]: after a failover a connection may lead to what is a standby now, and a
    # session may have been made read-only. A new connection finds out; a pool would hand out the old one again.
    # Where one session was lost, the others of its pool are as well, and each would cost a request an error.
    """
    state = sqlstate_of(error)
    if verdict_on(error) is not WAIT or state.startswith(("55", "53")):
        return
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and not connection.in_atomic_block:
            is_lost = state == READ_ONLY or (connection.connection.broken and state not in OF_ONE_SESSION)
            connection.connection.close()  # the real one, so that a pool drops it
            connection.close()
            if is_lost and (pool := getattr(connection, "pool", None)):
                pool.drain()


def skip_while_unavailable(task: Callable[P, None]) -> Callable[P, None]:
    """Return this periodic task, which does nothing more if its database is unavailable: the next tick tries again."""

    @functools.wraps(task)
    def skipping(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            task(*args, **kwargs)
        except Error as error:
            if not is_unavailable(error):
                raise
            note(error, where=f"{task.__module__}.{task.__name__}")

    return skipping
