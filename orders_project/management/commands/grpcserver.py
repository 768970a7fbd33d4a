"""manage.py grpcserver: the gRPC server."""

import logging
import signal
import threading
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
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        server = Server(host=options["host"], port=options["port"], threads=options["threads"])
        server.start()
        logger.info("gRPC is listening on %s:%s", options["host"], server.port)
        stopping.wait()
        server.stop(grace=GRACE)
        logger.info("gRPC has stopped")
