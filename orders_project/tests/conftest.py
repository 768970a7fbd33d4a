"""Fixtures of the tests of the project package."""

from collections.abc import Iterator

import grpc
import pytest
from django.db import connections

from orders_project.grpc.server import Server


@pytest.fixture(scope="session")
def grpc_channel() -> Iterator[grpc.Channel]:
    """A channel to a gRPC server in this process; its `target` is the server's address."""
    with pytest.MonkeyPatch.context() as patch:
        for database in connections.settings.values():  # the server's threads leave no connection behind
            patch.setitem(database, "CONN_MAX_AGE", 0)
        server = Server(host="127.0.0.1", port=0, threads=2)
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            channel.target = f"127.0.0.1:{server.port}"
            yield channel
        server.stop(grace=1)
