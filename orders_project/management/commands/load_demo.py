"""manage.py load_demo: load data to try the system with."""

import secrets
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from common import trial_outcomes
from common.authority import Authority
from payments import services as money
from processing import services as stock
from processing.models import Product

PRODUCTS = (  # sku, name, price in minor units, stock
    ("laptop", "Laptop", 1200_00, 1000),
    ("demo-lamp", "Desk lamp", 39_90, 250),
    ("demo-chair", "Office chair", 249_00, 40),
    ("demo-last-one", "The last one", 9_99, 1),
    (trial_outcomes.SOLD_OUT, "Sold out (a test)", 9_99, 0),
    (trial_outcomes.REFUSED, "Refused (a test)", 9_99, 1000),
)
ACCOUNTS = (("demo-rich", 100_000_00), ("demo-poor", 1_00))


class Command(BaseCommand):
    help = "Load demo products and accounts, and an admin user with its password in a file. It can be repeated."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--password-file", type=Path, required=True, metavar="FILE", help="where the password is written"
        )

    def handle(self, *args: Any, password_file: Path, **options: Any) -> None:
        now = timezone.now()
        for sku, name, price, quantity in PRODUCTS:
            product, is_new = Product.objects.get_or_create(
                sku=sku, defaults={"name": name, "price": price, "currency": "USD"}
            )
            if is_new and quantity:
                stock.receive_stock(
                    product_id=product.product_id,
                    quantity=quantity,
                    reason="demo",
                    actor="load_demo",
                    now=now,
                )
        for user_id, amount in ACCOUNTS:
            if money.open_account(user_id=user_id)[1]:
                money.deposit(user_id=user_id, amount=amount, now=now, reason="demo", by=Authority("load_demo"))
        users = get_user_model().objects
        if not users.filter(username="admin").exists() or not password_file.exists():
            password = secrets.token_urlsafe(12)
            user, _ = users.get_or_create(username="admin", defaults={"is_staff": True, "is_superuser": True})
            user.set_password(password)
            user.save()
            password_file.touch(mode=0o600)
            password_file.write_text(password)
        self.stdout.write("The demo data are loaded.")
