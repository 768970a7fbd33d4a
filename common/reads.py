"""
Reads that may lag: lists, exports, reports and the audit, which a standby can answer.

Nothing is read from a standby unless it is declared by this module: a read that a decision follows, or that a lock
guards, never is. The primary is read from where a service has no standby, where that lags too far or does not answer,
where the caller's own latest write has not come there, and within a transaction of the primary.

# Note [Whose write]: after a request that writes, its client's name is stored in the primary with the place that its
log has come to. Whoever lists something asks the primary for that place, by a primary key, and reads from the standby
if that has replayed the log up to there. All processes know it, no client has to send anything back, and no clock is
compared. It is stored after the commit, in a transaction of its own that waits for no disk: in the same one, the
requests of a busy client would wait for each other.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, TypeVar

from django.apps import apps
from django.conf import settings
from django.db import Error, connections, models
from django.utils.translation import gettext_lazy as _

from outbox.metrics import counter
from outbox.sqlstates import sqlstate_of

from .principal import Principal
from .standby import Standby, standby_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_NAME = 100
CANCELED = "57014"  # it took too long, as it would at the primary

READS = counter(
    "database_reads_total",
    "Reads that may lag, by where they were answered, and why if not by the standby: late, trouble, own_write, failed.",
    "database",
    "source",
    "reason",
)

NOTE = """
INSERT INTO {table} (principal, position, at)
SELECT %s, pg_current_wal_insert_lsn() - '0/0', clock_timestamp() FROM set_config('synchronous_commit', 'off', true)
ON CONFLICT (principal) DO UPDATE SET position = excluded.position, at = excluded.at
"""
# What is older than twice the lag that is allowed has come to every standby that is read from.
NOTED = "SELECT position FROM {table} WHERE principal = %s AND at > clock_timestamp() - make_interval(secs => %s)"

# How far it has come, if it is a standby.
REPLAYED = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() - '0/0' END"

_declared: ContextVar[frozenset[str]] = ContextVar("reads_may_lag", default=frozenset())


class LatestWrite(models.Model):
    """
    When a client has last written, and how far the log of the primary went then.

    Each service has a table of its own, which is written to only where the service has a standby.
    """

    principal = models.CharField(_("principal"), max_length=MAX_NAME, primary_key=True)
    position = models.BigIntegerField(_("position"))
    at = models.DateTimeField(_("at"))

    class Meta:
        abstract = True
        verbose_name = _("latest write")
        verbose_name_plural = _("latest writes")

    def __str__(self) -> str:
        return self.principal


def source_of(database: str) -> str:
    """Return the alias to read a database by: the standby's within a read that may lag, else its own."""
    if database not in _declared.get() or connections[database].in_atomic_block:
        return database
    return str(settings.STANDBYS[database])


def may_lag(read: Callable[[], T], *databases: str, who: str | None = None) -> T:
    """
    Return what `read` returns, which may be as it was `READ_LAG_MAX_SECONDS` ago.

    It is called again, for the primary, if a standby fails meanwhile: it changes nothing, and returns all that it has
    read.

    :param databases: that it may read from their standbys
    :param who: has asked, and sees what it has written itself; None if that is nobody who writes
    """
    standbys = list(filter(None, map(_standby, databases)))
    if not standbys:
        return read()
    try:
        with ExitStack() as stack:
            for standby in standbys:
                stack.enter_context(standby.reader())
            usable = [standby for standby in standbys if _has_come(standby, who)]
            if usable:
                found = _read_from(usable, read)
    except Error as error:
        if sqlstate_of(error) == CANCELED:
            raise
        logger.warning("A standby failed, and the primary is read from: %s", error)
        for standby in standbys:
            READS.labels(standby.database, "primary", "failed").inc()
            connections[standby.alias].close()
    else:
        if usable:
            return found
    return read()


def reads_may_lag(*databases: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Declare that what a method reads for a request may lag: see `may_lag`."""

    def declare(method: Callable[..., T]) -> Callable[..., T]:
        @wraps(method)
        def reading(self: Any, request: Any, *args: Any, **kwargs: Any) -> T:
            return may_lag(partial(method, self, request, *args, **kwargs), *databases, who=name_of(request))

        return reading

    return declare


def name_of(request: Any) -> str:
    """Return the name under which the writes of whoever makes a request are noted."""
    user = request.user
    if isinstance(user, Principal):
        return user.name
    return staff_name(user.get_username()) if user.is_authenticated else ""


def staff_name(username: str) -> str:
    """Return the name of a principal who works in the back office."""
    return f"staff:{username}"[:MAX_NAME]


def note_write(who: str) -> None:
    """Note that somebody has written, to whichever of the databases that have a standby."""
    for database in settings.STANDBYS:
        try:
            with connections[database].cursor() as cursor:
                cursor.execute(NOTE.format(table=_table(database)), [who])
        except Error as error:  # what was written is written
            logger.warning("A write could not be noted in %s: lists may not show it at once: %s", database, error)


def _standby(database: str) -> Standby | None:
    """The standby of a database if it may be asked now."""
    standby = standby_of(database)
    if standby is None or connections[database].in_atomic_block:
        return None
    standby.watch()
    if standby.trouble:
        READS.labels(database, "primary", "trouble").inc()
        return None
    return standby


def _has_come(standby: Standby, who: str | None) -> bool:
    """Whether a standby has what is older than the lag that is allowed, and what somebody has last written."""
    replayed, allowed = _number(standby.alias, REPLAYED), standby.position
    reason = ""
    if allowed is None or replayed is None or replayed < allowed:
        reason = "late"
    elif who is not None:
        noted = NOTED.format(table=_table(standby.database))
        if replayed < (_number(standby.database, noted, who, 2 * settings.READ_LAG_MAX_SECONDS) or 0):
            reason = "own_write"
    if reason:
        READS.labels(standby.database, "primary", reason).inc()
    return not reason


def _number(alias: str, query: str, *parameters: Any) -> int | None:
    """The one number of a query's answer, if there is one."""
    with connections[alias].cursor() as cursor:
        cursor.execute(query, parameters or None)
        found = cursor.fetchone()
    return None if found is None or found[0] is None else int(found[0])


def _read_from(standbys: list[Standby], read: Callable[[], T]) -> T:
    before = _declared.set(_declared.get() | {standby.database for standby in standbys})
    try:
        found = read()
    finally:
        _declared.reset(before)
    for standby in standbys:
        READS.labels(standby.database, "standby", "").inc()
    return found


def _table(database: str) -> str:
    return apps.get_model(database, "LatestWrite")._meta.db_table
