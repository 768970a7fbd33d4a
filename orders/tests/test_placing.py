"""POST /orders: its three shapes, its refusals and its cost."""

from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orders.models import Order, OrderEvent, Outgoing
from processing import services as stock

from .conftest import Shop

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]


def place(client: Client, body: Any, **headers: str) -> Any:
    return client.post("/orders", body, content_type="application/json", headers=headers)


GOODS = {"position": 1, "type": "item", "of": None, "free_line": False}


class TestTheThreeShapes:
    def test_products_of_the_catalogue_are_held_at_their_price(self, client: Client, shop: Shop, lamp: str) -> None:
        answer = place(
            client,
            {"user_email": "ann@example.com", "items": [{"product_id": lamp, "quantity": 2}]},
        )
        assert answer.status_code == 201, answer.content
        order = answer.json()
        assert order == {
            "order_id": order["order_id"],
            "number": order["number"],
            "customer_id": None,
            "user_id": None,
            "user_email": "ann@example.com",
            "status": "reserved",
            "total_amount": 79.8,
            "tax_amount": 0.0,
            "discount_amount": 0.0,
            "shipping_amount": 0.0,
            "refunded_amount": 0.0,
            "currency": "USD",
            "version": 1,
            "items": [GOODS | {"product_id": lamp, "sku": "lamp", "name": "Lamp", "quantity": 2, "price": 39.9}],
            "description": None,
            "payment_method": "gateway",
            "payment_id": None,
            "fail_reason": None,
            "metadata": {},
            "created_at": order["created_at"],
            "updated_at": order["created_at"],
        }
        assert answer["Location"] == f"/orders/{order['order_id']}"
        assert answer["ETag"] == '"1"'
        assert shop.stock(lamp) == (8, 2)
        assert client.get(answer["Location"]).json() == order

    def test_a_sku_of_the_catalogue_is_held_too(self, client: Client, shop: Shop, lamp: str) -> None:
        answer = place(
            client,
            {"order_id": "ord-001", "customer_id": "c", "items": [{"sku": "lamp", "quantity": 1, "price": 39.90}]},
        )
        assert (answer.status_code, answer.json()["status"]) == (201, "reserved")
        assert answer.json()["items"][0]["product_id"] == lamp
        assert shop.stock(lamp) == (9, 1)

    def test_an_unknown_sku_is_a_free_line(self, client: Client) -> None:
        answer = place(
            client,
            {"order_id": "ord-001", "customer_id": "c", "items": [{"sku": "laptop", "quantity": 1, "price": 1200.0}]},
        )
        assert (answer.status_code, answer.json()["status"]) == (201, "pending")
        assert b'"total_amount":1200.0' in answer.content
        assert answer.json()["items"] == [
            GOODS
            | {"product_id": None, "sku": "laptop", "name": None, "quantity": 1, "price": 1200.0, "free_line": True}
        ]

    def test_an_amount_is_one_free_line_paid_from_the_account(self, client: Client) -> None:
        answer = place(client, {"user_id": "ann", "amount": "12.50", "description": "A course"})
        order = answer.json()
        assert (answer.status_code, order["payment_method"], order["total_amount"]) == (201, "account", 12.5)
        line = {"product_id": None, "sku": None, "name": "A course", "quantity": 1, "price": 12.5, "free_line": True}
        assert order["items"] == [GOODS | line]

    @pytest.mark.parametrize("amount", [12, 12.5, "12", "12.5", "12.50", 0.01, 999_999_999_999.99])
    def test_amounts_are_exact(self, client: Client, amount: Any) -> None:
        answer = place(client, {"user_id": "ann", "amount": amount})
        assert (answer.status_code, answer.json()["total_amount"]) == (201, float(amount))

    def test_null_and_empty_mean_left_out(self, client: Client) -> None:
        body = {"user_id": "ann", "amount": 1, "items": None, "order_id": None, "customer_id": "", "description": None}
        assert place(client, body | {"payment_method": None, "currency": ""}).status_code == 201


class TestWhatIsRefused:
    def assert_refused(self, answer: Any, status: int, code: str, *fields: str) -> None:
        assert answer["Content-Type"] == "application/problem+json"
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (status, code), problem
        assert set(problem["errors"]) == set(fields)
        assert not Order.objects.exists()
        assert not Outgoing.objects.exists()

    def order_of(self, client: Client, **line: Any) -> Any:
        return place(client, {"user_email": "ann@example.com", "items": [{"quantity": 1, **line}]})

    def test_more_than_is_in_stock(self, client: Client, shop: Shop, lamp: str) -> None:
        answer = self.order_of(client, product_id=lamp, quantity=11)
        self.assert_refused(answer, 409, "insufficient_stock", "items[0].quantity")
        assert answer.json()["errors"] == {"items[0].quantity": ["11 asked for, 10 left."]}
        assert shop.stock(lamp) == (10, 0)

    def test_an_unknown_product(self, client: Client) -> None:
        answer = self.order_of(client, product_id="01890000-0000-7000-8000-000000000000")
        self.assert_refused(answer, 400, "unknown_product", "items[0].product_id")

    def test_an_inactive_product(self, client: Client, shop: Shop) -> None:
        answer = self.order_of(client, product_id=shop.sells("old", is_active=False))
        self.assert_refused(answer, 409, "inactive_product", "items[0].product_id")

    def test_another_price(self, client: Client, shop: Shop, lamp: str) -> None:
        self.assert_refused(self.order_of(client, sku="lamp", price=39.91), 409, "price_changed", "items[0].price")

    def test_the_same_product_twice(self, client: Client, shop: Shop, lamp: str) -> None:
        items = [
            {"product_id": lamp, "quantity": 1},
            {"sku": "lamp", "quantity": 1, "price": 39.9},
        ]
        answer = place(client, {"user_email": "ann@example.com", "items": items})
        self.assert_refused(answer, 400, "duplicate_line", "items[1].sku")

    def test_nothing_to_pay(self, client: Client) -> None:
        self.assert_refused(self.order_of(client, sku="gift", price=0), 400, "nothing_to_pay", "items")

    def test_more_than_can_be_counted(self, client: Client) -> None:
        answer = self.order_of(client, sku="planet", price=999_999_999_999, quantity=1_000_000)
        self.assert_refused(answer, 400, "total_too_large", "items")

    def test_free_lines_where_they_are_off(self, client: Client, settings: Any) -> None:
        settings.ORDERS_ALLOW_FREE_LINES = False
        answer = self.order_of(client, sku="laptop", price=1)
        self.assert_refused(answer, 400, "free_lines_not_allowed", "items[0].sku")
        answer = place(client, {"user_id": "ann", "amount": 1})
        self.assert_refused(answer, 400, "free_lines_not_allowed", "amount")


class TestTheSameOrderId:
    BODY = {"order_id": "ord-001", "customer_id": "c", "items": [{"sku": "lamp", "quantity": 1, "price": 39.9}]}

    def test_with_the_same_body_returns_the_stored_order(self, client: Client, shop: Shop, lamp: str) -> None:
        first, second = place(client, self.BODY), place(client, self.BODY)
        assert (first.status_code, second.status_code) == (201, 200)
        assert first.json() == second.json()
        assert shop.stock(lamp) == (9, 1)
        assert OrderEvent.objects.count() == 1

    def test_with_another_body_is_refused(self, client: Client) -> None:
        place(client, self.BODY)
        answer = place(client, self.BODY | {"description": "another"})
        assert (answer.status_code, answer.json()["code"]) == (409, "order_exists")
        assert Order.objects.get().description == ""

    def test_uses_the_hold_that_a_crash_left_behind(self, client: Client, shop: Shop, lamp: str) -> None:
        held = stock.hold(order_id="ord-001", quantities={lamp: 1}, now=timezone.now())
        assert place(client, self.BODY).status_code == 201
        assert Order.objects.get().hold_id == held
        assert shop.stock(lamp) == (9, 1)

    def test_with_another_basket_than_a_crash_left_behind_is_refused(
        self, client: Client, shop: Shop, lamp: str
    ) -> None:
        stock.hold(order_id="ord-001", quantities={lamp: 2}, now=timezone.now())
        answer = place(client, self.BODY)
        assert (answer.status_code, answer.json()["code"]) == (409, "held_otherwise")
        assert int(answer["Retry-After"]) > 0
        assert shop.stock(lamp) == (8, 2)


class TestWhatItCosts:
    """The number of round trips is small, and the same however much is stored and ordered."""

    def count(self, client: Client, body: dict[str, Any], **headers: str) -> tuple[int, int]:
        with (
            CaptureQueriesContext(connections["orders"]) as orders,
            CaptureQueriesContext(connections["processing"]) as processing,
        ):
            answer = place(client, body, **headers)
        assert answer.status_code == 201, answer.content
        return len(orders), len(processing)

    @pytest.mark.parametrize(("headers", "more"), [({}, 0), ({"Idempotency-Key": "k"}, 9)])
    def test_is_the_same_for_one_line_and_for_a_hundred(
        self, client: Client, headers: dict[str, str], more: int, settings: Any
    ) -> None:
        settings.IDEMPOTENCY_MAX_KEYS = 0  # they are counted once a minute, whatever is ordered
        now = timezone.now()
        products = [
            stock.make_product(name="P", sku=f"p{number}", price=3990, stock=10, actor="test", now=now).pk
            for number in range(100)
        ]
        for count in (1, 100):
            items = [{"product_id": product, "quantity": 1} for product in products[:count]]
            body = {"user_email": "ann@example.com", "items": items, "description": str(count)}
            key = {name: f"{value}{count}" for name, value in headers.items()}
            assert self.count(client, body, **key) == (4 + more, 4)  # two of each are the savepoints of a test

    def test_of_an_amount(self, client: Client) -> None:
        assert self.count(client, {"user_id": "ann", "amount": 1}) == (4, 0)

    def test_with_an_id_of_its_own(self, client: Client) -> None:
        assert self.count(client, {"user_id": "ann", "amount": 1, "order_id": "ord-001"}) == (6, 0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
def test_an_order_is_one_commit_and_its_stock_one_statement(
    client: Client, shop: Shop, lamp: str, headers: dict[str, str]
) -> None:
    body = {"user_email": "ann@example.com", "items": [{"product_id": lamp, "quantity": 1}]}
    statements = {service: CaptureQueriesContext(connections[service]) for service in ("orders", "processing")}
    with statements["orders"], statements["processing"]:
        assert place(client, body, **headers).status_code == 201
    for service, transactions in {"orders": 1, "processing": 0}.items():
        sent = [query["sql"] for query in statements[service].captured_queries]
        assert (sent.count("BEGIN"), sent.count("COMMIT")) == (transactions, transactions), (service, sent)
