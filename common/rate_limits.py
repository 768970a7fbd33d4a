"""Exact sliding-window rate limits, counted together by all processes that share a store."""

import hashlib
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol, TypeVar, cast

from django.conf import settings
from limits.storage import storage_from_string
from prometheus_client import Counter
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)
T = TypeVar("T")

MINUTE = 60
REDIS_TIMEOUT = 0.25  # seconds; after that the limits are counted on this machine
REDIS_PAUSE = 5.0  # seconds without Redis after it failed

FALLBACKS = Counter("rate_limit_fallbacks", "Times that Redis was out of reach and a limit was counted locally.")


@dataclass(frozen=True)
class RateLimit:
    """At most `maximum` requests within `seconds` for one `key`. `name` says in the headers what the key is."""

    name: str
    key: str
    maximum: int
    seconds: int = MINUTE

    @property
    def stored_key(self) -> str:
        """The key as it is stored: a hash, so that nobody can read from it who called."""
        return f"orders:{self.name}:{hashlib.sha256(self.key.encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class Standing:
    """How much of a limit is left, and in how many seconds all of it is available again."""

    limit: RateLimit
    remaining: int
    reset: int


class Store(Protocol):
    """Where requests are counted: in Redis through the package `limits`, or in the file below."""

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]: ...

    def clear(self, key: str) -> None: ...


def count_against(limits: Sequence[RateLimit]) -> tuple[list[Standing], Standing | None]:
    """
    Count one request against each limit, up to the first one that is reached.

    Returns the standings of the limits that were counted, and the standing of the one that was reached, if any.
    """
    standings = []
    for limit in limits:
        admitted, standing = _in_store(partial(_count, limit=limit))
        standings.append(standing)
        if not admitted:
            return standings, standing
    return standings, None


def standing_of(limit: RateLimit) -> Standing:
    """How much of a limit is left, without counting a request."""
    return _in_store(partial(_standing, limit=limit))


def forget(limit: RateLimit) -> None:
    """Forget what was counted against a limit."""
    _in_store(lambda store: store.clear(limit.stored_key))


def headers(standings: Sequence[Standing]) -> dict[str, str]:
    """The RateLimit header fields (draft-ietf-httpapi-ratelimit-headers)."""
    if not standings:
        return {}
    return {
        "RateLimit-Policy": ", ".join(f'"{s.limit.name}";q={s.limit.maximum};w={s.limit.seconds}' for s in standings),
        "RateLimit": ", ".join(f'"{s.limit.name}";r={s.remaining};t={s.reset}' for s in standings),
    }


def _in_store(ask: Callable[[Store], T]) -> T:
    global _without_redis_until
    if settings.REDIS_URL and time.monotonic() >= _without_redis_until:
        try:
            return ask(_shared(_redis, settings.REDIS_URL))
        except RedisError as error:
            # Note [Redis down]: orders are still accepted, and each machine counts for itself meanwhile. To refuse
            # everybody would turn a small outage into a large one; not to count at all would lift every limit.
            _without_redis_until = time.monotonic() + REDIS_PAUSE
            FALLBACKS.inc()
            logger.warning("Redis is out of reach; rate limits are counted locally for %s s: %s", REDIS_PAUSE, error)
    return ask(_shared(_local, settings.RATE_LIMIT_FILE))


_without_redis_until = 0.0
_creating = threading.Lock()


def _shared(create: Callable[[str], Store], where: str) -> Store:
    """The one store of this process; threads that ask for it first at the same time must not create two."""
    with _creating:
        return create(where)


def _count(store: Store, *, limit: RateLimit) -> tuple[bool, Standing]:
    admitted = store.acquire_entry(limit.stored_key, limit.maximum, limit.seconds)
    standing = _standing(store, limit=limit)
    return admitted, standing if admitted else replace(standing, remaining=0)


def _standing(store: Store, *, limit: RateLimit) -> Standing:
    oldest, taken = store.get_moving_window(limit.stored_key, limit.maximum, limit.seconds)
    reset = math.ceil(oldest + limit.seconds - time.time() - 0.001)  # Redis rounds its times
    return Standing(limit, remaining=max(0, limit.maximum - taken), reset=min(limit.seconds, max(1, reset)))


@cache
def _redis(url: str) -> Store:
    options: dict[str, Any] = {"socket_timeout": REDIS_TIMEOUT, "socket_connect_timeout": REDIS_TIMEOUT}
    return cast(Store, storage_from_string(url, **options))


@cache
def _local(path: str) -> Store:
    return SharedFile(path or ":memory:")


class SharedFile:
    """Counts for all processes that share an SQLite file, or in memory for this process alone."""

    def __init__(self, path: str) -> None:
        self.lock = threading.Lock()
        self.connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
        self.connection.executescript(
            """
            PRAGMA journal_mode=WAL;
            PRAGMA synchronous=OFF;
            CREATE TABLE IF NOT EXISTS entries (key TEXT NOT NULL, at REAL NOT NULL, until REAL NOT NULL);
            CREATE INDEX IF NOT EXISTS entries_by_key ON entries (key, at);
            CREATE INDEX IF NOT EXISTS entries_by_end ON entries (until);
            """
        )

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` requests if the limit allows them; return whether it did."""
        with self.lock, self.connection as db:
            db.execute("BEGIN IMMEDIATE")
            now = time.time()
            db.execute("DELETE FROM entries WHERE until <= ?", [now])
            (taken,) = db.execute("SELECT count(*) FROM entries WHERE key = ?", [key]).fetchone()
            admitted: bool = taken + amount <= limit
            if admitted:
                db.executemany("INSERT INTO entries VALUES (?, ?, ?)", [(key, now, now + expiry)] * amount)
            return admitted

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The time of the oldest request that still counts, and the number of those that count."""
        now = time.time()
        query = "SELECT coalesce(min(at), ?), count(*) FROM entries WHERE key = ? AND at > ?"
        with self.lock:
            oldest, taken = self.connection.execute(query, [now, key, now - expiry]).fetchone()
        return oldest, taken

    def clear(self, key: str) -> None:
        """Forget what was counted for a key."""
        with self.lock:
            self.connection.execute("DELETE FROM entries WHERE key = ?", [key])
