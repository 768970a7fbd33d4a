"""What people look for is found: orders by number, email, user or customer, products by words, in any case."""

from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from common.admin import pages
from orders import factories
from orders.models import Order, Outgoing
from processing import services as stock

pytestmark = pytest.mark.django_db


@pytest.fixture
def boss() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


def found(boss: Client, model: str, query: str, **more: str) -> list[Any]:
    answer = boss.get(reverse(f"admin:{model}_changelist"), {"q": query, **more})
    assert answer.status_code == 200
    return list(answer.context["cl"].result_list)


class TestTheNumber:
    def test_is_told_by_every_representation_and_finds_the_order(self, client: Client) -> None:
        first, second = (
            client.post("/orders", {"user_id": "ann", "amount": 5}, content_type="application/json").json()
            for _ in range(2)
        )
        number = first["number"]
        assert 1000 < number < second["number"]
        assert client.get(f"/orders/{first['order_id']}").json() == first
        assert client.get("/orders", {"number": number}).json()["results"] == [first]
        assert client.get("/orders", {"number": "1e3"}).status_code == 200
        assert client.get("/orders", {"number": "many"}).status_code == 400
        told = Outgoing.objects.get(subject=first["order_id"], type="order.created")
        assert told.data["number"] == number
        for name in (str(number), f"#{number}", first["order_id"]):
            out = StringIO()
            call_command("order", name, stdout=out)
            assert first["order_id"] in out.getvalue()

    def test_is_given_to_orders_of_processes_that_do_not_know_it(self) -> None:
        order = factories.order()
        fields = [field.column for field in Order._meta.concrete_fields if field.name not in ("order_id", "number")]
        columns = ", ".join(fields)
        with connections["orders"].cursor() as cursor:
            cursor.execute(f"INSERT INTO orders_order (order_id, {columns}) SELECT 'old', {columns} FROM orders_order")
        numbers = set(Order.objects.values_list("number", flat=True))
        assert len(numbers) == 2
        assert None not in numbers
        assert Order.objects.get(pk="old").number > order.number


class TestOrders:
    @pytest.mark.parametrize(
        "term", ["Ann.Lee@Example.com", "ann.lee@example.COM", "ANN.L", "ann", "U-77", "u-7", "cust", " CUSTOMER-1 "]
    )
    def test_are_found_by_the_beginning_of_what_they_are_called_by(self, boss: Client, term: str) -> None:
        order = factories.order(user_id="U-77", user_email="Ann.Lee@example.com", customer_id="Customer-1")
        factories.order(user_id="bob", user_email="", customer_id="")
        assert found(boss, "orders_order", term) == [order]

    @pytest.mark.parametrize("name", ["{}", "#{}", " {} "])
    def test_are_found_by_their_number(self, boss: Client, name: str) -> None:
        factories.order()
        order = factories.order()
        assert found(boss, "orders_order", name.format(order.number)) == [order]

    @pytest.mark.parametrize("term", ["%", "_", "a%", "'", "\\", "nobody", "9" * 30])
    def test_are_not_found_by_what_is_not_theirs(self, boss: Client, term: str) -> None:
        factories.order(user_id="u1", user_email="ann@example.com")
        assert found(boss, "orders_order", term) == []

    def test_that_are_too_many_are_the_first_ones_and_the_page_says_so(
        self, boss: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages, "MOST_FOUND", 2)
        for name in ("ann1", "ann2", "ann3"):
            factories.order(user_id=name)
        answer = boss.get(reverse("admin:orders_order_changelist"), {"q": "ann"})
        assert len(answer.context["cl"].result_list) == 2
        assert "More than 2 rows" in answer.content.decode()
        assert len(found(boss, "orders_order", "ann1")) == 1

    def test_of_an_email_are_found_by_the_api_in_any_case(self, client: Client) -> None:
        for email in ("Ann@Example.com", "ann@example.com", "annb@example.com"):
            factories.order(user_id="", user_email=email)
        answer = client.get("/orders", {"user_email": "ANN@example.COM"}).json()
        assert {order["user_email"] for order in answer["results"]} == {"Ann@Example.com", "ann@example.com"}


@pytest.mark.parametrize(
    ("term", "is_found"),
    [
        ("lamp", True), ("LAM", True), ("desk la", True), ("lamp de", True), ("dl-20", True), ("DL-2000", True),
        ("2000", True), ("o'neil", True), ("stan", False), ("sofa", False), ("desk sofa", False), ("'", False),
        (":*", False), ("&|!", False), ("Ле", True),
    ],
)  # fmt: skip
def test_products_are_found_by_words_of_their_name_and_sku(boss: Client, term: str, is_found: bool) -> None:
    now = timezone.now()
    lamp = stock.make_product(name="Desk-Lamp (O'Neil) лето", sku="DL-2000", price=5_00, stock=1, actor="boss", now=now)
    stock.make_product(name="Chair", sku="ch-1", price=5_00, stock=1, actor="boss", now=now)
    assert found(boss, "processing_product", term) == [lamp] * is_found
