"""Debian's PgBouncer in transaction mode, in front of a server of the tests."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Self
from urllib.parse import unquote, urlsplit

import psycopg

from orders_project.embedded import debian, places, processes

CONFIGURATION = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
server_login_retry = 1
server_connect_timeout = 5
tcp_keepidle = 10
tcp_keepintvl = 4
tcp_keepcnt = 3
tcp_user_timeout = 20000
"""


class PgBouncer:
    """Stands on entering; who connects to `url(…)` has one of `size` sessions for the time of a transaction."""

    def __init__(self, urls: Iterable[str], *, size: int = 8) -> None:
        """:param urls: databases of one server, each with the name and the password of a role that may come"""
        self.urls, self.size = list(urls), size
        self.port = processes.free_port()

    def __enter__(self) -> Self:
        user = places.server_user()
        root = debian.unpack("pgbouncer", user=user)
        server = urlsplit(self.urls[0])
        with ExitStack() as undo:
            home = places.scratch("pgbouncer")
            undo.callback(places.forget, home)
            users, configuration, self.log = home / "users.txt", home / "pgbouncer.ini", home / "log"
            roles = {(unquote(url.username or ""), unquote(url.password or "")) for url in map(urlsplit, self.urls)}
            users.write_text("".join(f'"{name}" "{password}"\n' for name, password in sorted(roles)))
            configuration.write_text(
                CONFIGURATION.format(
                    host=server.hostname, port=server.port or 5432, listen=self.port, users=users, size=self.size
                )
            )
            if user is not None:
                for path in (users, configuration):
                    os.chown(path, user.pw_uid, user.pw_gid)
            with self.log.open("ab") as log:
                self.process = processes.spawn(
                    [root / "usr/sbin/pgbouncer", configuration],
                    env=debian.environment(root), output=log, uid=user and user.pw_uid, gid=user and user.pw_gid,
                )  # fmt: skip
            undo.callback(processes.end, self.process)
            processes.wait_until(self._answers, timeout=60)
            self._end = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.close()

    def url(self, url: str) -> str:
        """The address of a database of the server, through here."""
        there = urlsplit(url)
        return there._replace(netloc=f"{there.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}").geturl()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            psycopg.connect(self.url(self.urls[0])).close()
        except psycopg.OperationalError:
            return False
        return True
