"""Whom a session of PostgreSQL waits for, said by a second session while it waits."""

import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from django.db import Error, connections

BLOCKING = """
SELECT blocking.pid, blocking.usename, blocking.application_name, coalesce(blocking.state, ''),
       coalesce(extract(epoch FROM clock_timestamp() - blocking.xact_start), 0), coalesce(blocking.query, ''),
       (SELECT string_agg(DISTINCT coalesce(wanted.relation::regclass::text, wanted.locktype), ', ')
        FROM pg_locks wanted WHERE wanted.pid = waiting.pid AND NOT wanted.granted)
FROM pg_stat_activity waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS by(pid)
JOIN pg_stat_activity blocking ON blocking.pid = by.pid
WHERE waiting.pid = %s AND waiting.wait_event_type = 'Lock'
ORDER BY blocking.xact_start
"""
LITERAL = re.compile(r"'(?:[^']|'')*(?:'|$)")
LONGEST = 160  # characters of a query that are shown


class LockWatch:
    """Looks, while the block runs, whom the session with this pid waits for, and says so once for each of them."""

    def __init__(self, alias: str, *, pid: int, every: float, say: Callable[[str], None]) -> None:
        self._alias, self._pid, self._every, self._say = alias, pid, every, say
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"lock watch {alias}", daemon=True)

    def __enter__(self) -> "LockWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        connection = connections[self._alias].copy()
        known: set[tuple[Any, ...]] = set()
        try:
            while not self._ended.wait(self._every):
                with connection.cursor() as cursor:
                    cursor.execute(BLOCKING, [self._pid])
                    rows = cursor.fetchall()
                for pid, user, application, state, seconds, query, wanted in rows:
                    if (wanted, pid, query) not in known:
                        known.add((wanted, pid, query))
                        by = f"{user}, {application}" if application else user
                        self._say(
                            f"waits for {wanted}, which process {pid} holds"
                            f" ({by}; {state}, begun {seconds:.0f} s ago): {without_values(query)}"
                        )
        except Error as trouble:
            self._say(f"nobody looks whom it waits for: {type(trouble).__name__}")
        finally:
            connection.close()


def without_values(query: str) -> str:
    """Return a query in one line, shortened and without its literals, which may be secrets or names of people."""
    text = " ".join(LITERAL.sub("'…'", query).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
