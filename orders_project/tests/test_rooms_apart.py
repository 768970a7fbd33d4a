"""docker/compose.yaml as processes: each service apart, started in any order, behind the gateway."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import requests

from orders_project.embedded import processes

from .fleet import WEBS, Fleet

pytestmark = pytest.mark.processes

SERVICES_OF = {
    "orders-web": {"ORDERS", "PROCESSING"},  # stock is held while the customer waits
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
def fleet() -> Iterator[Fleet]:
    """Everything in compose.yaml that is ours, started before its servers and before anything was migrated."""
    with Fleet() as fleet:
        assert fleet.servers.postgres is not None
        fleet.servers.postgres.stop()
        fleet.start_gateway()
        fleet.start(*fleet.ours)
        fleet.until(lambda: all("Connection refused" in fleet.said(name) for name in fleet.ours if SERVICES_OF[name]))
        fleet.servers.postgres.start()
        fleet.until(
            lambda: all("has migrations to run" in fleet.said(name) for name in fleet.ours if SERVICES_OF[name])
        )
        fleet.deploy()
        fleet.until(lambda: all("everything is available" in fleet.said(name) for name in fleet.ours))
        for web in WEBS:
            fleet.until(lambda web=web: fleet.answers("/health/ready", service=web, port=8000))
        for address in ("gateway:8080", "grpc:50051", "fake-gateway:8900"):
            fleet.until(lambda address=address: processes.answers(fleet.port(address)))
        yield fleet


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> requests.Session:
    """A client with a token, which the back office has signed."""
    scopes = ["orders:read", "orders:write", "accounts:read", "accounts:write"]
    said = fleet.inside("back-office", "python", "manage.py", "client", "create", "shop", "--scopes", *scopes)
    secret = said.rpartition("client_secret=")[2].strip()
    answer = requests.post(
        fleet.url("/oauth/token"), data={"grant_type": "client_credentials"}, auth=("shop", secret), timeout=10
    )
    assert answer.status_code == 200, answer.text
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    return session


def place(fleet: Fleet, client: requests.Session, path: str = "/orders", **order: Any) -> dict[str, Any]:
    answer = client.post(fleet.url(path), json=order, timeout=60)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def ends(fleet: Fleet, client: requests.Session, order: dict[str, Any]) -> dict[str, Any]:
    """The order as it ends."""
    url = fleet.url(f"/orders/{order['order_id']}")

    def ended() -> bool:
        return client.get(url, timeout=60).json()["status"] in ("done", "failed", "canceled")

    fleet.until(ended)
    return dict(client.get(url, timeout=60).json())


class TestStarting:
    def test_every_process_says_what_it_waits_for_and_that_it_has_come(self, fleet: Fleet) -> None:
        for name in fleet.ours:
            lines = [line for line in fleet.said(name).splitlines() if line.startswith("wait: ")]
            assert "everything is available" in lines[-1], name
            assert len(lines) <= 6, f"{name} repeats itself: {lines}"

    def test_the_clock_waits_for_no_database(self, fleet: Fleet) -> None:
        assert "database" not in fleet.said("beat")


class TestCredentials:
    def test_a_process_has_those_of_its_room_only(self, fleet: Fleet) -> None:
        found = {
            name: {key[12:].removeprefix("_") for key in fleet.environment(name) if key.startswith("DATABASE_URL")}
            for name in fleet.ours
        }
        assert found == SERVICES_OF

    @pytest.mark.parametrize(
        "name", [name for name, services in SERVICES_OF.items() if "" not in services and services]
    )
    def test_they_open_no_other_rooms_database(self, fleet: Fleet, name: str) -> None:
        environment = fleet.environment(name)
        for url in (value for key, value in environment.items() if key.startswith("DATABASE_URL")):
            server, _, own = url.rpartition("/")
            for database in {"default", "orders", "payments", "processing"} - {own}:
                with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                    psycopg.connect(f"{server}/{database}").close()

    def test_who_takes_orders_in_can_hold_stock_and_destroy_nothing(self, fleet: Fleet) -> None:
        url = fleet.environment("orders-web")["DATABASE_URL_PROCESSING"]
        with psycopg.connect(url, autocommit=True) as connection:
            assert connection.execute("SELECT count(*) FROM processing_product").fetchone()
            for statement in ("DELETE FROM processing_hold", "TRUNCATE processing_hold", "DROP TABLE processing_hold"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)

    def test_only_the_back_office_can_sign_tokens(self, fleet: Fleet) -> None:
        private = {name for name in fleet.ours if "jwt-private.pem" in str(fleet.services[name])}
        assert private == {"back-office"}


class TestTheWholeWay:
    def test_an_order_of_the_catalogue_goes_from_post_to_done(self, fleet: Fleet, client: requests.Session) -> None:
        admin = {"X-Admin-Secret": fleet.variables["ADMIN_SECRET"]}
        lamp = {"name": "Lamp", "price": "39.90", "stock": 3}
        made = requests.post(fleet.url("/admin/products"), json=lamp, headers=admin, timeout=60)
        assert made.status_code == 201, made.text
        product = made.json()
        order = place(
            fleet, client, user_email="a@example.com", items=[{"product_id": product["product_id"], "quantity": 2}]
        )
        assert order["status"] == "reserved"
        done = ends(fleet, client, order)  # paid by the fake gateway, whose webhook comes in at payments-web
        assert (done["status"], done["payment_method"]) == ("done", "gateway")
        left = requests.get(fleet.url(f"/products/{product['product_id']}"), timeout=60).json()
        assert (left["stock"], left["held"]) == (1, 0)

    def test_an_order_by_grpc_is_paid_from_an_account(self, fleet: Fleet, client: requests.Session) -> None:
        assert client.post(fleet.url("/accounts"), params={"user_id": "ann"}, timeout=60).status_code == 201
        paid_in = client.post(fleet.url("/accounts/ann/deposit"), json={"amount": "50.00"}, timeout=60)
        assert paid_in.status_code in (200, 201), paid_in.text
        order = place(fleet, client, "/grpc/orders", user_id="ann", amount="19.99", description="A lamp")
        assert ends(fleet, client, order)["status"] == "done"
        assert client.get(fleet.url("/accounts/ann/balance"), timeout=60).json()["balance"] == 30.01

    def test_the_back_office_has_the_admin(self, fleet: Fleet) -> None:
        page = requests.get(fleet.url("/admin/login/"), timeout=60)
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")

    @pytest.mark.parametrize(
        ("web", "path"),
        [("orders-web", "/products"), ("orders-web", "/admin/login/"), ("payments-web", "/orders"),
         ("processing-web", "/accounts"), ("processing-web", "/oauth/token")],
    )  # fmt: skip
    def test_a_room_serves_no_other_rooms_doors(self, fleet: Fleet, web: str, path: str) -> None:
        answer = requests.get(fleet.url(path, service=web, port=8000), timeout=60)
        assert answer.status_code == 404


class TestHealth:
    @pytest.mark.parametrize(
        "name", ["orders-web", "payments-worker", "processing-relay", "grpc", "beat", "fake-gateway"]
    )
    def test_the_probe_of_a_service_finds_it_well(self, fleet: Fleet, name: str) -> None:
        kind, *probe = fleet.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        fleet.until(lambda: fleet.ask(name, *probe)[1] == 0)

    @pytest.mark.parametrize(
        ("name", "number"),
        [
            ("payments-worker", "clock_last_tick_seconds "),
            ("orders-relay", 'database_up{database="orders"} 1.0'),
            ("grpc", "grpc_request_seconds_count{"),
        ],
    )
    def test_a_process_without_a_web_server_shows_its_numbers(self, fleet: Fleet, name: str, number: str) -> None:
        url = fleet.url("/metrics", service=name, port=9100)
        fleet.until(lambda: number in requests.get(url, timeout=60).text)

    def test_a_room_shows_nothing_of_the_others(self, fleet: Fleet) -> None:
        url = fleet.url("/metrics", service="orders-web", port=8000)
        up = re.compile(r'database_up\{database="(\w+)"\} (\S+)')
        fleet.until(lambda: ("orders", "1.0") in up.findall(requests.get(url, timeout=60).text))
        assert {name for name, _ in up.findall(requests.get(url, timeout=60).text)} == {"orders"}


class TestLosingAServer:
    def test_everything_goes_on_when_the_servers_come_back(self, fleet: Fleet, client: requests.Session) -> None:
        assert fleet.servers.postgres is not None
        assert fleet.servers.rabbitmq is not None
        fleet.servers.rabbitmq.kill()
        order = place(fleet, client, user_email="b@example.com", items=[{"sku": "poem", "quantity": 1, "price": "5"}],
                      customer_id="b")  # fmt: skip
        fleet.servers.postgres.kill()
        away = client.get(fleet.url("/orders"), timeout=60)
        assert (away.status_code, away.headers["Content-Type"]) == (503, "application/problem+json")
        fleet.servers.postgres.start()
        fleet.servers.rabbitmq.start()
        fleet.until(lambda: fleet.answers("/health/ready", service="orders-web", port=8000))
        assert ends(fleet, client, order)["status"] == "done"
