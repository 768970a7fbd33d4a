"""
PostgreSQL under Patroni on this machine: a primary with a synchronous standby, and haproxy in front of them.

Patroni, etcd and haproxy are Debian's packages, unpacked without root as those of RabbitMQ are.
"""

import contextlib
import os
import re
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import psycopg
import requests
import yaml
from psycopg import sql

from orders_project.embedded import debian, places, postgres_sources, processes
from orders_project.embedded.postgres import FOR_TESTS, USER
from orders_project.embedded.services import DATABASES

from .process_tree import FailingServer, signal_family

PASSWORD = secrets.token_hex(16)
TTL = 15  # seconds after which a primary that does not renew its lease is replaced
MARGIN = 5  # seconds before that, at which its watchdog ends one that stands still
DISTRIBUTED = {
    "ttl": TTL, "loop_wait": 2, "retry_timeout": 5, "maximum_lag_on_failover": 1_000_000, "synchronous_mode": True,
    "master_start_timeout": 0,
    "postgresql": {"use_pg_rewind": True, "remove_data_directory_on_rewind_failure": True, "parameters": FOR_TESTS | {
        "max_connections": 200, "jit": "off", "wal_log_hints": "on", "synchronous_commit": "on", "timezone": "UTC",
    }},
}  # fmt: skip
HAPROXY = """
defaults
    mode tcp
    timeout connect 3s
    timeout client 1h
    timeout server 1h
    timeout check 2s
listen primary
    bind 127.0.0.1:{port}
    option httpchk GET /primary
    http-check expect status 200
    default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
"""


class NoPatroni(debian.NoPackages):
    """The programs cannot be had here."""


class Member(FailingServer):
    """A server and the Patroni that looks after it."""

    def __init__(self, cluster: "Databases", name: str) -> None:
        super().__init__()
        self.name, self._cluster = name, cluster
        self.home = cluster.home / name
        self.home.mkdir()
        self.port, self.api_port = processes.free_port(), processes.free_port()
        self._data = self.home / "data"
        self._device = self.home / "watchdog"  # stands in for /dev/watchdog, in the words of Patroni's driver for tests
        os.mkfifo(self._device, 0o600)
        self._timeout: int | None = None
        self._watchdog = os.open(self._device, os.O_RDWR | os.O_NONBLOCK)

    @property
    def log(self) -> Path:
        return self.home / "patroni.log"

    def start(self) -> None:
        self.watchdog_timeout()
        self._timeout = None  # its machine has started anew
        configuration = self.home / "patroni.yml"
        configuration.write_text(yaml.safe_dump(self._configuration()))
        if (user := self._cluster.user) is not None:
            for path in (self.home, configuration, self._device):
                os.chown(path, user.pw_uid, user.pw_gid)
        with self.log.open("ab") as output:
            self._process = processes.spawn(
                [self._cluster.python, "-m", "patroni", configuration],
                env=self._cluster.environment,
                output=output,
                cwd=Path("/"),
                uid=user and user.pw_uid,
                gid=user and user.pw_gid,
            )

    def close(self) -> None:
        os.close(self._watchdog)

    def watchdog_timeout(self) -> int | None:
        """After how many seconds without a sign of life its watchdog would end it, if it has asked for that."""
        with contextlib.suppress(BlockingIOError):
            while said := os.read(self._watchdog, 65536):
                for asked in re.findall(rb"Ctimeout=(\d+)\n|(V)", said):
                    self._timeout = int(asked[0]) if asked[0] else None
        return self._timeout

    def _signal(self, number: signal.Signals) -> None:
        super()._signal(number)
        with contextlib.suppress(FileNotFoundError):  # PostgreSQL is no child of Patroni, so that it may outlive it
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            if not processes.is_elsewhere(pid, self._data.resolve()):
                signal_family(pid, number)

    def _configuration(self) -> dict[str, Any]:
        hba = [
            f"host all all 127.0.0.1/32 {self._cluster.way}",
            f"host replication all 127.0.0.1/32 {self._cluster.way}",
        ]
        return {
            "scope": "orders",
            "name": self.name,
            "restapi": {"listen": f"127.0.0.1:{self.api_port}", "connect_address": f"127.0.0.1:{self.api_port}"},
            "etcd3": {"host": f"127.0.0.1:{self._cluster.etcd_port}"},
            "bootstrap": {
                "dcs": DISTRIBUTED,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"lc-ctype": "C.UTF-8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self._data),
                "bin_dir": str(self._cluster.installation.programs),
                "pgpass": str(self.home / "pgpass"),
                "authentication": {
                    "superuser": {"username": USER, "password": PASSWORD},
                    "replication": {"username": "replicator", "password": PASSWORD},
                },
                "parameters": {"unix_socket_directories": ""},
                "basebackup": [{"checkpoint": "fast"}],
                "pg_hba": hba,
            },
            "watchdog": {
                "mode": "required", "driver": "testing", "device": str(self._device), "safety_margin": MARGIN,
            },
        }  # fmt: skip


class Databases:
    """A primary and a synchronous standby, both running on entering, with an empty database for each of ours."""

    way = "scram-sha-256"

    def __init__(self) -> None:
        """:raises CannotRun: if a part of it is not to be had here"""
        self.home = places.scratch("patroni")
        self.user = places.server_user()
        if self.user is not None:
            os.chown(self.home, self.user.pw_uid, self.user.pw_gid)
        self.installation = postgres_sources.find()
        if not all((self.installation.programs / name).exists() for name in ("pg_basebackup", "pg_rewind")):
            raise NoPatroni(f"there is no pg_basebackup or no pg_rewind in {self.installation.programs}")
        root = debian.unpack("patroni", user=self.user, called="Patroni")
        self._etcd, self._haproxy = (
            debian.unpack("etcd-server", called="etcd"),
            debian.unpack("haproxy", called="haproxy"),
        )
        pythons = (root / "usr/bin/python3", Path("/usr/bin/python3"))  # of Debian, as its Patroni needs
        self.python = next(filter(Path.exists, pythons))
        server = postgres_sources.environment(self.installation.env)
        libraries = [debian.environment(root)["LD_LIBRARY_PATH"], server.get("LD_LIBRARY_PATH", "")]
        self.environment = server | {
            "HOME": str(self.home),
            "PYTHONPATH": str(root / "usr/lib/python3/dist-packages"),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        }
        self.etcd_port, self._peer_port, self.proxy_port = (processes.free_port() for _ in range(3))
        self.members = [Member(self, "one"), Member(self, "two")]
        self._end = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(places.forget, self.home)
            self._start_etcd(undo)
            undo.callback(self._stop)
            self.members[0].start()
            self.until(lambda: self.primary() is self.members[0])
            self.members[1].start()
            with psycopg.connect(self._url("postgres", self.members[0].port), autocommit=True) as connection:
                for name in DATABASES:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            self._start_haproxy(undo)
            self.until_synchronous()
            self._end = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.close()

    def direct(self, database: str) -> str:
        """The address of a database, with both servers in it."""
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"postgres://{USER}:{PASSWORD}@{hosts}/{database}?target_session_attrs=read-write"

    def through_haproxy(self, database: str) -> str:
        return self._url(database, self.proxy_port)

    def primary(self) -> Member | None:
        """The member that takes writes, if one does."""
        return next(
            (member for member in self.members if self._ask(member, "SHOW transaction_read_only") == "off"), None
        )

    def other(self, member: Member) -> Member:
        return next(one for one in self.members if one is not member)

    def until_synchronous(self) -> None:
        """Wait until no commit succeeds that the standby does not have, and Patroni knows that it does."""
        self.until(lambda: "sync_standby" in self._roles())

    def _roles(self) -> list[str]:
        """The roles of the members, as one of them says whose Patroni answers."""
        for member in self.members:
            with contextlib.suppress(requests.RequestException):
                found = requests.get(f"http://127.0.0.1:{member.api_port}/cluster", timeout=2).json()["members"]
                return [one["role"] for one in found if one["state"] in ("running", "streaming")]
        return []

    def set_read_only(self, value: bool) -> None:
        """Have the primary refuse writes, or take them again."""
        for one in self.members:
            if self._ask(one, "SELECT pg_is_in_recovery()") is False:
                self._ask(one, f"ALTER SYSTEM SET default_transaction_read_only = {'on' if value else 'off'}")
                self._ask(one, "SELECT pg_reload_conf()")

    def listeners(self, database: str) -> int:
        """How many sessions of a database wait for notifications, as the primary says."""
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE 'LISTEN %'"
        found = self.primary()
        return int(self._ask(found, query) or 0) if found else 0

    def until(self, done: Any, *, timeout: float = 240) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            logs = "\n".join(f"--- {member.name}\n{processes.tail(member.log, lines=30)}" for member in self.members)
            assert time.monotonic() < deadline, logs
            time.sleep(0.2)

    def _ask(self, member: Member, query: str) -> Any:
        try:
            with psycopg.connect(self._url("postgres", member.port), connect_timeout=2, autocommit=True) as connection:
                cursor = connection.execute(query)
                row = cursor.fetchone() if cursor.description else None
        except psycopg.OperationalError:
            return None
        return row and row[0]

    def _url(self, database: str, port: int) -> str:
        return f"postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/{database}"

    def _start_etcd(self, undo: ExitStack) -> None:
        clients, peers = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        with (self.home / "etcd.log").open("ab") as output:
            process = processes.spawn(
                [
                    self._etcd / "usr/bin/etcd", "--data-dir", self.home / "etcd", "--listen-client-urls", clients,
                    "--advertise-client-urls", clients, "--listen-peer-urls", peers,
                    "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}",
                ],
                env=debian.environment(self._etcd),
                output=output,
            )  # fmt: skip
        undo.callback(processes.end, process)
        processes.await_ready(
            process, lambda: processes.answers(self.etcd_port), name="etcd", log=self.home / "etcd.log", timeout=60
        )

    def _start_haproxy(self, undo: ExitStack) -> None:
        servers = "\n".join(
            f"    server {member.name} 127.0.0.1:{member.port} check port {member.api_port}" for member in self.members
        )
        configuration = self.home / "haproxy.cfg"
        configuration.write_text(HAPROXY.format(port=self.proxy_port, servers=servers))
        with (self.home / "haproxy.log").open("ab") as output:
            process = processes.spawn(
                [self._haproxy / "usr/sbin/haproxy", "-db", "-f", configuration],
                env=debian.environment(self._haproxy),
                output=output,
            )
        undo.callback(processes.end, process)
        self.until(lambda: self._ask_proxy())

    def _ask_proxy(self) -> bool:
        try:
            psycopg.connect(self.through_haproxy("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _stop(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Member.stop, self.members))
        for member in self.members:
            member.close()
