"""gunicorn's worker, with a timeout for slow clients, and problem documents for requests that never reach Django."""

import socket
import struct
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from outbox import context

READ_TIMEOUT = 10  # seconds for the next byte of a request, after which a silent client loses its thread
RECEIVE_TIMEOUT = struct.pack("ll", READ_TIMEOUT, 0)


class Worker(ThreadWorker):
    """Serves requests in threads."""

    def handle(self, conn: Any) -> Any:
        # Not settimeout(): gunicorn makes the socket blocking just before it reads.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, RECEIVE_TIMEOUT)
        return super().handle(conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        """Answer for a request that fails outside of Django, under the id in its headers if they could be read."""
        from .http import headers  # needs the settings, which the parent process does not read

        sent = {name.title().replace("-Id", "-ID"): value for name, value in getattr(req, "headers", None) or ()}
        with context.acting(context.Context(correlation_id=headers.correlation_id(sent))):
            super().handle_error(req, client, addr, exc)

    def init_process(self) -> None:
        util.write_error = write_error
        super().init_process()


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
