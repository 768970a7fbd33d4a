"""gunicorn's worker, with a timeout for slow clients, and problem documents for requests that never reach Django."""

import contextlib
import random
import select
import selectors
import socket
import struct
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from common.admission import lot, waited
from outbox import context

READ_TIMEOUT = 10  # seconds for the next byte of a request, after which a silent client loses its thread
AVERAGED = 20  # requests
DRAINED = 64 * 1024  # bytes that are read at once, and thrown away
LONG = 1.0  # seconds that a request waits for a thread, after which its client may have given up
RECEIVE_TIMEOUT = struct.pack("ll", READ_TIMEOUT, 0)


class Worker(ThreadWorker):
    """
    Serves requests in threads.

    # Note [Refused on arrival]: how long a request will wait for a thread is known when it comes: for as long as those
    # before it take. So a new order that is to be refused for it is refused at once, by the thread that accepts
    # connections, and neither waits nor takes a thread. What has not arrived as a whole by then waits like all others,
    # and is judged by how long it has waited.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counting = threading.Lock()
        self.queued = 0  # requests that wait for a thread
        self.seconds = 0.0  # that a request took on the average, lately

    def enqueue_req(self, conn: Any) -> None:
        conn.came_at, conn.lot = time.monotonic(), random.random()
        waited.set(self.queued * self.seconds / self.cfg.threads)
        is_kept = self._refused(conn)
        if is_kept is not None:
            done: Future[bool] = Future()
            done.set_result(is_kept)
            self.finish_request(conn, done)
            return
        with self.counting:
            self.queued += 1
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """
        Handle the next request of a connection.

        # Note [Clients that have gone]: a client that has waited for too long closes its connection, and often sends
        # the same again. Working on what nobody waits for would make the next ones wait even longer. Nothing has been
        # done yet, and whoever repeats the request loses nothing.
        """
        with self.counting:
            self.queued -= 1
        seconds = time.monotonic() - conn.came_at
        waited.set(seconds)
        if seconds > LONG and _has_gone(conn.sock):
            return False
        if (is_kept := self._refused(conn)) is not None:
            return is_kept
        # Not settimeout(): gunicorn makes the socket blocking just before it reads.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, RECEIVE_TIMEOUT)
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        began = time.monotonic()
        try:
            return super().handle_request(req, conn)
        finally:
            self.seconds += (time.monotonic() - began - self.seconds) / AVERAGED

    def finish_request(self, conn: Any, fs: Any) -> None:
        """
        Keep the connection for the next request, or close it.

        # Note [Closing waits for nobody]: a client may be sending still while its last answer is on the way, and would
        # lose that answer if the connection were closed at once. So gunicorn reads on for up to two seconds until the
        # client has closed it as well, but with the thread that accepts connections: a few clients that close nothing
        # would keep all others waiting, and in the end have the worker killed. Here the poller waits.
        """
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
            return
        with contextlib.suppress(OSError):  # the client has gone
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            conn.set_timeout()
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drain, conn))
            self.pending_conns.append(conn)  # which are closed when their time is over
            return
        self._close(conn)

    def _drain(self, conn: Any, sock: socket.socket) -> None:
        """Read what a client still sends on a connection that is being closed, and close it if the client has."""
        with contextlib.suppress(OSError):
            if sock.recv(DRAINED):
                return
        self.poller.unregister(sock)
        self.pending_conns.remove(conn)
        self._close(conn)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def _refused(self, conn: Any) -> bool | None:
        """Whether the connection is kept after its next request, a new order, was refused; None if it was not."""
        from .http import unread_orders  # needs the settings, which the parent process does not read

        lot.set(conn.lot)
        if conn.parser is not None and conn.parser.unreader.buf.getvalue():
            return None  # a part of it has been read already
        is_kept = len(self.keepalived_conns) < self.max_keepalived
        try:
            if not self.alive or not unread_orders.refuse(conn.sock, is_kept=is_kept):
                return None
            conn.init()  # as for every connection that is kept
        except OSError:  # its client could not be told
            return False
        return is_kept

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
    from .http.problem_types import code_of

    with context.acting(context.current()) as here:
        answer = Problem(status, code_of(status), f"{reason}.").response()
    of_connection = {"Content-Length": str(len(answer.content)), "Connection": "close"}
    for name, value in (headers.of_every_answer(here.correlation_id) | of_connection).items():
        answer[name] = value
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.items())
    util.write_nonblock(sock, f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + answer.content)
