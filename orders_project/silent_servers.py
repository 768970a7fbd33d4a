"""
A session of a server that stands still is given up, where another server may take over.

# Note [A server that is frozen]: it is not gone, so nothing ends its connections: the kernel of its host still
acknowledges what arrives, and libpq waits for an answer without an end. Whether the server is only busy with a long
statement is seen by asking it for another connection: one that lives answers that, or refuses it.
"""

import socket
import struct
from collections.abc import Callable, Generator
from functools import partial
from time import monotonic
from typing import Any

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

SILENCE = 5.0  # seconds without an answer, after which the server is asked whether it is there
ANSWER_TIMEOUT = 3.0  # seconds
SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # every server answers it with one byte, whether it supports TLS or not


def watch(sender: object, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    """Have a new connection ask while it waits, if its database has several servers: for `connection_created`."""
    session = connection.connection
    if session is not None and "," in str(connection.settings_dict["HOST"]):
        session.wait = partial(_wait, session, type(session).wait)


def _wait(session: Any, wait: Callable[..., Any], work: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
    return wait(session, _watched(session, work), *args, **options)


def _watched(session: Any, work: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """
    Do what `work` does: what psycopg waits for, and is told every moment whether something has come.

    :raises OperationalError: if the server is silent, and takes no other connection
    """
    ask_at = monotonic() + SILENCE
    try:
        wanted = next(work)
        while True:
            ready = yield wanted
            if ready:
                ask_at = monotonic() + SILENCE
            elif monotonic() >= ask_at:
                _make_sure_of(session)
                ask_at = monotonic() + SILENCE
            wanted = work.send(ready)
    except StopIteration as end:
        return end.value


def _make_sure_of(session: Any) -> None:
    server = session.pgconn
    if not answers(server.host.decode(), int(server.port)):
        server.finish()
        raise psycopg.OperationalError(f"the server has not answered for {SILENCE:g} s, and takes no connection")


def answers(host: str, port: int) -> bool:
    """Whether a server answers who asks for another connection. libpq's own PQping would keep all other threads."""
    try:
        with socket.create_connection((host, port), timeout=ANSWER_TIMEOUT) as connection:
            connection.sendall(SSL_REQUEST)
            return bool(connection.recv(1))
    except OSError:
        return False
