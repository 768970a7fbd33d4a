"""manage.py relay: send what the services have posted."""

import logging
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from outbox import conf
from outbox.relay import Relay
from outbox.services import all_services, services_here
from outbox.stop_signals import StopSignals

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Send what the services have posted to the broker, until stopped. Several may run side by side."

    def add_arguments(self, parser: ArgumentParser) -> None:
        names = ", ".join(all_services())
        parser.add_argument(
            "services", nargs="*", metavar="SERVICE", help=f"one of {names}; without any, those of this process"
        )

    def handle(self, *args: Any, services: list[str], **options: Any) -> None:
        if unknown := sorted({*services} - {*all_services()}):
            raise CommandError(f"There is no service {', '.join(unknown)}: there are {', '.join(all_services())}.")
        conf.call("ON_START", "relay")
        signals, stop = StopSignals(), threading.Event()
        relays = [Relay(service) for service in services or services_here()]
        threads = [threading.Thread(target=relay.run, args=(stop,), name=relay.service) for relay in relays]
        for thread in threads:
            thread.start()
        logger.info("relaying %s", ", ".join(relay.service for relay in relays))
        try:
            while not signals.wait(1.0):
                if not all(thread.is_alive() for thread in threads):
                    raise SystemExit(1)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
