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

    def init_process(self) -> None:
        util.write_error = write_error
        super().init_process()


def write_error(sock: Any, status: int, reason: str, message: str) -> None:
    """Answer what gunicorn itself refuses, such as headers that are too long, with a problem document."""
    from .http.errors import Problem  # needs the settings, which the parent process does not read

    code = "malformed" if status == 400 else reason.lower().replace(" ", "_")
    with context.acting(context.Context(correlation_id=context.accepted_correlation_id(None))) as here:
        answer = Problem(status, code, f"{reason}.").response()
    answer["X-Correlation-ID"] = here.correlation_id
    answer["Content-Length"] = str(len(answer.content))
    answer["Connection"] = "close"
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.items())
    util.write_nonblock(sock, f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + answer.content)
