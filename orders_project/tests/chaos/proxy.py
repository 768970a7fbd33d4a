"""
TCP proxies on the loopback interface, each for one link of the system, that hold back, delay or reset what passes.

That of `outbox.tests.proxy` loses what is sent while it is silent, so its connections are good for nothing afterwards.
A network that comes back delivers, so these do.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

from orders_project.embedded import processes

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
CHUNK = 64 * 1024


class Link:
    """
    One address in front of a server. Set `delay` (seconds) and `loses` (the share of answers that are lost, each
    with its connection); see `hold`, `let_pass` and `reset`.

    # Note [A black hole]: what is sent into one is not lost: TCP would send it again until it comes through. So it is
    held back, in both directions, the news that a peer has gone included.
    """

    def __init__(self, name: str, target: Callable[[], int]) -> None:
        self.name, self.port, self.delay = name, processes.free_port(), 0.0
        self.loses = 0.0
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking, self._answering = asyncio.Event(), asyncio.Event()  # whether each direction passes
        self._asking.set()
        self._answering.set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def hold(self, *, answers_only: bool = False) -> None:
        """Let nothing pass any more; or no answers, while what is asked is done."""
        self._answering.clear()
        if not answers_only:
            self._asking.clear()

    async def let_pass(self) -> None:
        """Let everything pass, what was held back first."""
        self.delay = self.loses = 0.0
        self._asking.set()
        self._answering.set()

    async def reset(self) -> None:
        """Cut all connections at once."""
        for writer in list(self._writers):
            _abort(writer)

    async def close(self) -> None:
        self._server.close()
        await self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        try:
            await self._asking.wait()
            answers, there = await asyncio.open_connection("127.0.0.1", self._target())
            self._writers.add(there)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, there, self._asking))
                both.create_task(self._pump(answers, writer, self._answering))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            for one in filter(None, (writer, there)):
                self._writers.discard(one)
                _abort(one)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event) -> None:
        while data := await reader.read(CHUNK):
            await passing.wait()
            if passing is self._answering and random.random() < self.loses:
                raise ConnectionResetError
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        await passing.wait()
        if writer.can_write_eof():
            writer.write_eof()


def _abort(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


class Proxies:
    """The links of a system by name, served by a thread while this is entered."""

    def __init__(self, **targets: Callable[[], int]) -> None:
        """:param targets: for each link what tells the port of its server, which may change"""
        self._targets = targets
        self.links: dict[str, Link] = {}

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        for name, target in self._targets.items():
            self.links[name] = Link(name, target)
            self._do(self.links[name].open())
        return self

    def __exit__(self, *exception: object) -> None:
        for link in self.links.values():
            self._do(link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hold(self, name: str, *, answers_only: bool = False) -> None:
        self._do(self.links[name].hold(answers_only=answers_only))

    def let_pass(self, name: str) -> None:
        self._do(self.links[name].let_pass())

    def reset(self, name: str) -> None:
        self._do(self.links[name].reset())

    def _do(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)  # type: ignore[arg-type]
