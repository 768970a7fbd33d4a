"""The gRPC server: its limits, its health and its methods. See calls.py for what happens in a call."""

import asyncio
import logging
from dataclasses import dataclass

import grpc
import psycopg
from django.conf import settings
from django.db import connections
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from orders.grpc import OrderService

from . import transport
from .calls import SERVICE, Calls
from .health import NOT_SERVING, SERVING, Health

logger = logging.getLogger(__name__)

WAITING_PER_THREAD = 20  # complete calls that may wait for a thread
READY_EVERY = 10.0  # seconds between two looks at the databases


@dataclass(frozen=True)
class Limits:
    """
    What one client may take of the server, in seconds, bytes and numbers.

    A connection ends when it is as old as `connection_age`; the calls that are running then have `grace` to finish. So
    nothing that a client opens stays for ever.
    """

    streams: int = 32  # of a connection
    connections: int = 256
    handshake: float = 5.0
    message: float = 10.0
    connection_idle: float = 60.0
    connection_age: float = 600.0
    grace: float = 35.0
    metadata: int = 8 * 1024

    def options(self) -> list[tuple[str, int]]:
        """The limits as gRPC knows them."""
        return [
            ("grpc.max_receive_message_length", settings.DATA_UPLOAD_MAX_MEMORY_SIZE),
            ("grpc.max_metadata_size", self.metadata),
            ("grpc.absolute_max_metadata_size", 2 * self.metadata),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.server_handshake_timeout_ms", int(self.handshake * 1000)),
            ("grpc.http2.settings_timeout", int(self.handshake * 1000)),
            ("grpc.max_connection_idle_ms", int(self.connection_idle * 1000)),
            ("grpc.max_connection_age_ms", int(self.connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.grace * 1000)),
        ]


class Server:
    """
    The server. Construct and use it in the event loop that runs it.

    `port` is the port that it listens on.
    """

    def __init__(self, *, host: str, port: int, threads: int, limits: Limits | None = None) -> None:
        limits = limits or Limits(connections=settings.GRPC_MAX_CONNECTIONS)
        self.health = Health(SERVICE)
        self._calls = Calls(
            OrderService(), threads=threads, waiting=threads * WAITING_PER_THREAD, message_timeout=limits.message
        )
        self._grpc = grpc.aio.server(options=[*limits.options(), ("grpc.so_reuseport", 0)])
        self._grpc.add_generic_rpc_handlers([self._calls.handler()])
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._grpc)
        if settings.GRPC_REFLECTION:
            names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._grpc)
        self.port = transport.bind(self._grpc, f"{host}:{port}")

    async def start(self) -> None:
        await self._grpc.start()
        self._watching = asyncio.create_task(self._watch_databases())

    async def stop(self, *, grace: float) -> None:
        """Report it as not serving, refuse new calls, and give running calls `grace` seconds to end."""
        self._watching.cancel()
        self.health.stop()
        await self._grpc.stop(grace)
        self._calls.close()

    async def _watch_databases(self) -> None:
        """Keep the status of the service: whether the databases that it needs answer."""
        while True:
            trouble = await asyncio.to_thread(_trouble)
            if self.health.set(SERVICE, NOT_SERVING if trouble else SERVING):
                logger.log(logging.WARNING if trouble else logging.INFO, "gRPC %s", trouble or "is serving again")
            await asyncio.sleep(READY_EVERY)


def _trouble() -> str:
    """Which database does not answer; empty if all do. The pool is not asked, as calls may have used it up."""
    for alias in settings.DATABASES_HERE:
        try:
            with psycopg.connect(**connections[alias].get_connection_params()):
                pass
        except psycopg.Error as error:
            return f"is not serving: database {alias} does not answer ({' '.join(str(error).split())[:300]})"
    return ""
