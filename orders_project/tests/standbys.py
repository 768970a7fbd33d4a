"""A real standby of the server of this run: a base backup that streams."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.db import connections

from orders_project.embedded import places, postgres_sources, processes
from orders_project.embedded.postgres import FOR_TESTS, USER, Postgres

from .process_tree import family

READ_ONLY = " -c default_transaction_read_only=on"


class Streaming:
    """A standby, whose replay can be held and which can be killed, frozen and started again."""

    def __init__(self, primary: Postgres, home: Path) -> None:
        self.primary, self.server = primary, Postgres(home, settings=FOR_TESTS)
        home.mkdir(mode=0o711)
        (home / "password").write_text(primary.password)
        data = postgres_sources.data_of(home)
        data.mkdir(mode=0o700)
        if (owner := places.server_user()) is not None:
            os.chown(data, owner.pw_uid, owner.pw_gid)
        user = f"postgres://{USER}:{primary.password}@127.0.0.1:{primary.port}/postgres"
        done = primary.installation.run("pg_basebackup", "-d", user, "-D", data, "--checkpoint=fast", "-R")
        assert done.returncode == 0, done.stderr
        self.server.start()

    def hold(self) -> None:
        """Let it replay nothing more, after all that is committed by now."""
        self.catch_up()
        self._tell("SELECT pg_wal_replay_pause()")
        processes.wait_until(lambda: self._tell("SELECT pg_get_wal_replay_pause_state()") == "paused", timeout=60)

    def go_on(self) -> None:
        self._tell("SELECT pg_wal_replay_resume()")

    def catch_up(self) -> None:
        """Wait until it has all that is committed by now."""
        with psycopg.connect(self.primary.url("postgres")) as connection:
            ((place,),) = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchall()
        processes.wait_until(lambda: bool(self._tell(f"SELECT pg_last_wal_replay_lsn() >= '{place}'")), timeout=60)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within this, no process of it does anything."""
        assert self.server.process is not None
        members = family(self.server.process.pid)
        for member in members:
            os.kill(member, signal.SIGSTOP)
        try:
            yield
        finally:
            for member in reversed(members):
                os.kill(member, signal.SIGCONT)

    def _tell(self, statement: str) -> Any:
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
            return next(iter(connection.execute(statement).fetchone() or ()), None)


@contextmanager
def streaming(primary: Postgres) -> Iterator[Streaming]:
    """A standby of this server."""
    home = places.scratch("standby")
    standby = Streaming(primary, home / "postgres")
    try:
        yield standby
    finally:
        standby.server.stop()
        places.forget(home)


@contextmanager
def aliases(standby: Streaming) -> Iterator[None]:
    """An alias of each service for its database at a standby: `orders_read` and so on."""
    for service in settings.SERVICES:
        connections.settings[f"{service}_read"] = read_settings(service, port=standby.server.port)
    yield
    for service in settings.SERVICES:
        connections[f"{service}_read"].close()
        del connections[f"{service}_read"], connections.settings[f"{service}_read"]


def read_settings(service: str, *, port: int, **more: Any) -> dict[str, Any]:
    """How to read the database of a service from the server at this port."""
    own = connections.settings[service]
    options = own["OPTIONS"] | {"options": own["OPTIONS"]["options"] + READ_ONLY}
    return own | {"PORT": port, "OPTIONS": options, "TEST": own["TEST"] | {"MIRROR": service}} | more
