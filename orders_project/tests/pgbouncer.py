"""PgBouncer as docker/compose.pgbouncer.yaml runs it, from Debian's package, in front of a server of the tests."""

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Self
from urllib.parse import unquote, urlsplit

import psycopg

from orders_project.embedded import debian, places, processes

from .compose import DOCKER

SCRIPTS = DOCKER / "pgbouncer"


class PgBouncer:
    """Stands on entering; who connects to `url(…)` has one of `size` sessions for the time of a transaction."""

    def __init__(self, urls: Iterable[str], *, size: int = 8, settings: Mapping[str, int] | None = None) -> None:
        """
        :param urls: databases of one server, each with the name and the password of a role that may come
        :param settings: what is not as in pgbouncer.ini
        """
        self.urls = list(urls)
        self.port = processes.free_port()
        self._settings = {"listen_addr": "127.0.0.1", "listen_port": self.port, "default_pool_size": size}
        self._settings |= settings or {}

    def __enter__(self) -> Self:
        user = places.server_user()
        root = debian.unpack("pgbouncer", user=user)
        server = urlsplit(self.urls[0])
        roles = {f"{unquote(url.username or '')}:{unquote(url.password or '')}" for url in map(urlsplit, self.urls)}
        given = {"SERVER": f"{server.hostname}:{server.port or 5432}", "ROLES": " ".join(sorted(roles))}
        with ExitStack() as undo:
            home = places.scratch("pgbouncer")
            undo.callback(places.forget, home)
            self.log = home / "log"
            for path in SCRIPTS.iterdir():
                (home / path.name).write_text(self._here(path.read_text().replace("/tmp/pgbouncer", f"{home}/made")))
            if user is not None:
                os.chown(home, user.pw_uid, user.pw_gid)
            with self.log.open("ab") as log:
                self.process = processes.spawn(
                    ["/bin/sh", home / "start.sh"],
                    env=debian.environment(root) | given, output=log,
                    uid=user and user.pw_uid, gid=user and user.pw_gid,
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

    def _here(self, text: str) -> str:
        for name, value in self._settings.items():
            text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
        return text

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            psycopg.connect(self.url(self.urls[0])).close()
        except psycopg.OperationalError:
            return False
        return True
