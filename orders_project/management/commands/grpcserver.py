"""manage.py grpcserver: the gRPC server."""

import asyncio
import logging
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from orders_project.auth import authentication as auth
from orders_project.grpc.server import Server
from orders_project.observability import process

logger = logging.getLogger(__name__)

GRACE = 10.0


class Command(BaseCommand):
    help = "Serve the gRPC API of orders until SIGTERM or SIGINT."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.GRPC_HOST)
        parser.add_argument("--port", type=int, default=settings.GRPC_PORT, help="0: any free port")
        parser.add_argument("--threads", type=int, default=settings.GRPC_THREADS)

    def handle(self, *args: Any, **options: Any) -> None:
        process.begin("grpc")
        auth.prepare()
        asyncio.run(serve(host=options["host"], port=options["port"], threads=options["threads"]))
        logger.info("gRPC has stopped")


async def serve(*, host: str, port: int, threads: int) -> None:
    """Run the server until a signal ends it."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = Server(host=host, port=port, threads=threads)
    await server.start()
    logger.info("gRPC is listening on %s:%s", host, server.port)
    await stopping.wait()
    await server.stop(grace=GRACE)
