"""manage.py fake_gateway: run the fake payment service."""

import threading
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand

from outbox.stop_signals import StopSignals
from payments.gateways.fake import webhook_url
from payments.gateways.server import LOOPBACK, FakeService


class Command(BaseCommand):
    help = "Run the fake payment service until it is stopped."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="the address it listens on (127.0.0.1)")
        parser.add_argument("--port", type=int, default=settings.FAKE_GATEWAY_PORT, help="0 for any free port")
        parser.add_argument("--state", type=Path, metavar="FILE", help="keep the payments in this file across restarts")

    def handle(self, *args: Any, host: str, port: int, state: Path | None, **options: Any) -> None:
        signals = StopSignals()
        service = FakeService(
            (host, port),
            webhook_url=webhook_url(),
            hosts=LOOPBACK | {urlsplit(settings.FAKE_GATEWAY_URL).hostname or ""},
            secrets=settings.PAYMENT_WEBHOOK_SECRETS,
            success_rate=settings.FAKE_PAYMENT_SUCCESS_RATE,
            state=state,
        )
        thread = threading.Thread(target=service.serve_forever, name="fake-gateway")
        thread.start()
        self.stdout.write(f"fake gateway listening on http://{host}:{service.port}")
        self.stdout.flush()
        signals.wait()
        service.close()
        thread.join()
