"""manage.py history: what happened to an order; and that every order is as its history says."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from orders import history
from orders.models import OrderEvent


class Command(BaseCommand):
    help = "Show the history of an order, or check that every order can be rebuilt from its own."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("order_id", nargs="?")
        parser.add_argument("--check", action="store_true", help="rebuild every order from its history and compare")

    def handle(self, *args: Any, order_id: str | None, check: bool, **options: Any) -> None:
        if check:
            self.check_all()
        elif order_id is not None:
            self.show(order_id)
        else:
            raise CommandError("Name an order, or say --check.")

    def check_all(self) -> None:
        looked_at = differing = 0
        for found in history.check():
            if isinstance(found, int):
                looked_at += found
            else:
                differing += 1
                self.stdout.write(str(found))
        if differing:
            raise CommandError(f"{differing} of {looked_at} orders are not as their histories say.")
        self.stdout.write(f"All {looked_at} orders are as their histories say.")

    def show(self, order_id: str) -> None:
        events = OrderEvent.objects.filter(order_id=order_id).order_by("version")
        if not events:
            raise CommandError(f"There is no order {order_id}.")
        for event in events:
            actor = f" by {event.actor}" if event.actor else ""
            self.stdout.write(f"{event.version:>3}  {event.at.isoformat()}  {event.status:<15}  {event.type}{actor}")
