"""What the databases of this region are and could be: standbys of another region's, or primaries."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
from django.conf import settings
from django.db import Error, connections
from psycopg.conninfo import conninfo_to_dict

from orders_project.silent_servers import answers

CONNECT_SECONDS = 5
STATE = """
SELECT pg_is_in_recovery(), system_identifier::text, pg_postmaster_start_time(), clock_timestamp(),
    pg_last_xact_replay_timestamp(), EXISTS (SELECT FROM pg_stat_wal_receiver), pg_last_wal_receive_lsn()::text,
    coalesce(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), 0)::bigint
FROM pg_control_system()
"""
MAY_PROMOTE = "SELECT has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE')"
ELSEWHERE = """
SELECT system_identifier::text, pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean,
    CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn()::text END
FROM pg_control_system()
"""
WAITS_FOR = """
SELECT current_setting('synchronous_standby_names') WHERE NOT EXISTS (SELECT FROM pg_stat_replication)
"""
READ_ONLY = "SELECT current_setting('transaction_read_only')::boolean"


class NotPossible(Exception):
    """A region cannot be promoted like that; says why and what to do."""


@dataclass(frozen=True)
class Database:
    """A database of this region, as it was a moment ago."""

    alias: str
    is_standby: bool
    system: str  # the same for a primary and all of its standbys
    server: tuple[str, datetime]
    now: datetime
    replayed_at: datetime | None  # the time of the last commit that came from the other region, if it is known
    receives: bool  # whether a server of the other region sends to it
    received: str | None  # how far
    unreplayed: int  # bytes that it has received and not applied

    @classmethod
    def look(cls, alias: str) -> Self:
        """
        Ask a database what it is.

        :raises NotPossible: if it does not answer
        """
        try:
            is_standby, system, started, *rest = _ask(alias, STATE)
        except Error as error:
            raise NotPossible(f"the database {alias} does not answer: {_in_short(error)}") from error
        return cls(alias, is_standby, system, (system, started), *rest)

    def promote(self, *, seconds: int) -> None:
        """
        Make the server of a standby a primary; what it has received is applied first.

        :raises NotPossible: if it may not be, or is not one after so many seconds
        """
        if not _ask(self.alias, MAY_PROMOTE)[0]:
            raise NotPossible(
                f"the role in the address of {self.alias} may not promote its server: GRANT EXECUTE ON FUNCTION"
                " pg_promote TO it, on the first region, or promote the server by what manages it; then run this again"
            )
        try:
            (is_promoted,) = _ask(self.alias, "SELECT pg_promote(true, %s)", seconds)
        except Error as error:  # somebody else has promoted it meanwhile
            raise NotPossible(f"{self.alias} was not promoted ({_in_short(error)}): run this again") from error
        if not is_promoted:
            raise NotPossible(f"{self.alias} is still applying what it has received after {seconds} s: run this again")

    def must_accept_writes(self) -> None:
        """
        Commit something; do nothing else.

        :raises NotPossible: if nothing can be committed there
        """
        waits_for = next(iter(_ask(self.alias, WAITS_FOR)), "")
        if waits_for:
            raise NotPossible(
                f"every commit in {self.alias} would wait for the standby {waits_for!r}, which is not there: ALTER"
                " SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf(); then run this again"
            )
        if _ask(self.alias, READ_ONLY)[0]:
            raise NotPossible(f"{self.alias} is set to read only: ALTER DATABASE … RESET default_transaction_read_only")
        _ask(self.alias, "SELECT pg_current_xact_id()::text")


def of_this_region() -> list[Database]:
    """
    Ask every database what it is.

    :raises NotPossible: if one does not answer
    """
    return [Database.look(alias) for alias in settings.DATABASES_HERE]


def by_server(databases: Iterable[Database]) -> dict[tuple[str, datetime], list[Database]]:
    """Return the databases of each server."""
    found: dict[tuple[str, datetime], list[Database]] = {}
    for database in databases:
        found.setdefault(database.server, []).append(database)
    return found


@dataclass(frozen=True)
class Elsewhere:
    """A database of the other region."""

    name: str
    state: str
    is_up: bool = False  # whether it may be written to, for all that is known
    system: str = ""
    written: str | None = None  # how far, if it is a primary

    @classmethod
    def look(cls, url: str) -> Self:
        """
        Ask it.

        # Note [It answers others]: an error of ours (a password, a certificate, a right that we lack) says nothing of
        # what others may do there. Only where no connection is taken, nobody answers.

        :raises NotPossible: if that is no address
        """
        try:
            server = conninfo_to_dict(url)
        except psycopg.Error as error:
            raise NotPossible(f"OTHER_REGION_DATABASE_URLS: {_in_short(error)}") from error
        parts = urlsplit(url)
        name = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
        try:
            with psycopg.connect(url, connect_timeout=CONNECT_SECONDS, autocommit=True) as connection:
                ((system, is_closed, written),) = connection.execute(ELSEWHERE).fetchall()
        except psycopg.Error as error:
            if answers(str(server["host"]), int(server.get("port") or 5432)):
                return cls(name, f"is there and refuses us ({_in_short(error)})", is_up=True)
            return cls(name, "does not answer")
        return cls(name, "takes no writes" if is_closed else "can be written to", not is_closed, system, written)

    def ahead_of(self, database: Database) -> int | None:
        """Return by how many bytes it is ahead of what its standby has received, if it is its primary."""
        if self.system != database.system or self.written is None or database.received is None:
            return None
        return max(0, _position(self.written) - _position(database.received))


def of_the_other() -> list[Elsewhere]:
    """Ask those of the other region whose addresses are known."""
    return [Elsewhere.look(url) for url in settings.OTHER_REGION_DATABASE_URLS]


def age_of_last_commit(database: Database) -> timedelta | None:
    """Return how long ago the last commit was that came from the other region."""
    return None if database.replayed_at is None else database.now - database.replayed_at


def _position(lsn: str) -> int:
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _ask(alias: str, sql: str, *parameters: Any) -> tuple[Any, ...]:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return tuple(cursor.fetchone() or ())


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
