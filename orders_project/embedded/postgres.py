"""A private PostgreSQL server, from wherever its programs can be had without an installer."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg
from psycopg import sql

from . import places, postgres_sources, processes
from .postgres_sources import NoPostgres

USER = "app"
PORT_TRIES = 3
# The same sort order, by bytes, and the same upper and lower case on every system, whatever locales it has.
BUILTIN_LOCALE_SINCE = 17
BUILTIN_LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
SYSTEM_LOCALE = ("--locale=C", "--lc-ctype=C.UTF-8")
FOR_TESTS = {"fsync": "off", "full_page_writes": "off"}


class Postgres:
    """
    One server with its data in a folder; the same folder gives the same data and, if free, the same port.

    It takes connections on 127.0.0.1 alone, from its superuser by a generated password. Durability is
    PostgreSQL's own: fsync and synchronous_commit stay on, unless the settings are those `FOR_TESTS`. Then the data
    survive a crash of the server, but not of the machine.
    """

    def __init__(
        self,
        home: Path,
        *,
        settings: Mapping[str, str] | None = None,
        start_timeout: float = 120,
    ) -> None:
        """:param settings: of the server, beside those that it needs here"""
        self.home = home.resolve()
        self.settings = dict(settings or {})
        self.start_timeout = start_timeout
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._claim: IO[str] | None = None
        self._user = places.server_user()

    @classmethod
    def attached(cls, home: Path) -> "Postgres":
        """The server that another process has started in this folder, and stops."""
        server = cls(home)
        (server.port,) = places.recall(server.home / "port")
        server.installation = postgres_sources.find(server.home)
        return server

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """
        Start the server and wait until it takes connections.

        :raises HomeInUse: if another run uses the same folder
        :raises NoPostgres: if there are no programs that run here, or only ones of another version than the data
        :raises NotReady: if the server does not come up
        :raises CannotWrite: if the disk is full, or closed to us
        """
        self._claim = places.claim(self.home)
        try:
            with places.tellable(self.home):
                processes.end_orphan(self._pid_file, by=signal.SIGINT)
                self._data = postgres_sources.data_of(self.home)
                self.installation = postgres_sources.find(self.home)
                if not (self._data / "PG_VERSION").exists():
                    self._initialise()
                (self.home / postgres_sources.SOURCE_NOTE).write_text(self.installation.source)
                self._forget_reused_pid()
                self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server in good order. The data stay."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    def url(self, database: str) -> str:
        """The address of a database, as DATABASE_URL understands it."""
        return f"postgres://{USER}:{self.password}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def create_database(self, name: str) -> None:
        """Create a database, unless it is there already."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if not known:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    @property
    def _pid_file(self) -> Path:
        return self.home / "postgres.pid"

    @property
    def password(self) -> str:
        return places.kept(self.home / "password", partial(secrets.token_hex, 16))

    def _end(self, by: signal.Signals) -> None:
        if self.process is not None:
            processes.end(self.process, by=by)
            self.process = None
            self._pid_file.unlink(missing_ok=True)
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _initialise(self) -> None:
        """Make the data folder: whole, or not at all."""
        unfinished = self._data.with_name("data.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(unfinished, self._user.pw_uid, self._user.pw_gid)
        with tempfile.NamedTemporaryFile() as secret:
            secret.write(self.password.encode())
            secret.flush()
            if self._user is not None:
                os.fchown(secret.fileno(), self._user.pw_uid, self._user.pw_gid)
            done = self.installation.run(
                "initdb", "-D", unfinished, "-U", USER, f"--pwfile={secret.name}",
                "--auth=scram-sha-256", "--encoding=UTF8",
                *(BUILTIN_LOCALE if self.installation.version >= BUILTIN_LOCALE_SINCE else SYSTEM_LOCALE),
            )  # fmt: skip
        if done.returncode:
            raise NoPostgres(f"initdb could not make {self._data}: {postgres_sources.telling(done)}")
        unfinished.rename(self._data)

    def _forget_reused_pid(self) -> None:
        """
        Drop a killed server's note if its pid belongs to another program by now.

        PostgreSQL refuses to start as long as *any* process has that pid, which after a restart of a
        container is likely. The folder is ours alone here, so only a server started by hand could be alive.
        """
        note = self._data / "postmaster.pid"
        if not note.exists():
            return
        if processes.is_elsewhere(note.read_text().split("\n", 1)[0].strip(), self._data):
            note.unlink()

    def _launch(self) -> None:
        remembered = self.home / "port"
        preferred = next(iter(places.recall(remembered)), None)
        for attempt in range(1, PORT_TRIES + 1):
            self.port = processes.free_port(preferred=preferred if attempt == 1 else None)
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": str(self.port),
                "unix_socket_directories": "",
                "max_connections": "200",
                "jit": "off",  # of no use for short queries, and its libraries may not be there
                "wal_compression": "on",  # of whole pages, which are up to a third of the log
                "random_page_cost": "1.1",  # of disks without heads, where PostgreSQL reads whole tables otherwise
                "timezone": "UTC",
                "log_timezone": "UTC",
                **self.settings,
            }
            with self.log.open("ab") as output:
                self.process = processes.spawn(
                    [
                        self.installation.programs / "postgres", "-D", self._data,
                        *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
                    ],
                    env=postgres_sources.environment(self.installation.env),
                    output=output,
                    cwd=self._data if self._user is None else Path("/"),
                    uid=self._user and self._user.pw_uid,
                    gid=self._user and self._user.pw_gid,
                    farewell=signal.SIGINT,
                )  # fmt: skip
            processes.remember(self.process, self._pid_file)
            try:
                processes.await_ready(
                    self.process, self._takes_connections, name="PostgreSQL", log=self.log, timeout=self.start_timeout
                )
            except processes.NotReady:
                if attempt == PORT_TRIES or processes.is_free(self.port):
                    raise
            else:
                remembered.write_text(str(self.port))
                return

    def _takes_connections(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True
