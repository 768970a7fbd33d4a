"""docker/compose.yaml as processes: each service apart, started in any order, behind the gateway."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import amqp
import psycopg
import pytest
import requests
from amqp.exceptions import AccessRefused
from django.conf import settings

from orders_project.celery import is_work_queue
from orders_project.embedded import processes
from orders_project.privileges.broker import hashed, vhost_of
from outbox import broker
from outbox.ids import uuid7
from payments.messages import PaymentSucceeded, Refund
from processing.messages import GiveBack, OrderProcessed

from .forgeries import MAY_NOT_SEND, enveloped, forged
from .going_back import Database
from .stack import WEBS, Stack

pytestmark = pytest.mark.processes

SERVICES_OF = {
    "orders-web": {"ORDERS", "PAYMENTS", "PROCESSING"},  # stock is held while the customer waits, a payment is shown
    "grpc": {"ORDERS", "PROCESSING"},
    "payments-web": {"PAYMENTS"},
    "processing-web": {"PROCESSING"},
    "back-office": {"", "ORDERS", "PAYMENTS", "PROCESSING"},
    **{
        f"{service}-{does}": {service.upper()}
        for service in ("orders", "payments", "processing")
        for does in ("worker", "relay")
    },
    "webhooks-worker": {"ORDERS"},
    "beat": set(),
    "fake-gateway": set(),
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Everything in compose.yaml that is ours, started before its servers and before anything was migrated."""
    with Stack() as stack:
        assert stack.servers.postgres is not None
        stack.servers.postgres.stop()
        stack.start_gateway()
        stack.start(*stack.ours)
        stack.until(lambda: all("Connection refused" in stack.said(name) for name in stack.ours if SERVICES_OF[name]))
        stack.servers.postgres.start()
        stack.until(
            lambda: all("authentication failed" in stack.said(name) for name in stack.ours if SERVICES_OF[name])
        )
        stack.deploy()
        stack.until(lambda: all("everything is available" in stack.said(name) for name in stack.ours))
        for web in WEBS:
            stack.until(lambda web=web: stack.answers("/health/ready", service=web, port=8000))
        for address in ("gateway:8080", "grpc:50051", "fake-gateway:8900"):
            stack.until(lambda address=address: processes.answers(stack.port(address)))
        yield stack


@pytest.fixture(scope="module")
def client(stack: Stack) -> requests.Session:
    """A client with a token, which the back office has signed."""
    scopes = ["orders:read", "orders:write", "accounts:read", "accounts:write", "refunds:write"]
    said = stack.inside("back-office", "python", "manage.py", "client", "create", "shop", "--scopes", *scopes)
    secret = said.rpartition("client_secret=")[2].strip()
    answer = requests.post(
        stack.url("/oauth/token"), data={"grant_type": "client_credentials"}, auth=("shop", secret), timeout=60
    )
    assert answer.status_code == 200, answer.text
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    return session


def place(stack: Stack, client: requests.Session, path: str = "/orders", **order: Any) -> dict[str, Any]:
    answer = client.post(stack.url(path), json=order, timeout=60)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def free_line(sku: str) -> dict[str, Any]:
    items = [{"sku": sku, "quantity": 1, "price": "2"}]
    return {"customer_id": "c", "payment_method": "gateway", "items": items}


def ends(stack: Stack, client: requests.Session, order: dict[str, Any]) -> dict[str, Any]:
    """The order as it ends."""
    url = stack.url(f"/orders/{order['order_id']}")

    def ended() -> bool:
        return client.get(url, timeout=60).json()["status"] in ("done", "failed", "canceled")

    stack.until(ended)
    return dict(client.get(url, timeout=60).json())


class TestStarting:
    def test_every_process_says_what_it_waits_for_and_that_it_has_come(self, stack: Stack) -> None:
        for name in stack.ours:
            lines = [line for line in stack.said(name).splitlines() if line.startswith("wait: ")]
            assert "everything is available" in lines[-1], name
            assert len(lines) <= 6, f"{name} repeats itself: {lines}"

    def test_the_clock_waits_for_no_database(self, stack: Stack) -> None:
        assert "database" not in stack.said("beat")


class TestGoingBack:
    """The database of one service goes back alone, and the back office recovers it, as the roles that it has."""

    @pytest.mark.parametrize("service", ["orders", "payments", "processing"])
    def test_what_was_lost_comes_again(self, stack: Stack, client: requests.Session, service: str) -> None:
        def manage(*command: str, **more: str) -> str:
            return stack.inside("back-office", "python", "manage.py", *command, **more)

        def done(sku: str) -> dict[str, Any]:
            order = {"order_id": str(uuid7()), "user_email": "c@example.com", **free_line(sku)}
            # Sessions that were cut off are noticed when they are used.
            stack.until(lambda: client.post(stack.url("/orders"), json=order, timeout=60).ok)
            ended = ends(stack, client, order)
            assert ended["status"] == "done"
            return ended

        def shown(order: dict[str, Any]) -> dict[str, Any]:
            return dict(client.get(stack.url(f"/orders/{order['order_id']}"), timeout=60).json())

        def is_handled() -> bool:
            status = json.loads(manage("status", "--json"))
            waiting = [one["waiting"] for one in status["queues"] if is_work_queue(one["name"])]
            return not any([*waiting, *(one["pending"] for one in status["services"])])

        assert stack.servers.postgres is not None
        owner = urlsplit(stack.environment("deploy")[f"DATABASE_URL_{service.upper()}"])
        database = Database(stack.servers.postgres.url(owner.path[1:]))
        kept = done("candle")
        moment = database.back_up()
        lost = done("wick")
        refund = {"amount": 1, "reason": "burnt"}
        client.post(stack.url(f"/orders/{lost['order_id']}/refunds"), json=refund, timeout=60).raise_for_status()
        stack.until(lambda: shown(lost)["refunded_amount"] == 1)
        stack.until(is_handled)
        lost = shown(lost)
        for name in ("orders-web", "beat", f"{service}-worker"):
            stack.stop(name)
        database.go_back()
        database.tell("ALTER DATABASE {name} OWNER TO {owner}", owner=str(owner.username))
        stack.inside("deploy", "python", "manage.py", "grant")  # a copy has no privileges of the database itself

        recover = ("recover", "--service", service, "--since", moment.isoformat())
        reader = stack.environment("deploy")["AMQP_URL"]  # may read the stream of events
        assert "messages that it had sent are known to it again" in manage(*recover, AMQP_URL=reader)
        stack.start(*(name for name in stack.ours if name not in stack.running))
        stack.until(lambda: stack.answers("/health/ready", service="orders-web", port=8000))
        stack.until(is_handled)
        assert (shown(kept), shown(lost)) == (kept, lost)
        assert manage(*recover, AMQP_URL=reader) == f"{service} has nothing to recover.\n"
        manage("audit", "--grace", "0", "--settle", "2")  # finds nothing


class TestCredentials:
    def test_a_process_has_those_of_its_service_only(self, stack: Stack) -> None:
        found = {
            name: {key[12:].removeprefix("_") for key in stack.environment(name) if key.startswith("DATABASE_URL")}
            for name in stack.ours
        }
        assert found == SERVICES_OF

    @pytest.mark.parametrize(
        "name", [name for name, services in SERVICES_OF.items() if "" not in services and services]
    )
    def test_they_open_no_other_services_database(self, stack: Stack, name: str) -> None:
        environment = stack.environment(name)
        for url in (value for key, value in environment.items() if key.startswith("DATABASE_URL")):
            server, _, own = url.rpartition("/")
            for database in {"default", "orders", "payments", "processing"} - {own}:
                with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                    psycopg.connect(f"{server}/{database}").close()

    def test_their_roles_own_nothing(self, stack: Stack) -> None:
        urls = {url for name in stack.ours for url in stack.database_urls(name)}
        assert urls.isdisjoint(stack.database_urls("deploy"))
        for url in urls:
            with psycopg.connect(url, autocommit=True) as connection:
                for statement in (
                    "CREATE TABLE mine (id int)",
                    "CREATE TEMPORARY TABLE mine (id int)",
                    "DROP TABLE django_migrations",
                    "DELETE FROM django_migrations",
                    "SET session_replication_role = replica",  # switches off triggers
                    "CREATE ROLE accomplice",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement)

    def test_only_the_back_office_can_sign_tokens(self, stack: Stack) -> None:
        private = {name for name in stack.ours if "jwt-private.pem" in str(stack.services[name])}
        assert private == {"back-office"}


def channel_of(stack: Stack, name: str) -> Any:
    """A channel with the credentials of a process."""
    return broker.connect(stack.environment(name)["AMQP_URL"]).channel()


def read_stream(channel: Any) -> None:
    """Begin to read the stream of events, and end."""
    channel.basic_qos(0, 1, False)
    channel.basic_consume("events.stream", callback=lambda message: None, arguments={"x-stream-offset": "first"})
    channel.connection.close()


class TestTheBroker:
    @pytest.mark.parametrize(("name", "exchange", "key"), MAY_NOT_SEND)
    def test_refuses_what_a_process_has_no_business_to_send(
        self, stack: Stack, name: str, exchange: str, key: str
    ) -> None:
        channel = channel_of(stack, name)
        with pytest.raises(AccessRefused):
            channel.basic_publish_confirm(amqp.Message(b"[[], {}, {}]"), exchange=exchange, routing_key=key)
        channel.connection.close()

    @pytest.mark.parametrize(
        "attempt",
        [
            lambda channel: channel.queue_declare("mine"),
            lambda channel: channel.exchange_declare("mine", "topic"),
            lambda channel: channel.queue_delete("orders"),
            lambda channel: channel.queue_unbind("orders", "messages", "orders.#"),
            lambda channel: channel.queue_bind("orders", "messages", "payments.#"),
            lambda channel: channel.exchange_delete("messages"),
            lambda channel: channel.queue_delete("events.stream"),
            lambda channel: channel.queue_unbind("events.stream", "events", "#"),
            lambda channel: channel.queue_declare("mine", arguments={"x-queue-type": "stream"}, durable=True),
            lambda channel: channel.queue_bind("inspect.answers", "messages", "#"),
            lambda channel: channel.queue_delete("inspect.questions"),
        ],
    )
    def test_lets_no_process_change_the_topology(self, stack: Stack, attempt: Callable[[Any], Any]) -> None:
        for name in ("orders-worker", "payments-worker", "webhooks-worker", "beat", "orders-web", "back-office"):
            channel = channel_of(stack, name)
            with pytest.raises(AccessRefused):
                attempt(channel)
            channel.connection.close()

    @pytest.mark.parametrize("queue", ["orders", "orders.dlq", "payments", "processing", "events.unheard"])
    def test_lets_the_worker_of_webhooks_read_its_own_queue_only(self, stack: Stack, queue: str) -> None:
        channel = channel_of(stack, "webhooks-worker")
        with pytest.raises(AccessRefused):
            channel.basic_get(queue)
        channel.connection.close()

    def test_lets_the_back_office_alone_ask_workers_what_they_do(self, stack: Stack) -> None:
        workers = {"orders", "webhooks", "payments", "processing"}

        def shown() -> Any:
            return json.loads(stack.ask("back-office", "python", "manage.py", "workers", "--json")[0])["workers"]

        stack.until(lambda: {worker["name"].partition("@")[0] for worker in shown()} == workers)
        said, code = stack.ask("orders-web", "python", "manage.py", "workers")
        assert code == 1
        assert "may not ask workers" in said

    def test_lets_no_process_read_the_stream_of_events(self, stack: Stack) -> None:
        for name in ("orders-worker", "orders-relay", "payments-worker", "webhooks-worker", "beat", "orders-web"):
            with pytest.raises(AccessRefused):
                read_stream(channel_of(stack, name))

    def test_lets_a_subscriber_read_the_stream_and_do_nothing_else(self, stack: Stack, tmp_path: Path) -> None:
        """With the permissions that docs/events.md names."""
        (pattern,) = re.findall(r"needs to read `(.*?)`", (Path(settings.BASE_DIR) / "docs/events.md").read_text())
        url = urlsplit(stack.environment("orders-relay")["AMQP_URL"])
        vhost = vhost_of(url.geturl())
        reader = {"user": "reader", "vhost": vhost, "configure": "^$", "write": "^$", "read": pattern}
        user = {"name": "reader", "password_hash": hashed("secret"), "tags": "", "limits": {}}
        algorithm = {"hashing_algorithm": "rabbit_password_hashing_sha256"}
        file = tmp_path / "reader.json"
        file.write_text(json.dumps({"users": [user | algorithm], "permissions": [reader]}))
        assert stack.servers.rabbitmq is not None
        stack.servers.rabbitmq.import_definitions(file)
        own = url._replace(netloc=f"reader:secret@{url.hostname}:{url.port}").geturl()
        read_stream(broker.connect(own).channel())
        for attempt in (
            lambda channel: channel.basic_publish_confirm(amqp.Message(b"{}"), "", "events.stream"),
            lambda channel: channel.basic_publish_confirm(amqp.Message(b"{}"), "events", "order.paid"),
            lambda channel: channel.queue_delete("events.stream"),
            lambda channel: channel.queue_declare("mine"),
            lambda channel: channel.basic_get("orders"),
        ):
            with pytest.raises(AccessRefused):
                attempt(broker.connect(own).channel())

    def test_refuses_one_message_of_a_batch_and_takes_the_others(self, stack: Stack) -> None:
        fine, forbidden = GiveBack(order_id="o-1", hold_id=str(uuid7())), Refund(order_id="o-1")
        batch = [([enveloped(one)], one.to) for one in (fine, forbidden, fine)]
        publisher = broker.Publisher(stack.environment("processing-relay")["AMQP_URL"])
        outcome = publisher.publish(batch)
        publisher.close()
        assert outcome.confirmed == {0, 2}
        assert list(outcome.refused) == [1]
        assert "payments.payments.refund" in outcome.refused[1]

    def test_what_is_sent_under_a_permitted_type_can_be_nothing_else(self, stack: Stack) -> None:
        """With the credentials of processing, which may say that an order is processed and not that it is paid."""
        paid, processed = PaymentSucceeded(order_id="o-1", payment_id="p-1"), OrderProcessed(order_id="o-1")
        sent_as = "order.processed"
        forgeries = [
            forged(paid, task=paid.type),  # in the header
            forged(paid, task=sent_as),  # in the body
            forged(paid, task=sent_as, named=True),
            forged(paid, task="celery.map"),
            forged(processed, task=sent_as, callbacks=[{"task": paid.type, "args": []}]),
        ]
        genuine, last = forged(processed, task=sent_as)
        channel = channel_of(stack, "processing-relay")
        for _, message in (*forgeries, (genuine, last)):
            channel.basic_publish_confirm(message, exchange="messages", routing_key=f"orders.{sent_as}")
        channel.connection.close()
        (owner,) = (url for url in stack.database_urls("deploy") if url.endswith("/orders"))
        with psycopg.connect(owner, autocommit=True) as connection:

            def rows(what: str) -> list[Any]:
                return connection.execute(what).fetchall()

            stack.until(lambda: len(rows("SELECT 1 FROM outbox_deadletter WHERE origin = 'broker'")) >= len(forgeries))
            # The genuine one reaches its handler, which knows no such order.
            stack.until(lambda: rows("SELECT 1 FROM outbox_deadletter WHERE origin = 'consumer'"))
            ((reached,),) = rows("SELECT message_id FROM outbox_deadletter WHERE origin = 'consumer'")
            handled = {str(one) for (one,) in rows("SELECT message_id FROM outbox_incomingmessage")}
            reasons = rows("SELECT reason FROM outbox_deadletter WHERE origin = 'broker' ORDER BY reason")
            connection.execute("DELETE FROM outbox_deadletter")
        assert str(reached) == genuine
        assert handled.isdisjoint(message_id for message_id, _ in forgeries)
        assert [reason for (reason,) in reasons] == ["forged_type"] * 3 + ["malformed", "rejected"]


class Receiver(BaseHTTPRequestHandler):
    """A customer's server, which is out of order at first."""

    taken: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["type"]
        self.taken.append(event)
        self.send_response(500 if self.taken.count(event) == 1 else 204)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Quiet."""


class TestTheWholeWay:
    def test_a_webhook_goes_out_at_the_second_attempt(self, stack: Stack, client: requests.Session) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        register = (
            "from orders import webhook_endpoints; from outbox import clock; webhook_endpoints.register("
            f"url='http://127.0.0.1:{server.server_port}/', events=['order.done'], hears_all=True, actor='test',"
            " now=clock.now('orders'))"
        )
        stack.inside("orders-web", "python", "manage.py", "shell", "--no-imports", "-c", register)
        (owner,) = (url for url in stack.database_urls("deploy") if url.endswith("/orders"))
        with psycopg.connect(owner, autocommit=True) as connection:
            order = place(stack, client, user_email="c@example.com", **free_line("ode"))
            assert ends(stack, client, order)["status"] == "done"
            query = "SELECT status, attempts FROM orders_webhookdelivery WHERE order_id = %s"
            stack.until(lambda: connection.execute(query, [order["order_id"]]).fetchone() == ("delivered", 2))
            connection.execute("UPDATE orders_webhookendpoint SET is_active = false")
        server.shutdown()
        server.server_close()

    def test_an_order_that_is_canceled_after_its_payment_gets_its_money_back(
        self, stack: Stack, client: requests.Session
    ) -> None:
        (payments,) = (url for url in stack.database_urls("deploy") if url.endswith("/payments"))
        query = "SELECT status FROM payments_payment WHERE order_id = %s"
        worker = stack.running["orders-worker"]
        with psycopg.connect(payments, autocommit=True) as connection:
            os.kill(worker.pid, signal.SIGSTOP)  # so that orders does not hear of the payment before it is canceled
            try:
                order = place(stack, client, user_email="d@example.com", **free_line("aria"))
                key = [order["order_id"]]
                stack.until(lambda: connection.execute(query, key).fetchone() == ("succeeded",))
                canceled = client.post(stack.url(f"/orders/{order['order_id']}/cancel"), timeout=60)
                assert canceled.status_code in (200, 202), canceled.text
            finally:
                os.kill(worker.pid, signal.SIGCONT)
            assert ends(stack, client, order)["status"] == "canceled"
            assert connection.execute(query, key).fetchone() == ("refunded",)

    def test_an_order_of_the_catalogue_goes_from_post_to_done(self, stack: Stack, client: requests.Session) -> None:
        admin = {"X-Admin-Secret": stack.variables["ADMIN_SECRET"]}
        lamp = {"name": "Lamp", "price": "39.90", "stock": 3}
        made = requests.post(stack.url("/admin/products"), json=lamp, headers=admin, timeout=60)
        assert made.status_code == 201, made.text
        product = made.json()
        order = place(
            stack,
            client,
            user_email="a@example.com",
            items=[{"product_id": product["product_id"], "quantity": 2}],
        )
        assert order["status"] == "reserved"
        done = ends(stack, client, order)  # paid by the fake gateway, whose webhook comes in at payments-web
        assert (done["status"], done["payment_method"]) == ("done", "gateway")
        left = requests.get(stack.url(f"/products/{product['product_id']}"), timeout=60).json()
        assert (left["stock"], left["held"]) == (1, 0)

    def test_an_order_by_grpc_is_paid_from_an_account(self, stack: Stack, client: requests.Session) -> None:
        assert client.post(stack.url("/accounts"), params={"user_id": "ann"}, timeout=60).status_code == 201
        paid_in = client.post(stack.url("/accounts/ann/deposit"), json={"amount": "50.00"}, timeout=60)
        assert paid_in.status_code in (200, 201), paid_in.text
        order = place(stack, client, "/grpc/orders", user_id="ann", amount="19.99", description="A lamp")
        assert ends(stack, client, order)["status"] == "done"
        assert client.get(stack.url("/accounts/ann/balance"), timeout=60).json()["balance"] == 30.01

    def test_the_back_office_has_the_admin(self, stack: Stack) -> None:
        page = requests.get(stack.url("/admin/login/"), timeout=60)
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")

    @pytest.mark.parametrize(
        ("web", "path"),
        [("orders-web", "/products"), ("orders-web", "/admin/login/"), ("payments-web", "/orders"),
         ("processing-web", "/accounts"), ("processing-web", "/oauth/token")],
    )  # fmt: skip
    def test_a_service_serves_no_endpoint_of_another(self, stack: Stack, web: str, path: str) -> None:
        answer = requests.get(stack.url(path, service=web, port=8000), timeout=60)
        assert answer.status_code == 404


class TestHealth:
    @pytest.mark.parametrize(
        "name", ["orders-web", "payments-worker", "processing-relay", "grpc", "beat", "fake-gateway"]
    )
    def test_the_probe_of_a_service_finds_it_well(self, stack: Stack, name: str) -> None:
        kind, *probe = stack.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        stack.until(lambda: stack.ask(name, *probe)[1] == 0)

    @pytest.mark.parametrize(
        ("name", "number"),
        [
            ("payments-worker", "clock_last_tick_seconds "),
            ("orders-relay", 'database_up{database="orders"} 1.0'),
            ("grpc", "grpc_request_seconds_count{"),
        ],
    )
    def test_a_process_without_a_web_server_shows_its_numbers(self, stack: Stack, name: str, number: str) -> None:
        url = stack.url("/metrics", service=name, port=9100)
        stack.until(lambda: number in requests.get(url, timeout=60).text)

    def test_a_service_shows_nothing_of_the_others(self, stack: Stack) -> None:
        url = stack.url("/metrics", service="orders-web", port=8000)
        up = re.compile(r'database_up\{database="(\w+)"\} (\S+)')
        stack.until(lambda: ("orders", "1.0") in up.findall(requests.get(url, timeout=60).text))
        assert {name for name, _ in up.findall(requests.get(url, timeout=60).text)} == {"orders"}


class TestLosingAServer:
    def test_everything_goes_on_when_the_servers_come_back(self, stack: Stack, client: requests.Session) -> None:
        assert stack.servers.postgres is not None
        assert stack.servers.rabbitmq is not None
        stack.servers.rabbitmq.kill()
        order = place(stack, client, user_email="b@example.com", items=[{"sku": "poem", "quantity": 1, "price": "5"}],
                      customer_id="b")  # fmt: skip
        stack.servers.postgres.kill()
        away = client.get(stack.url("/orders"), timeout=60)
        assert (away.status_code, away.headers["Content-Type"]) == (503, "application/problem+json")
        stack.servers.postgres.start()
        stack.servers.rabbitmq.start()
        stack.until(lambda: stack.answers("/health/ready", service="orders-web", port=8000))
        assert ends(stack, client, order)["status"] == "done"
