"""A gRPC server in this process, with an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections

from orders_project.grpc.server import Server


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    """Serve on a free port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Server:
        server = Server(host="127.0.0.1", port=0, threads=2, **options)
        await server.start()
        return server

    with pytest.MonkeyPatch.context() as patch:
        for database in connections.settings.values():  # the server's threads leave no connection behind
            patch.setitem(database, "CONN_MAX_AGE", 0)
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
        yield server
        asyncio.run_coroutine_threadsafe(server.stop(grace=1), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
