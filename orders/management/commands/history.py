"""manage.py history: show the events of an order, or compare every order with its events."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from orders import archive, history
from orders.models import Order


class Command(BaseCommand):
    help = "Show the history of an order, or check that every order can be rebuilt from its history."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("order_id", nargs="?", help="our own id of the order, which manage.py order ID shows")
        parser.add_argument("--check", action="store_true", help="rebuild every order from its history and compare")

    def handle(self, *args: Any, order_id: str | None, check: bool, **options: Any) -> None:
        if check:
            self.check_all()
        elif order_id is not None:
            self.show(order_id)
        else:
            raise CommandError("Give an order id, or --check.")

    def check_all(self) -> None:
        compared = differing = 0
        for found in history.check():
            if isinstance(found, int):
                compared += found
            else:
                differing += 1
                self.stdout.write(str(found))
        if differing:
            raise CommandError(f"{differing} of {compared} orders differ from their histories.")
        self.stdout.write(f"All {compared} orders match their histories.")

    def show(self, order_id: str) -> None:
        order = Order.objects.filter(pk=order_id).first()
        if order is None:
            raise CommandError(f"There is no order {order_id}.")
        for event in archive.history_of(order):
            actor = f" by {event.actor}" if event.actor else ""
            self.stdout.write(f"{event.version:>3}  {event.at.isoformat()}  {event.status:<15}  {event.type}{actor}")
