"""manage.py declare_topology: declare all exchanges and queues, at deployment and not on first use."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from orders_project.celery import declare_topology
from outbox.broker import LOST


class Command(BaseCommand):
    help = "Declare all exchanges and queues. Those that exist are not changed."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            names = declare_topology()
        except LOST as error:
            raise CommandError(f"The broker cannot be reached: {error}") from error
        self.stdout.write(f"declared {', '.join(names)}")
