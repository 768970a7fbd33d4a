"""A TCP proxy that can go silent, hold answers back or cut every connection, as networks do."""

import contextlib
import socket
import threading
from typing import Self


class Proxy:
    """Forwards connections to a server until told otherwise; `at` a port, or at a free one."""

    def __init__(self, host: str, port: int, *, at: int = 0) -> None:
        self.target = (host, port)
        self.at = at
        self.silent = threading.Event()
        self.answers = threading.Event()  # while it is clear, nothing comes back
        self.answers.set()
        self.url = ""
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self.at))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.answers.set()
        self.cut()

    def cut(self) -> None:
        """End every connection."""
        while self._sockets:
            _end(self._sockets.pop())

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.create_connection(self.target)
                self._sockets += [ours, theirs]
                for source, sink in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pump, args=(source, sink, sink is ours), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError), source, sink:
            try:
                while data := source.recv(65536):
                    if is_answer:
                        self.answers.wait(120)
                    if not self.silent.is_set():
                        sink.sendall(data)
            finally:  # closing alone ends no connection that the other thread reads from
                _end(source)
                _end(sink)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
