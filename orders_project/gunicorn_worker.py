"""gunicorn's worker, with a timeout for slow clients, and problem documents for requests that never reach Django."""

import random
import select
import socket
import struct
import time
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from common.admission import lot, waited
from outbox import context

READ_TIMEOUT = 10  # seconds for the next byte of a request, after which a silent client loses its thread
LONG = 1.0  # seconds that a request waits for a thread, after which its client may have given up
RECEIVE_TIMEOUT = struct.pack("ll", READ_TIMEOUT, 0)


class Worker(ThreadWorker):
    """Serves requests in threads."""

    def enqueue_req(self, conn: Any) -> None:
        conn.came_at = time.monotonic()
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """
        Handle the next request of a connection.

        # Note [Clients that have gone]: a client that has waited for too long closes its connection, and often sends
        # the same again. Working on what nobody waits for would make the next ones wait even longer. Nothing has been
        # done yet, and whoever repeats the request loses nothing.
        """
        seconds = time.monotonic() - conn.came_at
        waited.set(seconds)
        lot.set(random.random())
        if seconds > LONG and _has_gone(conn.sock):
            return False
        try:
            if self._is_refused(conn):
                return True
        except OSError:
            return False
        # Not settimeout(): gunicorn makes the socket blocking just before it reads.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, RECEIVE_TIMEOUT)
        return super().handle(conn)

    def _is_refused(self, conn: Any) -> bool:
        """Whether the next request was a new order, and is refused and answered; the connection is kept."""
        from .http import unread_orders  # needs the settings, which the parent process does not read

        if conn.parser is not None and conn.parser.unreader.buf.getvalue():
            return False  # a part of it has been read already
        if not self.alive or not unread_orders.refuse(conn.sock):
            return False
        conn.init()  # as for every connection that is kept
        return True

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        """Answer for a request that fails outside of Django, under the id in its headers if they could be read."""
        from .http import headers  # needs the settings, which the parent process does not read

        sent = {name.title().replace("-Id", "-ID"): value for name, value in getattr(req, "headers", None) or ()}
        with context.acting(context.Context(correlation_id=headers.correlation_id(sent))):
            super().handle_error(req, client, addr, exc)

    def init_process(self) -> None:
        util.write_error = write_error
        super().init_process()


def _has_gone(sock: socket.socket) -> bool:
    """Whether the client has closed its connection, also if there is something left to read from it."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def write_error(sock: Any, status: int, reason: str, message: str) -> None:
    """Answer what gunicorn itself refuses, such as headers that are too long, with a problem document."""
    from .http import headers  # need the settings, which the parent process does not read
    from .http.errors import Problem

    code = "malformed" if status == 400 else reason.lower().replace(" ", "_")
    with context.acting(context.current()) as here:
        answer = Problem(status, code, f"{reason}.").response()
    of_connection = {"Content-Length": str(len(answer.content)), "Connection": "close"}
    for name, value in (headers.of_every_answer(here.correlation_id) | of_connection).items():
        answer[name] = value
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.items())
    util.write_nonblock(sock, f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + answer.content)
