"""The end of a connection that has taken as long as it may, however slowly the other side sends."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def cut_off(connection: socket.socket, *, after: float) -> Iterator[None]:
    """
    Shut a connection down if the block has not ended so many seconds later: whoever reads from it sees its end.

    # Note [A timer with a descriptor of its own]: the timeout of a socket begins again with every byte, so a limit for
    # the whole needs a timer. TLS takes the descriptor away from the socket that it wraps (`detach()`), and the number
    # of a closed one may be that of another connection a moment later. A duplicate is the same connection, and stays
    # open until the timer has ended.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        timer = threading.Timer(after, _shut_down, args=(same,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RDWR)
