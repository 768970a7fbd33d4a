"""Exact sliding windows: so many within a minute, counted together by all processes that share a store."""

import hashlib
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

from django.conf import settings
from limits.storage import storage_from_string
from prometheus_client import Counter
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

SECONDS = 60
GIVE_REDIS = 0.25  # seconds to answer, then its windows are counted here
LEAVE_REDIS = 5.0  # seconds alone after it didn't

FALLBACKS = Counter("rate_limit_fallbacks", "Times that Redis was out of reach and a window was counted locally")


@dataclass(frozen=True)
class Window:
    """At most `limit` a minute for one `key`; `name` says for what, in the headers."""

    name: str
    key: str
    limit: int

    @property
    def stored_key(self) -> str:
        """The key as it is stored: who it was can't be read from it."""
        return f"orders:{self.name}:{hashlib.sha256(self.key.encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class Standing:
    """How much of a window is left, and when all of it is again."""

    window: Window
    remaining: int
    reset: int


class Store(Protocol):
    """Where windows are kept: Redis through the package `limits`, or the file below."""

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]: ...


def take(windows: Sequence[Window]) -> tuple[list[Standing], Standing | None]:
    """Count one in each window; how they stand, and the first one that was full, where counting ended."""
    standings = []
    for window in windows:
        admitted, standing = _counted(window)
        standings.append(standing)
        if not admitted:
            return standings, standing
    return standings, None


def headers(standings: Sequence[Standing]) -> dict[str, str]:
    """The RateLimit header fields (draft-ietf-httpapi-ratelimit-headers)."""
    if not standings:
        return {}
    return {
        "RateLimit-Policy": ", ".join(f'"{s.window.name}";q={s.window.limit};w={SECONDS}' for s in standings),
        "RateLimit": ", ".join(f'"{s.window.name}";r={s.remaining};t={s.reset}' for s in standings),
    }


def _counted(window: Window) -> tuple[bool, Standing]:
    global _alone_until
    if settings.REDIS_URL and time.monotonic() >= _alone_until:
        try:
            return _count(_shared(_redis, settings.REDIS_URL), window)
        except RedisError as error:
            # Note [Redis down]: orders are taken all the same, and each machine counts for itself meanwhile. Refusing
            # everybody would turn a small outage into a large one; not counting at all would open the door to all.
            _alone_until = time.monotonic() + LEAVE_REDIS
            FALLBACKS.inc()
            logger.warning("Redis is out of reach, rate limits are counted locally for %s s: %s", LEAVE_REDIS, error)
    return _count(_shared(_local, settings.RATE_LIMIT_FILE), window)


_alone_until = 0.0
_making = threading.Lock()


def _shared(make: Callable[[str], Store], where: str) -> Store:
    """The one store of this process; threads that ask first at the same time must not make two."""
    with _making:
        return make(where)


def _count(store: Store, window: Window) -> tuple[bool, Standing]:
    admitted = store.acquire_entry(window.stored_key, window.limit, SECONDS)
    oldest, taken = store.get_moving_window(window.stored_key, window.limit, SECONDS)
    reset = min(SECONDS, max(1, math.ceil(oldest + SECONDS - time.time() - 0.001)))  # Redis rounds its times
    return admitted, Standing(window, remaining=max(0, window.limit - taken) if admitted else 0, reset=reset)


@cache
def _redis(url: str) -> Store:
    options: dict[str, Any] = {"socket_timeout": GIVE_REDIS, "socket_connect_timeout": GIVE_REDIS}
    return cast(Store, storage_from_string(url, **options))


@cache
def _local(path: str) -> Store:
    return SharedFile(path or ":memory:")


class SharedFile:
    """The windows of all processes that share an SQLite file, or of this one alone in memory."""

    def __init__(self, path: str) -> None:
        self.lock = threading.Lock()
        self.connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
        self.connection.executescript(
            """
            PRAGMA journal_mode=WAL;
            PRAGMA synchronous=OFF;
            CREATE TABLE IF NOT EXISTS hits (key TEXT NOT NULL, at REAL NOT NULL);
            CREATE INDEX IF NOT EXISTS hits_by_key ON hits (key, at);
            CREATE INDEX IF NOT EXISTS hits_by_age ON hits (at);
            """
        )

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether there was service for one more; if so, it is counted."""
        with self.lock, self.connection as db:
            db.execute("BEGIN IMMEDIATE")
            now = time.time()
            db.execute("DELETE FROM hits WHERE at <= ?", [now - expiry])
            (taken,) = db.execute("SELECT count(*) FROM hits WHERE key = ?", [key]).fetchone()
            admitted: bool = taken + amount <= limit
            if admitted:
                db.executemany("INSERT INTO hits VALUES (?, ?)", [(key, now)] * amount)
            return admitted

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest one still counted came, and how many there are."""
        now = time.time()
        query = "SELECT coalesce(min(at), ?), count(*) FROM hits WHERE key = ? AND at > ?"
        with self.lock:
            oldest, taken = self.connection.execute(query, [now, key, now - expiry]).fetchone()
        return oldest, taken
