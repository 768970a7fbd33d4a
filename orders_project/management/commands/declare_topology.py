"""manage.py declare_topology: make every exchange and queue, at deploy and not at first use."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from orders_project.celery import declare_topology
from outbox.broker import LOST


class Command(BaseCommand):
    help = "Declare every exchange and queue; those that stand are left alone."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            names = declare_topology()
        except LOST as error:
            raise CommandError(f"The broker can't be reached: {error}") from error
        self.stdout.write(f"declared {', '.join(names)}")
