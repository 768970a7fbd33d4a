"""manage.py archive_orders: move the histories of orders that finished long ago into the archive, or one back."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from common.errors import Refusal
from orders import archive, transitions
from orders.models import Order
from outbox import clock


class Command(BaseCommand):
    help = "Move the histories of orders that finished ARCHIVE_ORDERS_AFTER_DAYS ago into the archive, or one back."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--bring-back", metavar="ORDER_ID", help="instead: put the history of this order (our id) back"
        )

    def handle(self, *args: Any, bring_back: str | None, **options: Any) -> None:
        try:
            if bring_back is not None:
                self.bring_back(bring_back)
            else:
                self.archive()
        except Refusal as refusal:
            raise CommandError(f"{refusal} ({refusal.code})") from None

    def archive(self) -> None:
        if not settings.ARCHIVE_ORDERS_AFTER:
            raise CommandError("Set ARCHIVE_ORDERS_AFTER_DAYS first: see docs/operations.md, The archive.")
        total = 0
        while moved := archive.archive(now=clock.now("orders"), older_than=settings.ARCHIVE_ORDERS_AFTER):
            total += moved
            self.stdout.write(f"{total} so far")
        self.stdout.write(f"The histories of {total} orders are archived now.")

    def bring_back(self, order_id: str) -> None:
        try:
            with transaction.atomic(using="orders"):
                transitions.lock(order_id)
        except Order.DoesNotExist:
            raise CommandError(f"There is no order {order_id}.", returncode=4) from None
        self.stdout.write(f"The history of order {order_id} is among those of the other orders again.")
