"""
A standby of a database: how far it is behind the primary, measured about once a second while somebody reads from it.

# Note [Complete until]: a standby answers with what it has replayed, and cannot know what was written since. So the
primary is asked first how far its log goes, and then the standby how far it has come. Once it has come that far, it has
everything that was committed before the primary was asked. No clocks of two hosts are compared, and a primary that
writes nothing makes no standby late, as it would if the lag were the age of the last transaction.

# Note [Each connection is asked]: an address may stand for several standbys, and what was measured is a second old. So
before something is read, the connection that it is read by is asked how far its server has come.

# Note [A thread measures]: whoever reads from a server that is frozen waits, and can measure nothing. The thread finds
out, and ends the connections of those who wait: they read from the primary then.
"""

import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
from django.conf import settings
from django.db import connections

from outbox import sessions
from outbox.clock import ticks
from outbox.metrics import gauge

logger = logging.getLogger(__name__)

EVERY = 1.0  # seconds
TIMEOUT = 2  # seconds for each answer
MARKS = 600  # places in the primary's log that are remembered at least

LAG = gauge(
    "database_standby_lag_seconds",
    "How far a standby is behind its primary at most, as the process says that sees it the furthest behind.",
    "database",
    over_processes="livemax",
)
UP = gauge(
    "database_standby_up",
    "Whether a standby answers and is one of its primary's, for every process that reads from it.",
    "database",
    over_processes="livemin",
)

WHICH = """
(SELECT system_identifier FROM pg_control_system()), (SELECT oid FROM pg_database WHERE datname = current_database())
"""
OF_PRIMARY = f"SELECT {WHICH}, pg_current_wal_flush_lsn() - '0/0', extract(epoch FROM clock_timestamp())"  # noqa: S608
OF_STANDBY = f"""
SELECT {WHICH}, coalesce(pg_last_wal_replay_lsn() - '0/0', 0), extract(epoch FROM pg_last_xact_replay_timestamp()),
       pg_is_in_recovery()
"""  # noqa: S608 - constants


class NoStandby(Exception):
    """What answers is no standby of this database."""


class Standby:
    """
    The standby of a service's database, as this process sees it.

    `trouble` says why it cannot be read from, and `bytes_behind` how much of the primary's log it had not replayed when
    it was last asked.
    """

    def __init__(self, database: str, alias: str) -> None:
        self.database, self.alias = database, alias
        self.trouble = "is not measured yet"
        self.bytes_behind = 0
        self.complete_until: float | None = None  # by `ticks`
        self._marks: deque[tuple[float, int]] = deque()  # how far the primary's log went, and when
        self._readers: dict[int, Any] = {}  # connections, by their threads
        self._measured, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._starts = threading.Lock()

    @property
    def lag(self) -> float | None:
        """How many seconds it is behind at most; None if that is not known."""
        return None if self.complete_until is None else max(0.0, ticks() - self.complete_until)

    @property
    def is_late(self) -> bool:
        """Whether it may be further behind than is allowed."""
        return self.lag is None or self.lag > settings.READ_LAG_MAX_SECONDS

    @property
    def position(self) -> int | None:
        """How far a standby has to have come to be no further behind than is allowed; None if that is not known."""
        since = ticks() - settings.READ_LAG_MAX_SECONDS
        return next((position for at, position in list(self._marks) if at >= since), None)

    def in_words(self) -> str:
        """Return why it is not read from, after its name; nothing if it is."""
        if self.trouble or not self.is_late:
            return self.trouble
        return "is not known to be complete" if self.lag is None else f"is {self.lag:.0f} s behind"

    def watch(self) -> None:
        """Have it measured from now on by a thread of this process; wait for the first time, for a moment."""
        with self._starts:
            if self._thread is None or not self._thread.is_alive():  # also in the child of a process that measured
                self._thread = threading.Thread(target=self._measure, name=f"standby-{self.database}", daemon=True)
                self._thread.start()
        self._measured.wait(TIMEOUT)

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Within this, the reads of this thread end if the standby stops answering."""
        me = threading.get_ident()
        self._readers[me] = connections[self.alias]
        try:
            yield
        finally:
            self._readers.pop(me, None)

    def end(self) -> None:
        """Measure no more, for good."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Measure once, now. Whatever goes wrong is the standby's `trouble`."""
        with _Connections() as asked:
            self._look(asked)

    def _measure(self) -> None:
        with _Connections() as asked:
            while not self._ended.is_set():
                self._look(asked)
                self._ended.wait(EVERY)

    def _look(self, asked: "_Connections") -> None:
        try:
            self._compare(asked)
        except (psycopg.Error, OSError, NoStandby) as error:
            asked.close()
            trouble = str(error) if isinstance(error, NoStandby) else "does not answer"
            if trouble != self.trouble:
                logger.warning("The standby of %s %s: the primary is read from.", self.database, trouble)
            self.trouble = trouble
            if isinstance(error, TimeoutError):
                self._end_readers()
        else:
            if self.trouble:
                logger.info("The standby of %s answers.", self.database)
            self.trouble = ""
        self._measured.set()
        UP.labels(self.database).set(not self.trouble)
        if self.lag is not None:
            LAG.labels(self.database).set(self.lag)

    def _compare(self, asked: "_Connections") -> None:
        at = ticks()
        try:
            *of_primary, flushed, now = asked.rows(self.database, OF_PRIMARY)
        except (psycopg.Error, OSError) as error:
            raise NoStandby("cannot be compared with its primary") from error
        *of_standby, replayed, last, recovering = asked.rows(self.alias, OF_STANDBY)
        if of_primary != of_standby:
            raise NoStandby("is one of another database")
        if recovering != "t":
            raise NoStandby("is a primary")
        self.bytes_behind = max(0, int(flushed) - int(replayed))
        self._marks.append((at, int(flushed)))
        self.complete_until = max(
            (at for at, position in self._marks if position <= int(replayed)), default=self.complete_until
        )
        while len(self._marks) > MARKS and self._marks[0][0] < at - settings.READ_LAG_MAX_SECONDS:
            self._marks.popleft()
        if self.complete_until is None and last:  # both by the primary's clock
            self.complete_until = at - max(0.0, float(now) - float(last))

    def _end_readers(self) -> None:
        for connection in list(self._readers.values()):
            if (raw := connection.connection) is not None:
                with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(raw.fileno())) as there:
                    there.shutdown(socket.SHUT_RDWR)


class _Connections:
    """Connections to the primary and its standby, each of whose answers is waited for as long as `TIMEOUT`."""

    def __init__(self) -> None:
        self._open: dict[str, psycopg.Connection[Any]] = {}

    def __enter__(self) -> "_Connections":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        with ExitStack() as stack:
            for connection in self._open.values():
                stack.callback(connection.close)
        self._open = {}

    def rows(self, alias: str, query: str) -> list[str]:
        """
        Ask one of the two, and return the one row of the answer as texts.

        :raises TimeoutError: if there is no answer in time
        """
        if alias not in self._open:
            self._open[alias] = sessions.connect(connections[alias], connect_timeout=TIMEOUT)
        asked = self._open[alias].pgconn
        asked.send_query(query.encode())
        ends = ticks() + TIMEOUT
        while asked.flush() or asked.is_busy():
            answers = select.poll()
            answers.register(asked.socket, select.POLLIN)
            if not answers.poll(max(0.0, ends - ticks()) * 1000):
                raise TimeoutError
            asked.consume_input()
        answer = asked.get_result()
        while asked.get_result() is not None:
            pass
        if answer is None or answer.status != psycopg.pq.ExecStatus.TUPLES_OK:
            raise psycopg.OperationalError(answer.error_message.decode() if answer else "")
        return [(answer.get_value(0, column) or b"").decode() for column in range(answer.nfields)]


_standbys: dict[str, Standby] = {}


def standby_of(database: str) -> Standby | None:
    """The standby of this database that may be read from here, if there is one."""
    alias = settings.STANDBYS.get(database)
    if alias is None:
        return None
    return _standbys.setdefault(database, Standby(database, alias))
