"""Lists, exports, reports and the audit are read from a standby that streams, as long as nobody can tell."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from django.core.management import call_command
from django.db import Error, connections, transaction
from django.db.models import F
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import resolve
from django.utils import timezone
from google.protobuf.empty_pb2 import Empty

from common import reads
from common import standby as measuring
from common.admin import bulk_runs
from common.audit import Scope
from common.principal import Principal
from orders import factories, services
from orders.grpc import Call, OrderService
from orders.models import LatestWrite, Order
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders_project.audit import CHECKS, audit
from orders_project.backoffice import readings, system_health
from orders_project.embedded import processes, variable
from orders_project.embedded.postgres import Postgres
from orders_project.grpc.deadlines import statements_end_in
from orders_project.http.middleware import OwnWrites
from orders_project.observability import metrics
from orders_project.observability.status import look
from payments.books.trial_balance import trial_balances
from payments.models import Account
from processing import services as stock
from processing.models import Product

from . import databases, forked
from .callers import bearer, new_key
from .conftest import HOME
from .standbys import Streaming, aliases, read_settings, streaming
from .test_admin_actions import client_of, do
from .test_bulk_runs import confirm

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]

NOTHING = timedelta(0)
HERE = ("default", "orders", "payments", "processing")
SCOPES = ("orders:read", "orders:write", "accounts:read", "accounts:write")


@pytest.fixture(scope="module")
def streams(django_db_setup: None, django_db_blocker: Any) -> Iterator[Streaming]:
    if not (HOME / "postgres").exists():
        pytest.skip("the server is not ours")
    with django_db_blocker.unblock(), streaming(Postgres.attached(HOME / "postgres")) as standby, aliases(standby):
        yield standby


@pytest.fixture
def standby(streams: Streaming, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Streaming]:
    """A standby that has come as far as its primary, and that every process here knows."""
    settings.STANDBYS = {service: f"{service}_read" for service in settings.SERVICES}
    settings.READ_LAG_MAX_SECONDS = 600
    for alias in settings.STANDBYS.values():
        reconnect(alias)
    monkeypatch.setattr(measuring, "EVERY", 0.05)
    monkeypatch.setattr(measuring, "TIMEOUT", 10)
    known: dict[str, measuring.Standby] = {}
    monkeypatch.setattr(measuring, "_standbys", known)
    if not streams.server.is_running:
        streams.server.start()
    streams.go_on()
    streams.catch_up()
    for service in settings.SERVICES:  # whose places in the log are known from before a test holds the replay
        one = measuring.standby_of(service)
        assert one is not None
        one.watch()
    streams.catch_up()
    yield streams
    for one in known.values():
        one.end()
    for alias in settings.STANDBYS.values():
        reconnect(alias)
    if streams.server.is_running:
        streams.go_on()


@pytest.fixture
def tokens(settings: Any, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    settings.API_AUTH = "required"
    settings.JWT_KEY_FILES = [new_key(tmp_path / "key.pem")]
    return lambda name: bearer(name, *SCOPES)


def reconnect(alias: str) -> None:
    """Let this thread connect anew, by the settings that there are now."""
    connections[alias].close()
    del connections[alias]


def answered(source: str, reason: str = "", *, database: str = "orders") -> float:
    """How many reads were answered there, for that reason."""
    return float(reads.READS.labels(database, source, reason)._value.get())


def listed(client: Client, **headers: Any) -> set[str]:
    """The ids of the orders in the list of the API."""
    answer = client.get("/orders", **headers)
    assert answer.status_code == 200, answer.content
    return {order["order_id"] for order in answer.json()["results"]}


def seen_by(client: Client) -> str:
    """The list of orders of the back office."""
    answer = client.get("/admin/orders/order/")
    assert answer.status_code == 200
    return str(answer.content.decode())


def exported_by(client: Client) -> str:
    """The file of the list of orders of the back office."""
    answer: Any = client.post("/admin/orders/order/export/", {"columns": ["order_id"]})
    assert answer.status_code == 200
    return b"".join(answer.streaming_content).decode()


class TestFromTheStandby:
    def test_comes_a_list_and_not_an_order(self, standby: Streaming, client: Client) -> None:
        old = factories.order()
        standby.hold()
        new = factories.order()
        before = answered("standby")
        assert listed(client) == {old.pk}
        assert answered("standby") == before + 1
        assert client.get(f"/orders/{new.pk}").status_code == 200
        standby.go_on()
        processes.wait_until(lambda: listed(client) == {old.pk, new.pk}, timeout=60)

    def test_come_the_other_lists_of_the_api(self, standby: Streaming, client: Client) -> None:
        Account.objects.create(user_id="ann", principal="", kind="customer", currency="USD")
        standby.hold()
        Account.objects.create(user_id="bob", principal="", kind="customer", currency="USD")
        users = [one["user_id"] for one in client.get("/accounts").json()["results"]]
        assert users == ["ann"]
        assert client.get("/accounts/ann/entries").json()["results"] == []
        assert client.get("/products").json()["results"] == []
        assert answered("standby", database="payments") >= 2
        assert answered("standby", database="processing") >= 1

    def test_come_the_lists_of_grpc_within_the_time_of_the_call(self, standby: Streaming) -> None:
        old = factories.order()
        standby.hold()
        factories.order()
        call = Call(principal=Principal(sees_all=True))
        with statements_end_in(60), CaptureQueriesContext(connections["orders_read"]) as asked:
            found = OrderService().ListOrders(Empty(), call).orders
            with connections["orders_read"].cursor() as cursor:
                cursor.execute("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'")
                assert cursor.fetchone()[0] <= 60_000
        assert [order.order_id for order in found] == [old.pk]
        assert asked.captured_queries

    def test_come_the_lists_and_files_of_the_back_office(self, standby: Streaming) -> None:
        old = factories.order()
        boss, other = client_of("manager"), client_of("manager", "other")
        standby.hold()
        new = factories.order()
        page = seen_by(boss)
        assert old.pk in page
        assert new.pk not in page
        assert boss.get(f"/admin/orders/order/{new.pk}/change/").status_code == 200
        lines = exported_by(boss)
        assert old.pk in lines
        assert new.pk not in lines
        assert do(other, new, "cancel", reason="asked").status_code == 302
        assert new.pk in exported_by(other)

    def test_come_numbers_of_the_dashboard_and_the_trial_balance(self, standby: Streaming) -> None:
        factories.order()
        standby.hold()
        factories.order()
        assert sum(row["orders"] for row in readings.HOURLY.take()) == 1
        assert sum(row["orders"] for row in readings.HOURLY.take("orders")) == 2
        before = answered("standby", database="payments")
        call_command("ledger", "trial_balance")
        assert answered("standby", database="payments") == before + 1
        assert trial_balances() == []


class TestFromThePrimary:
    def test_comes_what_the_standby_is_too_late_for(self, standby: Streaming, client: Client, settings: Any) -> None:
        settings.READ_LAG_MAX_SECONDS = 0.5
        standby.hold()
        new = factories.order()
        processes.wait_until(lambda: listed(client) == {new.pk}, timeout=60)
        assert answered("primary", "late") >= 1
        seen = look()
        (trouble,) = [line for line in seen.troubles if "standby of orders" in line]
        assert "behind" in trouble or "not known" in trouble
        assert {one.name: one.bytes_behind > 0 for one in seen.standbys}["orders"]

    def test_comes_what_one_of_several_standbys_is_too_late_for(
        self, standby: Streaming, client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An address may stand for several: another one is measured than the one that this thread reads from."""
        settings.READ_LAG_MAX_SECONDS = 5
        with streaming(standby.primary) as other:
            with monkeypatch.context() as there:
                there.setitem(connections.settings, "orders_read", read_settings("orders", port=other.server.port))
                reconnect("orders_read")
                connections["orders_read"].ensure_connection()
            other.hold()
            new = factories.order()
            late = answered("primary", "late")
            processes.wait_until(lambda: listed(client) == {new.pk}, timeout=60)
            assert answered("primary", "late") > late
            one = measuring.standby_of("orders")
            assert one is not None
            processes.wait_until(lambda: one.in_words() == "", timeout=60)
            reconnect("orders_read")

    def test_comes_all_while_the_standby_is_dead(self, standby: Streaming, client: Client) -> None:
        order = factories.order()
        standby.catch_up()
        failed = answered("primary", "failed")
        processes.wait_until(lambda: listed(client) == {order.pk} and answered("standby") > 0, timeout=60)
        standby.server.kill()
        assert listed(client) == {order.pk}
        assert answered("primary", "failed") + answered("primary", "trouble") > failed
        one = measuring.standby_of("orders")
        assert one is not None
        processes.wait_until(lambda: one.trouble == "does not answer", timeout=60)
        late = answered("primary", "failed")
        assert listed(client) == {order.pk}
        assert answered("primary", "failed") == late  # it is not even asked
        standby.server.start()
        back = answered("standby")
        processes.wait_until(lambda: listed(client) == {order.pk} and answered("standby") > back, timeout=60)

    def test_comes_what_a_frozen_standby_was_asked_for(
        self, standby: Streaming, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order = factories.order()
        standby.catch_up()
        processes.wait_until(lambda: listed(client) == {order.pk} and answered("standby") > 0, timeout=60)
        with standby.frozen():
            assert listed(client) == {order.pk}
        assert answered("primary", "failed") + answered("primary", "trouble") > 0

    def test_comes_what_a_transaction_there_reads(self, standby: Streaming) -> None:
        standby.hold()
        order = factories.order()

        def read() -> list[int]:
            outside = Order.objects.filter(pk=order.pk).count()
            with transaction.atomic(using="orders"):
                inside = Order.objects.filter(pk=order.pk).count()
                assert Order.objects.select_for_update().get(pk=order.pk)
            return [outside, inside]

        assert reads.may_lag(read, "orders") == [0, 1]
        assert Order.objects.filter(pk=order.pk).exists()  # where nothing was declared

    def test_comes_what_is_in_the_wrong_place(
        self, standby: Streaming, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order = factories.order()
        one = measuring.standby_of("orders")
        assert one is not None
        for there, trouble in (
            (read_settings("orders", port=standby.primary.port), "is a primary"),
            (read_settings("payments", port=standby.server.port), "is one of another database"),
        ):
            monkeypatch.setitem(connections.settings, "orders_read", there)
            reconnect("orders_read")
            one.look()
            assert one.trouble == trouble
        assert listed(client) == {order.pk}


class TestOwnWrites:
    def test_are_seen_at_once(
        self, standby: Streaming, client: Client, tokens: Callable[[str], dict[str, str]], settings: Any
    ) -> None:
        settings.ORDERS_ALLOW_FREE_LINES = True
        ann, bob = tokens("ann"), tokens("bob")
        standby.hold()
        made = {}
        for name, headers in (("ann", ann), ("ann", ann)):
            body = {"user_id": name, "amount": 5, "description": "lamp"}
            answer = client.post("/orders", body, content_type="application/json", headers=headers)
            assert answer.status_code == 201, answer.content
            made[answer.json()["order_id"]] = name
        own = answered("primary", "own_write")
        assert listed(client, headers=ann) == set(made)
        assert answered("primary", "own_write") == own + 1
        from_standby = answered("standby")
        assert listed(client, headers=bob) == set()
        assert answered("standby") == from_standby + 1
        canceled = next(iter(made))
        assert client.post(f"/orders/{canceled}/cancel", headers=ann).status_code in (200, 202)
        shown = {one["order_id"]: one["status"] for one in client.get("/orders", headers=ann).json()["results"]}
        assert shown[canceled] != "pending"
        standby.go_on()
        processes.wait_until(
            lambda: listed(client, headers=ann) == set(made) and answered("standby") > from_standby + 1, timeout=60
        )

    def test_of_an_operator_are_seen_by_that_operator(self, standby: Streaming) -> None:
        order = factories.order()
        boss, other = client_of("manager", "boss"), client_of("manager", "other")
        standby.hold()
        assert do(boss, order, "cancel", reason="asked").status_code == 302
        assert 'status-voiding"' in seen_by(boss)
        assert 'status-voiding"' not in seen_by(other)

    def test_through_grpc_are_seen_at_once(
        self, standby: Streaming, grpc_channel: grpc.Channel, tokens: Callable[[str], dict[str, str]]
    ) -> None:
        orders = OrderServiceStub(grpc_channel)
        ann, bob = ([("authorization", tokens(name)["Authorization"])] for name in ("ann", "bob"))
        standby.hold()
        made = orders.CreateOrder(pb.CreateOrderRequest(user_id="ann", amount=5), metadata=ann)
        assert [order.order_id for order in orders.ListOrders(Empty(), metadata=ann).orders] == [made.order_id]
        assert answered("primary", "own_write") >= 1
        before = answered("standby")
        assert not orders.FindOrders(pb.FindOrdersRequest(), metadata=bob).orders
        assert answered("standby") == before + 1

    def test_of_a_bulk_action_are_noted_for_whoever_began_it(self, standby: Streaming) -> None:
        standby.hold()
        factories.order()
        run = confirm(client_of("manager", "boss"), "/admin/orders/order/all/cancel/?standing=open")
        assert run.total == 1  # what is acted on is not read from the standby
        LatestWrite.objects.all().delete()
        bulk_runs.work_off(uuid4())
        assert [note.principal for note in LatestWrite.objects.all()] == ["staff:boss"]

    @pytest.mark.parametrize(
        ("path", "status", "noted"),
        [("/orders", 201, ["ann"]), ("/orders", 500, ["ann"]), ("/orders", 409, []), ("/webhooks/payments", 202, [])],
    )
    def test_are_noted_for_who_reads_lists_and_may_have_written(
        self, standby: Streaming, rf: RequestFactory, path: str, status: int, noted: list[str]
    ) -> None:
        request = rf.post(path)
        request.user = Principal(name="ann")  # type: ignore[assignment]
        request.resolver_match = resolve(path)
        OwnWrites(lambda _request: HttpResponse(status=status))(request)
        assert [note.principal for note in LatestWrite.objects.all()] == noted

    def test_are_noted_by_place_and_by_name(self, standby: Streaming) -> None:
        reads.note_write("ann")
        assert {*LatestWrite.objects.values_list("principal", flat=True)} == {"ann"}
        position = LatestWrite.objects.get().position
        factories.order()
        reads.note_write("ann")
        assert LatestWrite.objects.get().position > position


class TestTheAudit:
    def miscount(self, by: int) -> None:
        """Let the counters of a product say other than its movements."""
        Product.objects.update(available=F("available") + by, received=F("received") + by)

    @pytest.fixture(autouse=True)
    def lamp(self) -> None:
        stock.make_product(name="Lamp", sku="lamp", price=1200, stock=10, actor="test", now=timezone.now())

    def test_looks_at_the_standby_and_believes_the_primary(self, standby: Streaming) -> None:
        self.miscount(1)
        standby.hold()
        self.miscount(-1)
        before = answered("standby", database="processing")
        suspected = reads.may_lag(
            lambda: list(CHECKS["counters"].check(Scope(timezone.now(), NOTHING, NOTHING))), "processing"
        )
        assert [finding.subject for finding in suspected] == ["lamp"]
        assert audit(grace=NOTHING, settle=NOTHING).findings == []
        assert answered("standby", database="processing") > before + 1

    def test_finds_what_is_wrong(self, standby: Streaming) -> None:
        self.miscount(1)
        standby.catch_up()
        for standbys in (True, False):
            found = audit(grace=NOTHING, settle=NOTHING, standbys=standbys).findings
            assert [finding.subject for finding in found] == ["lamp"]


class TestTheStandby:
    def test_is_never_written_to(self, standby: Streaming, client: Client) -> None:
        order = factories.order()
        standby.catch_up()

        def change() -> None:
            found = Order.objects.get(pk=order.pk)
            assert found._state.db == "orders_read"
            found.description = "changed"
            found.save()

        reads.may_lag(change, "orders")
        assert Order.objects.get(pk=order.pk).description == "changed"
        with pytest.raises(Error, match="read-only"), connections["orders_read"].cursor() as cursor:
            cursor.execute("DELETE FROM orders_latestwrite")
        there = connections["orders"].get_connection_params() | {
            "options": read_settings("orders", port=0)["OPTIONS"]["options"]
        }
        parameters = {name: there[name] for name in ("host", "port", "user", "password", "dbname", "options")}
        with closing(psycopg.connect(**parameters)) as primary, pytest.raises(psycopg.Error, match="read-only"):
            primary.execute("DELETE FROM orders_latestwrite")

    def test_may_be_read_by_who_may_only_read(
        self, standby: Streaming, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with connections["orders"].cursor() as cursor:
            cursor.execute("CREATE ROLE only_reads LOGIN PASSWORD 'only_reads'")
            cursor.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO only_reads")
        try:
            order = factories.order()
            standby.catch_up()
            there = read_settings("orders", port=standby.server.port, USER="only_reads", PASSWORD="only_reads")
            monkeypatch.setitem(connections.settings, "orders_read", there)
            reconnect("orders_read")
            before = answered("standby")
            processes.wait_until(lambda: listed(client) == {order.pk} and answered("standby") > before, timeout=60)
            connections["orders_read"].close()
        finally:
            with connections["orders"].cursor() as cursor:
                cursor.execute("DROP OWNED BY only_reads")
                cursor.execute("DROP ROLE only_reads")

    def test_is_known_to_a_process_by_its_environment(self, standby: Streaming) -> None:
        own = {variable(alias): standby.primary.url(databases.name(alias, of=databases.WORKER)) for alias in HERE}
        there = {"DATABASE_URL_ORDERS_READ": standby.server.url(databases.name("orders", of=databases.WORKER))}
        environment = {**os.environ, **own, **there}
        for command in (["migrate_all"], ["status", "--json"]):
            done = forked.run(["python", "manage.py", *command], env=environment)
        (seen,) = json.loads(done.stdout)["standbys"]
        assert (seen["name"], seen["trouble"]) == ("orders", ""), done.stderr

    def test_is_not_late_because_nobody_writes(self, standby: Streaming, settings: Any) -> None:
        settings.READ_LAG_MAX_SECONDS = 5
        one = measuring.standby_of("orders")
        assert one is not None
        for _ in range(3):
            one.look()
            assert (one.trouble, one.bytes_behind, one.is_late) == ("", 0, False)

    def test_is_shown_and_metered(self, standby: Streaming, client: Client, capsys: Any) -> None:
        listed(client)
        text = metrics.view(None).content.decode()  # type: ignore[arg-type]
        assert 'database_standby_up{database="orders"} 1.0' in text
        assert 'database_standby_lag_seconds{database="orders"}' in text
        assert 'database_reads_total{database="orders",reason="",source="standby"}' in text
        with pytest.raises(SystemExit):  # no worker runs
            call_command("status")
        assert "orders standby" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            call_command("status", "--json")
        shown = json.loads(capsys.readouterr().out)["standbys"]
        assert [(one["name"], one["trouble"]) for one in shown] == [
            (service, "") for service in ("orders", "payments", "processing")
        ]
        (part,) = [part for part in system_health.parts() if str(part.name) == "standby orders"]
        assert part.mood == "good"
        assert "behind" in str(part.state)


class TestWithoutOne:
    def test_nothing_is_asked_or_noted_besides(self, client: Client, settings: Any) -> None:
        assert settings.STANDBYS == {}
        assert measuring.standby_of("orders") is None
        settings.ORDERS_ALLOW_FREE_LINES = True
        with CaptureQueriesContext(connections["orders"]) as asked:
            body = {"user_id": "ann", "amount": 5, "description": "lamp"}
            assert client.post("/orders", body, content_type="application/json").status_code == 201
        assert not [query for query in asked.captured_queries if "latestwrite" in query["sql"]]
        with CaptureQueriesContext(connections["orders"]) as asked:
            assert len(listed(client)) == 1
        assert len(asked.captured_queries) == 2  # the orders and their lines
        assert services.orders_of(Principal(sees_all=True)).db == "orders"
