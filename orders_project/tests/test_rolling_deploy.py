"""
One release replaces another under load, and goes back again, as processes of both do the work side by side.

No accepted order is lost and none is done twice, nothing becomes a dead letter, and whoever listens hears each event
once, whichever release took the order, its money, its timers and its webhooks.
"""

import json
import os
import secrets
import threading
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
from orders_project.tests import releases
from orders_project.tests.releases import Release, previous
from orders_project.tests.running_system import PROJECT
from orders_project.tests.shoppers import Shoppers

pytestmark = pytest.mark.processes

SCOPES = ("orders:read", "orders:write", "accounts:write", "products:write")
ENDS = {"done", "canceled", "failed"}
SERVICES = ("orders", "payments", "processing")

REGISTER = """
from django.utils import timezone
try:
    from orders.webhook_endpoints import register
except ImportError:  # in the release before
    from orders.webhooks import register
endpoint = register(url="{url}", events=["order.done", "order.canceled"], actor="", now=timezone.now(){more})
print("secret", endpoint.{secret})
"""
# The release before reads no field that it does not know: it makes a dead letter of this order's charge.
SPOIL = """
CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.data := NEW.data || '{"note": "of a later release"}'; RETURN NEW; END $$;
CREATE TRIGGER spoil BEFORE INSERT ON outbox_outgoingmessage FOR EACH ROW
    WHEN (NEW.type = 'payments.charge' AND NEW.subject = 'unreadable' AND NEW.attempt = 0) EXECUTE FUNCTION spoil();
"""
# Timers of orders that have ended may wait: they do nothing.
UNSENT = "SELECT type FROM outbox_outgoingmessage WHERE published_at IS NULL AND type <> 'orders.overdue'"


class Shop:
    """Servers, a fake gateway, and the two releases, of which nothing runs at first."""

    def __init__(self, given: Services, *, old: Path) -> None:
        self.home = places.scratch("rolling")
        self.port, gateway = processes.free_port(), processes.free_port()
        self.url, self.gateway = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{gateway}"
        self.connections: dict[str, psycopg.Connection[Any]] = {}
        self.endpoints: dict[str, set[str]] = {}  # the secret of each, and the orders that were there before it
        keys.make(self.home / "key.pem")
        env = os.environ | {
            "SECRET_KEY": secrets.token_hex(32), "ADMIN_SECRET": secrets.token_hex(32), "EMBEDDED": "0",
            "PAYMENT_WEBHOOK_SECRET": secrets.token_hex(32), "ENCRYPTION_KEY": secrets.token_hex(32),
            "JWT_KEY_FILES": str(self.home / "key.pem"), "OAUTH_TOKEN_SECONDS": "86400", "API_AUTH": "required",
            "PUBLIC_URL": self.url, "FAKE_GATEWAY_URL": self.gateway, "FAKE_GATEWAY_PORT": str(gateway),
            "PAYMENT_GATEWAY": "fake", "FAKE_GATEWAY_ACKNOWLEDGED": "true", "DATABASE_POOL": "4",
            "RATE_LIMIT_ORDERS_PER_MINUTE": "0", "RATE_LIMIT_CLIENT_PER_MINUTE": "0",
            "RATE_LIMIT_ADDRESS_PER_MINUTE": "0", "LOG_FORMAT": "console", "PYTHONUNBUFFERED": "1",
            "ORDERS_ALLOW_FREE_LINES": "true",
            "WEBHOOKS_ALLOW_LOOPBACK": "true", "WEBHOOKS_ALLOW_LOOPBACK_ACKNOWLEDGED": "true",
        }  # fmt: skip
        with ExitStack() as undo:
            undo.callback(places.forget, self.home)
            services = begin(self.home, given.env, for_tests=True)
            undo.callback(services.stop)
            services.await_ready()
            self.env = env | given.env | services.env
            self.old, self.new = (
                undo.enter_context(Release(name, project, env=self.env | more, home=self.home, port=self.port))
                for name, project, more in (
                    ("old", old, {}),
                    ("new", PROJECT, {"UPGRADING": "true", "ORDERS_QUEUES": "2"}),
                )
            )
            self.receiver = undo.enter_context(Receiver())
            threading.Thread(target=self.receiver.serve_forever, daemon=True).start()
            undo.callback(self.receiver.shutdown)  # one that is closed and still serves never sleeps again
            self.new.start(bank=["manage.py", "fake_gateway", "--state", str(self.home / "bank.jsonl")])
            self.shoppers = Shoppers(self.url)
            undo.callback(self.shoppers.stop)
            undo.callback(self.disconnect)
            self.end = undo.pop_all()

    def query(self, service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        if service not in self.connections:
            self.connections[service] = psycopg.connect(self.env[variable(service)], autocommit=True)
        cursor = self.connections[service].execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []

    def disconnect(self) -> None:
        for connection in self.connections.values():
            connection.close()

    def until(self, done: Callable[[], Any]) -> None:
        """Wait until this is true, while all processes that were started run."""

        def looked() -> bool:
            self.old.check()
            self.new.check()
            assert not self.shoppers.failed, self.shoppers.failed
            return bool(done())

        try:
            processes.wait_until(looked, timeout=300, every=0.2)
        except TimeoutError:
            raise AssertionError(f"{self.old.tails()}\n{self.new.tails()}") from None

    def start(self, release: Release) -> None:
        """Start the processes of a release, and wait until its web serves."""
        release.start(**release.commands)
        self.until(lambda: "Listening at" in release.said("web"))

    def open(self) -> None:
        """What a shop has: a client, a customer with money on an account, a product, and whoever goes on buying it."""
        said = self.old.manage("client", "create", "shop", "--scopes", *SCOPES)
        self.secret = said.partition("client_secret=")[2].split()[0]
        self.get_token()
        self.shoppers.ask("POST", "/accounts?user_id=ann")
        self.shoppers.ask("POST", "/accounts/ann/deposit", json={"amount": "1000.00"})
        lamp = {"name": "A lamp", "price": "12.00", "stock": 1000, "sku": "lamp"}
        admin = {"X-Admin-Secret": self.env["ADMIN_SECRET"]}
        self.shoppers.product = self.shoppers.ask("POST", "/admin/products", json=lamp, headers=admin).json()[
            "product_id"
        ]
        self.shoppers.start()

    def get_token(self) -> None:
        """Have a token made by whichever release answers. From now on it is used beside those made before."""
        grant = {"grant_type": "client_credentials"}
        answer = requests.post(f"{self.url}/oauth/token", auth=("shop", self.secret), data=grant, timeout=60)
        assert answer.ok, answer.text
        self.shoppers.tokens.append(answer.json()["access_token"])

    def listen(self, release: Release, *, more: str = "", secret: str = "secret") -> None:
        """Have this release register an endpoint that hears of all orders."""
        code = REGISTER.format(url=self.receiver.url, more=more, secret=secret)
        said = release.manage("shell", "-v", "0", "-c", code)
        self.endpoints[said.partition("secret ")[2].split()[0]] = {*self.statuses()}

    def sell(self, number: int) -> None:
        """Wait until so many more orders have been accepted."""
        until = len(self.shoppers.orders) + number
        self.until(lambda: len(self.shoppers.orders) >= until)

    def keep_waiting(self) -> str:
        """Place an order whose payment stays pending for longer than it may; its id."""
        order_id = f"waits-{secrets.token_hex(4)}"
        slow = {"order_id": order_id, "delay": 3600.0}
        assert requests.post(f"{self.gateway}/behaviour", json=slow, timeout=60).ok
        self.shoppers.place(order_id=order_id, user_email="eve@example.com", items=self.shoppers.lamp)
        self.until(lambda: self.statuses()[order_id] == "payment_pending")
        return order_id

    def let_time_pass_for(self, order_id: str) -> None:
        """What was to come later for this order comes now."""
        columns = {name for (name,) in self.query("orders", COLUMNS)} & {"updated_at", "status_since", "timer_at"}
        earlier = ", ".join(f"{name} = {name} - interval '2 hours'" for name in columns)
        self.query("orders", f"UPDATE orders_order SET {earlier} WHERE order_id = %s", order_id)
        now = "UPDATE outbox_outgoingmessage SET due_at = now() WHERE subject = %s AND published_at IS NULL"
        self.query("orders", now, order_id)

    def statuses(self) -> dict[str, str]:
        """The status of each order."""
        return dict(self.query("orders", "SELECT order_id, status FROM orders_order"))

    def dead(self) -> list[tuple[Any, ...]]:
        dead = "SELECT type, subject, reason, error FROM outbox_deadletter WHERE status = 'dead'"
        return [row for service in SERVICES for row in self.query(service, dead)]


COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_name = 'orders_order'"


@pytest.fixture
def shop(given: Callable[..., Services]) -> Iterator[Shop]:
    old = previous()  # may skip the test
    shop = Shop(given("rolling", migrated=False), old=old)
    with shop.end:
        yield shop


def test_a_clone_without_the_previous_release_skips_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorded = tmp_path / "previous-release"
    recorded.write_text("0" * 40)
    monkeypatch.setattr(releases, "RECORDED", recorded)
    with pytest.raises(pytest.skip.Exception, match="unshallow"):
        previous()


def test_a_release_replaces_the_one_before_and_goes_back(shop: Shop) -> None:
    old, new = shop.old, shop.new

    # The release before, alone.
    old.manage("migrate_all", "-v", "0")
    old.manage("declare_topology")
    shop.start(old)
    shop.open()
    shop.listen(old)
    shop.query("orders", SPOIL)
    shop.shoppers.place(order_id="unreadable", user_id="ann", amount="1.00", description="A poem")
    shop.until(lambda: [subject for _, subject, *_ in shop.dead()] == ["unreadable"])
    waits_from_old = shop.keep_waiting()
    shop.sell(5)

    # Up: first the databases and the broker, then processes beside the old ones, then in their place.
    new.manage("migrate_all", "-v", "0")
    new.manage("declare_topology")
    shop.sell(5)
    shop.start(new)
    shop.get_token()
    shop.listen(new, more=", hears_all=True", secret="new_secret")
    shop.let_time_pass_for(waits_from_old)
    shop.sell(10)
    waits_from_both = shop.keep_waiting()
    old.stop()
    shop.let_time_pass_for(waits_from_both)
    new.manage("dlq", "replay", "--order", "unreadable")
    shop.sell(5)
    waits_from_new = shop.keep_waiting()

    # And down again.
    shop.start(old)
    shop.listen(old)
    shop.sell(10)
    new.stop(*new.commands)
    shop.let_time_pass_for(waits_from_new)
    shop.sell(5)

    shop.shoppers.stop()
    shop.until(lambda: {*shop.statuses().values()} <= ENDS)
    assert {shop.statuses()[one] for one in (waits_from_old, waits_from_both, waits_from_new)} == {"canceled"}
    shop.until(lambda: not any(shop.query(service, UNSENT) for service in SERVICES))
    assert shop.dead() == []
    assert_nothing_was_done_twice(shop)
    assert_everybody_heard_once(shop)
    old.stop("web", "beat")  # relay and worker go on, as the last timers are due meanwhile
    new.manage("reencrypt_secrets")  # as is told for the end of the upgrade
    new.manage("audit", "--grace", "0", "--settle", "10")
    old.stop()
    new.manage("history", "--check")


def assert_nothing_was_done_twice(shop: Shop) -> None:
    """Each order was placed once, is at the gateway once, and its money came in once, and went back if it did."""
    ends = shop.statuses()
    assert ends.keys() == shop.shoppers.orders
    assert {"done", "canceled"} == {*ends.values()}, Counter(ends.values())
    bank = [json.loads(line) for line in (shop.home / "bank.jsonl").read_text().splitlines()]
    payments = {(payment["order_id"], payment["payment_id"]) for payment in bank}
    assert max(Counter(order_id for order_id, _ in payments).values()) == 1
    moved = "SELECT kind, count(*) FROM payments_entry WHERE kind IN ('charge', 'refund') GROUP BY order_id, kind"
    assert {number for _, number in shop.query("payments", moved)} == {1}


def assert_everybody_heard_once(shop: Shop) -> None:
    """Each endpoint was told of the end of each order that it could hear of, by one message with its signature."""
    open_ = "SELECT count(*) FROM orders_webhookdelivery WHERE status = 'pending'"
    shop.until(lambda: shop.query("orders", open_) == [(0,)])
    heard: dict[str, Counter[str]] = {secret: Counter() for secret in shop.endpoints}
    ends = shop.statuses()
    for headers, body in shop.receiver.requests:
        (secret,) = (secret for secret in heard if is_signed_by(secret, headers, body))
        told = json.loads(body)
        assert told["type"] == f"order.{ends[told['data']['order_id']]}"
        heard[secret][told["data"]["order_id"]] += 1
    for secret, before in shop.endpoints.items():
        assert set(heard[secret].values()) == {1}, heard
        assert set(shop.shoppers.orders) - before <= heard[secret].keys()


def is_signed_by(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        signing.verify(secrets=[secret], headers=headers, body=body, now=datetime.now(UTC), tolerance=3600)
    except signing.NoMatch:
        return False
    return True
