"""GET /orders, /orders/{id} and /orders/{id}/events."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from orders import factories, filters, services, transitions
from orders.models import Order
from payments.messages import PaymentFailed
from processing.messages import StockReleased

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(order: Order, moment: datetime) -> str:
    Order.objects.filter(pk=order.pk).update(created_at=moment)
    return order.order_id


def listed(client: Client, query: str = "") -> list[str]:
    answer = client.get(f"/orders{query}")
    assert answer.status_code == 200, answer.content
    return [order["order_id"] for order in answer.json()["results"]]


class TestTheList:
    def test_shows_the_newest_first(self, client: Client) -> None:
        ids = [at(factories.order(), NOON + timedelta(hours=hour)) for hour in (1, 3, 2)]
        assert listed(client) == [ids[1], ids[2], ids[0]]

    def test_is_empty_at_first(self, client: Client) -> None:
        assert client.get("/orders/").json() == {"results": [], "next": None}

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("customer_id=c1", "c"),
            ("user_id=ann", "cues"),
            ("user_id=bob", ""),
            ("user_email=e@example.com", "e"),
            ("sku=LAMP", "s"),
            ("sku=la", ""),
            ("sku=lamp&user_id=bob", ""),
            ("status=pending", "cues"),
            ("status=done", ""),
            ("status=pending&customer_id=c1", "c"),
            ("created_from=2026-03-01T13:00:00Z", "ues"),
            ("created_to=2026-03-01T13:00:00Z", "c"),
            ("created_from=2026-03-01T14:00:00%2B01:00&created_to=2026-03-01T15:00:00%2B01:00", "u"),
            ("customer_id=&status=&created_from=&limit=&cursor=", "cues"),  # as a form sends what is left empty
        ],
    )
    @pytest.mark.parametrize("many", [filters.MANY, 0])
    def test_is_filtered(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, query: str, found: str, many: int
    ) -> None:
        monkeypatch.setattr(filters, "MANY", many)
        lines = tuple(services.Line(sku=sku, quantity=1, price=5_00) for sku in ("Lamp", "lamp shade"))
        new = services.NewOrder(lines=lines, user_id="ann", principal="")
        of_skus, _is_new = services.place_order(new=new, now=timezone.now(), actor="")
        names = {
            at(of_skus, NOON + timedelta(hours=3)): "s",
            at(factories.order(customer_id="c1"), NOON): "c",
            at(factories.order(), NOON + timedelta(hours=1)): "u",
            at(factories.order(user_email="e@example.com"), NOON + timedelta(hours=2)): "e",
        }
        assert {names[order_id] for order_id in listed(client, f"?{query}")} == set(found)

    def test_pages_show_each_order_once_though_many_came_at_the_same_moment(self, client: Client) -> None:
        ids = {at(factories.order(), NOON + timedelta(hours=number // 4)) for number in range(11)}
        seen: list[str] = []
        page = client.get("/orders?limit=3&user_id=ann").json()
        while True:
            seen += [order["order_id"] for order in page["results"]]
            if page["next"] is None:
                break
            factories.order()  # what is new does not shift the pages
            page = client.get(page["next"]).json()
        assert len(seen) == 11
        assert set(seen) == ids

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=-1", "limit"),
            ("limit=x", "limit"),
            ("limit=%D9%A3", "limit"),
            ("cursor=x", "cursor"),
            ("cursor=%00", "cursor"),
            ("cursor=WyJ4IiwieSJd", "cursor"),  # ["x","y"]
            ("cursor=WyIyMDI2LTAzLTAxIiwgIlx1MDAwMCJd", "cursor"),  # ["2026-03-01", "\u0000"]
            ("cursor=W10", "cursor"),
            ("cursor=e30=", "cursor"),
            ("cursor=" + "A" * 500, "cursor"),
            ("status=unknown", "status"),
            ("created_from=yesterday", "created_from"),
            ("created_from=2026-02-30T00:00:00Z", "created_from"),
            ("customer_id=%00", "customer_id"),
            ("statsu=done", "statsu"),
            ("%00=1", "\0"),
            ("customer_id=" + "x" * 101, "customer_id"),
        ],
    )
    def test_a_query_that_it_cannot_understand(self, client: Client, query: str, field: str) -> None:
        answer = client.get(f"/orders?{query}")
        assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
        assert list(answer.json()["errors"]) == [field]

    @pytest.mark.parametrize("moment", ["0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "1-1-1"])
    def test_the_ends_of_time_are_no_mistake_of_ours(self, client: Client, moment: str) -> None:
        assert client.get(f"/orders?created_from={moment}").status_code in (200, 400)

    def test_costs_two_queries_however_many_it_shows(self, client: Client) -> None:
        for count in (1, 20):
            for _ in range(count):
                factories.order()
            with CaptureQueriesContext(connections["orders"]) as queries:
                client.get("/orders?limit=100")
            assert len(queries) == 2


class TestOneOrder:
    def test_is_known_by_its_version(self, client: Client) -> None:
        order = factories.order()
        answer = client.get(f"/orders/{order.order_id}/")
        assert (answer.status_code, answer["ETag"]) == (200, '"1"')
        assert client.get(f"/orders/{order.order_id}", headers={"If-None-Match": '"1"'}).status_code == 304
        assert client.get(f"/orders/{order.order_id}", headers={"If-None-Match": '"2"'}).status_code == 200

    def test_that_does_not_exist(self, client: Client) -> None:
        answer = client.get("/orders/nowhere")
        assert (answer.status_code, answer.json()["code"]) == (404, "order_not_found")

    def test_costs_two_queries(self, client: Client) -> None:
        order = factories.order()
        with CaptureQueriesContext(connections["orders"]) as queries:
            client.get(f"/orders/{order.order_id}")
        assert len(queries) == 2


class TestTheHistory:
    def test_lists_every_transition(self, client: Client) -> None:
        placed = client.post("/orders", {"user_id": "poor", "amount": 5}, content_type="application/json")
        order_id = placed.json()["order_id"]
        failed = PaymentFailed(order_id=order_id, reason="no_account")
        for event in (failed, StockReleased(order_id=order_id)):
            transitions.advance(order_id=order_id, event=event, now=timezone.now())
        events = client.get(f"{placed['Location']}/events").json()["results"]
        assert [(event["version"], event["status"]) for event in events] == [
            (1, "pending"),
            (2, "releasing"),
            (3, "failed"),
        ]
        assert (events[0]["type"], events[1]["type"]) == ("order.created", "payment.failed")
        assert events[1]["fail_reason"] == "no_account"
        assert events[0]["correlation_id"] == placed["X-Correlation-ID"]

    def test_of_an_order_that_does_not_exist(self, client: Client) -> None:
        assert client.get("/orders/nowhere/events").status_code == 404

    def test_comes_by_page(self, client: Client) -> None:
        order = factories.order()
        client.post(f"/orders/{order.order_id}/cancel")
        page = client.get(f"/orders/{order.order_id}/events?limit=1").json()
        assert [event["version"] for event in page["results"]] == [1]
        page = client.get(page["next"]).json()
        assert ([event["version"] for event in page["results"]], page["next"]) == ([2], None)


class TestWhoSeesWhat:
    def test_a_client_sees_its_own_orders_alone(self, client_named: Callable[[str], APIClient]) -> None:
        mine, yours = factories.order(principal="me"), factories.order(principal="you")
        me = client_named("me")
        assert [order["order_id"] for order in me.get("/orders").json()["results"]] == [mine.order_id]
        for path in ("", "/events"):
            assert me.get(f"/orders/{mine.order_id}{path}").status_code == 200
            answer = me.get(f"/orders/{yours.order_id}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "order_not_found")
        assert me.post(f"/orders/{yours.order_id}/cancel").status_code == 404
        yours.refresh_from_db()
        assert yours.status == "pending"

    def test_an_order_id_of_another_client_is_free(self, client_named: Callable[[str], APIClient]) -> None:
        body = {"order_id": "ord-001", "user_id": "ann", "amount": 5}
        assert client_named("me").post("/orders", body).status_code == 201
        answer = client_named("you").post("/orders", body | {"amount": 6})
        assert (answer.status_code, answer.json()["order_id"]) == (201, "ord-001")
        assert client_named("me").get("/orders/ord-001").json()["total_amount"] == 5.0

    def test_nobody_is_admitted_without_a_token_where_one_is_required(self, client: Client, settings: Any) -> None:
        settings.API_AUTH = "required"
        factories.order()
        for answer in (client.get("/orders"), client.post("/orders", {"user_id": "ann", "amount": 1})):
            assert answer.status_code in (401, 403)
        assert Order.objects.count() == 1
