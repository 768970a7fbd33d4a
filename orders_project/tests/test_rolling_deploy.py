"""
One release replaces another under load, and goes back again, as processes of both do the work side by side.

No accepted order is lost and none is done twice, nothing becomes a dead letter, and whoever listens hears each event
once, whichever release took the order, its money, its timers and its webhooks.
"""

import json
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from common import signing
from orders.tests.test_webhooks import Receiver
from orders_project.auth import keys
from orders_project.embedded import places, processes, variable
from orders_project.embedded.services import Services, begin
from orders_project.tests.releases import Release, previous
from orders_project.tests.running_system import PROJECT
from orders_project.tests.shoppers import Shoppers

pytestmark = pytest.mark.processes

SCOPES = ("orders:read", "orders:write", "accounts:write", "accounts:read", "products:write")
ENDS = ("done", "canceled", "failed")
SERVICES = ("orders", "payments", "processing")

REGISTER = """
from django.utils import timezone
from orders import webhooks
endpoint = webhooks.register(
    url="{url}", events=["order.done", "order.canceled"], actor="a test", now=timezone.now(), {more}
)
print("secret", endpoint.{secret})
"""


class Shop:
    """Servers, the fake gateway, and both releases of which nothing runs at first."""

    def __init__(self, given: Services, *, old: Path) -> None:
        self.home = places.scratch("rolling")
        self.end = ExitStack()
        self.end.callback(places.forget, self.home)
        self.port, gateway = processes.free_port(), processes.free_port()
        self.url, self.gateway = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{gateway}"
        self.admin_secret = secrets.token_hex(32)
        keys.make(self.home / "key.pem")
        self.env = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONUNBUFFERED": "1",
            "ORDERS_CACHE": str(places.cache()),
            "SECRET_KEY": secrets.token_hex(32), "ADMIN_SECRET": self.admin_secret,
            "PAYMENT_WEBHOOK_SECRET": secrets.token_hex(32), "ENCRYPTION_KEY": secrets.token_hex(32),
            "JWT_KEY_FILES": str(self.home / "key.pem"), "OAUTH_TOKEN_SECONDS": "86400",
            "PUBLIC_URL": self.url, "FAKE_GATEWAY_URL": self.gateway, "FAKE_GATEWAY_PORT": str(gateway),
            "PAYMENT_GATEWAY": "fake", "FAKE_GATEWAY_ACKNOWLEDGED": "true", "FAKE_PAYMENT_SUCCESS_RATE": "1",
            "PROCESSING_SUCCESS_RATE": "1", "RATE_LIMIT_ORDERS_PER_MINUTE": "0", "RATE_LIMIT_CLIENT_PER_MINUTE": "0",
            "RATE_LIMIT_ADDRESS_PER_MINUTE": "0", "WEBHOOKS_ALLOW_LOOPBACK": "true",
            "WEBHOOKS_ALLOW_LOOPBACK_ACKNOWLEDGED": "true", "LOG_FORMAT": "console", "DATABASE_POOL": "4",
            "DATABASE_LOCK_TIMEOUT": "60", "DATABASE_STATEMENT_TIMEOUT": "600", "DATABASE_IDLE_TIMEOUT": "60",
        }  # fmt: skip
        with ExitStack() as undo:
            undo.push(self.end)
            services = begin(self.home, given.env, for_tests=True)
            undo.callback(services.stop)
            services.await_ready()
            self.env |= given.env | services.env
            self.old = Release("old", old, env=self.env, home=self.home, port=self.port)
            undo.callback(self.old.close)
            self.new = Release("new", PROJECT, env=self.env | {"UPGRADING": "true"}, home=self.home, port=self.port)
            undo.callback(self.new.close)
            self.end = undo.pop_all()

    def query(self, service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.env[variable(service)], autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def until(self, done: Callable[[], Any], *, timeout: float = 240) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            self.old.check()
            self.new.check()
            logs = "\n".join(
                f"--- {release.name} {name}\n{processes.tail(release.log(name))}"
                for release in (self.old, self.new) for name in release.running
            )  # fmt: skip
            assert time.monotonic() < deadline, logs
            time.sleep(0.05)

    def serves(self) -> bool:
        try:
            return requests.get(f"{self.url}/health/started", timeout=60).ok
        except requests.RequestException:
            return False

    def token(self, secret: str) -> str:
        answer = requests.post(
            f"{self.url}/oauth/token", auth=("shop", secret), data={"grant_type": "client_credentials"}, timeout=60
        )
        assert answer.ok, answer.text
        return str(answer.json()["access_token"])

    def status(self, order_id: str) -> str:
        ((status,),) = self.query("orders", "SELECT status FROM orders_order WHERE order_id = %s", order_id)
        return str(status)

    def time_passes_for(self, order_id: str) -> None:
        """Everything that was to come later for this order comes now."""
        past = "now() - interval '2 hours'"
        columns = [name for (name,) in self.query("orders", COLUMNS) if name in ("status_since", "timer_at")]
        since = "".join(f", {name} = {past}" for name in columns)
        self.query("orders", f"UPDATE orders_order SET updated_at = {past}{since} WHERE order_id = %s", order_id)
        waiting = "UPDATE outbox_outgoingmessage SET due_at = now() WHERE subject = %s AND published_at IS NULL"
        self.query("orders", waiting, order_id)


COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_name = 'orders_order'"


@pytest.fixture(scope="module")
def shop(given: Callable[..., Services]) -> Iterator[Shop]:
    shop = Shop(given("rolling", migrated=False), old=previous())
    with shop.end:
        yield shop


def waits(shop: Shop, shoppers: Shoppers) -> str:
    """Place an order whose payment is pending for longer than the order may wait."""
    order_id = f"waits-{secrets.token_hex(4)}"
    slow = {"order_id": order_id, "delay": 3600.0}
    assert requests.post(f"{shop.gateway}/behaviour", json=slow, timeout=60).ok
    shoppers.place(order_id=order_id, user_email="eve@example.com", items=[{"product_id": shoppers.product, "quantity": 1}])
    shop.until(lambda: shop.status(order_id) == "payment_pending")
    return order_id


def test_a_release_replaces_the_one_before_and_goes_back(shop: Shop) -> None:
    old, new, told = shop.old, shop.new, {}
    old.manage("migrate_all")
    old.manage("declare_topology")
    old.start()
    gateway = {"gateway": ["manage.py", "fake_gateway", "--state", str(shop.home / "bank")]}
    with new.log("gateway").open("ab") as output:
        bank = new._settings.spawn(gateway["gateway"], output=output)
    shop.end.callback(processes.end, bank)
    shop.until(shop.serves)
    secret = old.manage("client", "create", "shop", "--scopes", *SCOPES).partition("client_secret=")[2].split()[0]
    tokens = [shop.token(secret)]
    receiver = shop.end.enter_context(Receiver())
    threading.Thread(target=receiver.serve_forever, daemon=True).start()

    def register(release: Release, **more: str) -> None:
        path = f"/{len(told)}"
        url = f"http://127.0.0.1:{receiver.server_address[1]}{path}"
        code = REGISTER.format(url=url, more=more.get("more", ""), secret=more["secret"])
        said = release.manage("shell", "-v", "0", "-c", code)
        told[path] = said.partition("secret ")[2].split()[0]

    register(old, secret="secret")
    shoppers = Shoppers(shop.url, token=lambda: secrets.choice(tokens))
    shoppers.ask("POST", "/accounts?user_id=ann")
    shoppers.ask("POST", "/accounts/ann/deposit", json={"amount": "1000.00"})
    product = {"name": "A lamp", "price": "12.00", "stock": 1000, "sku": "lamp"}
    shoppers.product = shoppers.ask(
        "POST", "/admin/products", json=product, headers={"X-Admin-Secret": shop.admin_secret}
    ).json()["product_id"]
    shoppers.start()
    shop.end.callback(shoppers._stop.set)

    def more_orders(number: int = 7) -> None:
        until = len(shoppers.orders) + number
        shop.until(lambda: len(shoppers.orders) >= until or shoppers.failed)
        assert not shoppers.failed, shoppers.failed

    more_orders()
    first = waits(shop, shoppers)
    # up
    new.manage("migrate_all", "-v", "0")
    new.manage("declare_topology")
    more_orders()
    new.start()
    shop.until(lambda: (new.home / "web.log").exists() and "Listening" in new.log("web").read_text())
    tokens.append(shop.token(secret))
    register(new, more="hears_all=True", secret="new_secret")
    shop.time_passes_for(first)
    more_orders(15)
    second = waits(shop, shoppers)
    old.stop()
    shop.time_passes_for(second)
    more_orders()
    third = waits(shop, shoppers)
    # and down again
    old.start()
    register(old, secret="secret")
    more_orders(15)
    new.stop()
    shop.time_passes_for(third)
    more_orders()
    shoppers.stop()
    for order_id in (first, second, third):
        shop.until(lambda order_id=order_id: shop.status(order_id) == "canceled")
    shop.until(lambda: {shop.status(order_id) for order_id in shoppers.orders} <= set(ENDS))
    for service in SERVICES:
        later = "SELECT type FROM outbox_outgoingmessage WHERE published_at IS NULL AND due_at < now() + interval '1 min'"
        shop.until(lambda service=service: not shop.query(service, later))
        dead = shop.query(service, "SELECT type, reason, error FROM outbox_deadletter WHERE status = 'dead'")
        assert dead == [], (service, dead)
    print(Counter(shop.status(order_id) for order_id in shoppers.orders))
    print(new.manage("audit", "--grace", "0", "--settle", "1"))
