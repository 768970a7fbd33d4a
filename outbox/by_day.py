"""
Outbox and inbox in partitions by day, where `manage.py messages_by_day` has made them so: a day goes as a whole.

Their keys are UUIDv7, which begin with the time of posting. So a table that is partitioned by ranges of its key has a
partition for each day, and its key is unique over all of them: every id belongs to one partition. Nothing that reads or
writes the table has to know. Besides the days there is the rest, where rows go that no day is there for.

# Note [The rest]: when a day goes, the rows of it that have to stay move there in the same transaction. So no row is
ever missing, nor there twice. The rest is purged by deleting, as the whole table is where there are no days. If nobody
makes days ahead, rows go there as well; a day that has begun so stays there.

# Note [Who waits]: to drop a day takes a lock that excludes everybody, so it must be short and must be had soon. All of
it is one round trip, which the server brings to an end whatever becomes of its client. What has to stay is found by
indexes: each day has one of the rows that came late, made with the day, and so empty until one does. What would take
longer to find is looked for before. Who does not get the lock at once gives up, and tries again minutes later.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import OperationalError, connections
from django.db.models import Q, QuerySet

from .ids import floor7
from .sqlstates import LOCKED, sqlstate_of

logger = logging.getLogger(__name__)

AHEAD = 2  # days that are made before they begin
LATE = timedelta(hours=1)  # after the end of a day, from which on rows are in its index of those that came late
MOST = 10_000  # rows of a day that move; if more of them have to stay, it is purged by deleting
TOO_LARGE, TOO_SLOW = "55000", "57014"
AGAIN = 3600.0  # seconds until it is tried again to drop a day of which too many rows had to stay
PAUSE = 300.0  # seconds until the next try where one got no lock
NIL = UUID(int=0)

# A promise without partitions was left behind by a conversion that died: see by_day_ddl.py.
PARTS = """
SELECT part, first, bound FROM outbox_parts(%(table)s)
UNION ALL SELECT '', NULL, NULL FROM pg_constraint
WHERE conrelid = to_regclass(%(table)s) AND conname = %(table)s || '_by_day'
  AND NOT EXISTS (SELECT FROM outbox_parts(%(table)s))
"""
MAKE = "SELECT outbox_make_days(%s, %s)"
DROP = """
SELECT set_config('lock_timeout', '200ms', true);
LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE;
SELECT set_config('outbox.staying', ARRAY({late} UNION SELECT unnest(%s::uuid[]))::text, true);
SELECT outbox_drop_day(%s, %s, current_setting('outbox.staying')::uuid[])
"""

_paused: dict[tuple[str, str], float] = {}  # by database and table: until then nothing is tried
_crowded: dict[tuple[str, str], float] = {}  # by database and partition: until then its rows are deleted


def _is_put_off(what: dict[tuple[str, str], float], using: str, name: str) -> bool:
    return time.monotonic() < what.get((using, name), 0.0)


@dataclass(frozen=True)
class Part:
    """A partition: the ids from `first` to before `bound`."""

    name: str
    first: UUID
    bound: UUID

    @property
    def rows(self) -> Q:
        return Q(pk__gte=self.first, pk__lt=self.bound)


@dataclass(frozen=True)
class ByDay:
    """The partitions of a table of one database."""

    using: str
    table: str
    parts: Sequence[Part]
    is_left_behind: bool = False  # whether a conversion has died here

    @classmethod
    def of(cls, using: str, table: str) -> "ByDay":
        """Return how a table is partitioned; one that is not has no parts."""
        with connections[using].cursor() as cursor:
            cursor.execute(PARTS, {"table": table})
            found = cursor.fetchall()
        parts = (Part(name, first or NIL, bound) for name, first, bound in found if name)
        return cls(using, table, sorted(parts, key=lambda part: part.bound), ("", None, None) in found)

    def over(self, *, before: datetime) -> list[Part]:
        """Return the days that ended so long before this time that what came later is in their index."""
        return [part for part in self.parts if part.bound <= floor7(before - LATE)]

    def rest(self) -> Q:
        """
        Return the condition for rows that are deleted one by one: those that are in no day that will be dropped.

        What comes before all days is several of them, and would stay too long if it was only dropped.
        """
        condition = Q()
        for day in self.parts:
            if day.first != NIL and not _is_put_off(_crowded, self.using, day.name):
                condition &= Q(pk__lt=day.first) | Q(pk__gte=day.bound)
        return condition

    def make(self, *, now: datetime) -> int:
        """Make the days to come; return how many were missing. None is, where the table is not partitioned."""
        until = now.astimezone(UTC).date() + timedelta(days=AHEAD)
        end = floor7(datetime(until.year, until.month, until.day, tzinfo=UTC) + timedelta(days=1))
        is_complete = not self.parts or self.parts[-1].bound >= end
        if (is_complete and not self.is_left_behind) or self._is_paused:
            return 0
        return self._try(MAKE, self.table, until) or 0

    def drop(self, part: Part, *, late: Sequence[QuerySet[Any]], early: Iterable[QuerySet[Any]]) -> None:
        """
        Drop a day, but for rows that have to stay; if very many have to, let it be purged by deleting.

        :param late: the rows that have to stay and are found quickly
        :param early: others, of which it does not matter if they change in the next instant
        """
        if self._is_paused or _is_put_off(_crowded, self.using, part.name):
            return
        keys = self._keys(part, (*late, *early))
        if keys is None:
            logger.info("%s: %s is purged row by row: very many rows of it have to stay", self.using, part.name)
            _crowded[self.using, part.name] = time.monotonic() + AGAIN
            return
        asked = [rows.filter(part.rows).values("pk").query.sql_with_params() for rows in late]
        sql = DROP.format(table=self.table, late=" UNION ".join(f"({statement})" for statement, _ in asked))
        parameters = [one for _, some in asked for one in some]
        kept = self._try(sql, *parameters, list(keys), self.table, part.name)
        if kept is not None:
            logger.info("%s: dropped %s, of which %d rows stay", self.using, part.name, kept)

    def _keys(self, part: Part, staying: Iterable[QuerySet[Any]]) -> set[UUID] | None:
        """Return the keys of rows of a day that have to stay, or None if there are too many, or it takes too long."""
        keys: set[UUID] = set()
        try:
            for rows in staying:
                keys |= set(rows.filter(part.rows).values_list("pk", flat=True)[: MOST + 1])
        except OperationalError as error:
            if sqlstate_of(error) != TOO_SLOW:
                raise
            return None
        return keys if len(keys) <= MOST else None

    @property
    def _is_paused(self) -> bool:
        return _is_put_off(_paused, self.using, self.table)

    def _try(self, sql: str, *parameters: Any) -> int | None:
        """Run this and return its last value, or None if somebody was in the way: then there is a pause."""
        try:
            with connections[self.using].cursor() as cursor:
                cursor.execute(sql, parameters)
                while cursor.nextset():
                    pass
                return cursor.fetchone()[0]
        except OperationalError as error:
            if sqlstate_of(error) not in {*LOCKED, TOO_LARGE}:
                raise
            say = logger.warning if sqlstate_of(error) == TOO_LARGE else logger.info
            say("%s: days of %s are put off: %s", self.using, self.table, str(error).splitlines()[0])
            _paused[self.using, self.table] = time.monotonic() + PAUSE
            return None
