"""Every mistake of a request is told at once, and what was probably meant is named."""

from typing import Any
from unittest.mock import Mock

import pytest
from django.test import Client

from common import near
from orders.models import Order
from processing import services as stock

from .conftest import Shop

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

LINE = {"sku": "poem", "quantity": 1, "price": 1}


def errors(client: Client, body: Any, *, code: str = "invalid") -> dict[str, list[str]]:
    answer = client.post("/orders", body, content_type="application/json")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, code), problem
    assert not Order.objects.exists()
    told: dict[str, list[str]] = problem["errors"]
    return told


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"user_email": "nobody", "amount": "x", "colour": 1}, {"user_email", "amount", "colour"}),
        ({"description": "a\nb"}, {"description", "items", "customer_id"}),
        ({"customer_id": "c", "payment_method": "account", "amount": "x"}, {"user_id", "amount"}),
        ({"customer_id": "c", "colour": 1}, {"items", "colour"}),
        ({"customer_id": "c", "items": "x", "amount": 1}, {"items"}),  # perhaps it was not to be there
        ({"customer_id": "c", "items": [LINE, LINE, {"sku": "x"}]}, {f"items[{n}].{f}" for n, f in
            ((1, "sku"), (2, "quantity"), (2, "price"))}),
        ({"customer_id": "c", "items": [{"type": "taxi", "name": "VAT", "colour": 1}]}, {"items[0].type",
            "items[0].colour"}),
        ({"currency": "ABC", "amount": 0.001, "user_email": "nobody"}, {"currency", "user_email"}),
        ({"currency": "ABC", "customer_id": "c", "items": [{"sku": "x", "quantity": 0, "price": 0.001}]},
            {"currency", "items[0].quantity"}),
    ],
)  # fmt: skip
def test_all_mistakes_of_a_body(client: Client, body: Any, fields: set[str]) -> None:
    assert set(errors(client, body)) == fields


def test_all_lines_that_cannot_be_sold(client: Client, shop: Shop, lamp: str, settings: Any) -> None:
    settings.ORDERS_ALLOW_FREE_LINES = False
    shop.sells("chair", is_active=False)
    items = [{"sku": sku, "quantity": 1, "price": price} for sku, price in (("poem", 1), ("lamp", 3), ("chair", 39.9))]
    told = errors(client, {"customer_id": "c", "items": items}, code="free_lines_not_allowed")
    assert set(told) == {"items[0].sku", "items[1].price", "items[2].sku"}


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("statuss=paid&limit=0&sort=x&created_from=y", {"statuss", "limit", "sort", "created_from"}),
        ("status=paid&status=done", {"status"}),
        ("limit=1&limit=2", {"limit"}),
    ],
)
def test_all_mistakes_of_a_query(client: Client, query: str, told: set[str]) -> None:
    answer = client.get(f"/orders?{query}")
    assert (answer.status_code, set(answer.json()["errors"])) == (400, told)


def test_names_that_are_nearly_those_of_fields_and_filters(client: Client) -> None:
    told = errors(client, {"userId": "ann", "colour": 1, "items": [LINE | {"Quantity ": 1, "product-id": 1}]})
    hints = {name: text.partition("Did you mean ")[2] for name, (text, *_) in told.items()}
    assert hints["userId"] == "user_id?"
    assert hints["colour"] == ""
    assert hints["items[0].product-id"] == "product_id?"
    (text,) = client.get("/orders?userEmail=a").json()["errors"]["userEmail"]
    assert text.endswith("Did you mean user_email?")
    (text,) = client.get("/products?isActive=true").json()["errors"]["isActive"]
    assert text.endswith("Did you mean is_active?")


class TestVeryManyUnknownNames:
    """Looking for what was meant takes longer than all the rest, so it is done for the first of a request."""

    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> Mock:
        looks = Mock(wraps=near.difflib.get_close_matches)
        monkeypatch.setattr(near.difflib, "get_close_matches", looks)
        return looks

    def test_of_an_order(self, client: Client, looks: Mock) -> None:
        told = errors(client, {"userId": "ann", **{f"user_i{number}": 1 for number in range(15_000)}})
        assert len(told) == near.MOST_NAMED + 3
        assert told.keys() >= {"userId", "items", "customer_id"}
        assert told["user_i0"] == ["There is no such field. Did you mean user_id?"]
        assert told["body"] == [f"More unknown names: {15_001 - near.MOST_NAMED}."]
        assert looks.call_count == near.MOST_NAMED

    def test_of_its_lines(self, client: Client, looks: Mock) -> None:
        line = {f"colour{number}": 1 for number in range(15)}
        told = errors(client, {"customer_id": "c", "items": [LINE | {"sku": f"s{n}"} | line for n in range(100)]})
        assert told["items[0].colour0"] == ["There is no such field."]
        assert told["items[1]"] == ["More unknown names: 10."]
        assert told["items[99]"] == ["More unknown names: 15."]
        assert looks.call_count == near.MOST_NAMED

    def test_of_prices(self, client: Client) -> None:
        body = {"name": "Lamp", "price": 1, "stock": 1, "prices": {f"X{number}": 1 for number in range(20_000)}}
        answer = client.post(
            "/admin/products", body, "application/json", headers={"X-Admin-Secret": "dev-admin-secret"}
        )
        assert answer.status_code == 400
        assert len(answer.json()["errors"]) == near.MOST_NAMED + 1
        assert answer.json()["errors"]["prices"] == [f"More unknown names: {20_000 - near.MOST_NAMED}."]

    def test_that_are_very_long(self, client: Client, looks: Mock) -> None:
        assert "x" * 100_000 in errors(client, {"x" * 100_000: 1, "user_id": "ann", "amount": 1})
        assert looks.call_count == 0

    def test_of_a_query_that_anybody_may_send(self, client: Client, looks: Mock) -> None:
        answer = client.get("/products?" + "&".join(f"is_activ{number}=" for number in range(900)))
        told = answer.json()["errors"]
        assert (answer.status_code, len(told)) == (400, near.MOST_NAMED + 1)
        assert told["is_activ0"] == ["There is no such parameter. Did you mean is_active?"]
        assert told["parameters"] == [f"More unknown names: {900 - near.MOST_NAMED}."]
        assert looks.call_count == near.MOST_NAMED


class TestASkuThatIsNearlyKnown:
    """It is a mistake, and not a free line: nobody is charged for what nobody sends."""

    @pytest.mark.parametrize(
        ("known", "mistyped"),
        [
            ("demo-lamp", "demo-lmap"), ("demo-lamp", "DEMO-LAMP"), ("demo-lamp", "emo-lamp"),
            ("demo-lamp", "demo_lamp"), ("demo-lamp", "demo-lmapp"), ("demo-lamp", "Demo-Lampe"),
            ("iPhone15", "iphone15"), ("LAMP", "lamp"), ("lamp", "lampe"), ("100%_x", "100%_y"), ("Стол", "Стул"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("free_lines", [True, False])
    def test_is_refused_and_the_known_one_named(
        self, client: Client, shop: Shop, settings: Any, known: str, mistyped: str, free_lines: bool
    ) -> None:
        settings.ORDERS_ALLOW_FREE_LINES = free_lines
        shop.sells(known)
        items = [LINE | {"sku": mistyped}]
        assert errors(client, {"customer_id": "c", "items": items}, code="unknown_product") == {
            "items[0].sku": [f"There is no product {mistyped}. Did you mean {known}?"]
        }

    @pytest.mark.parametrize("another", ["desk-lamp", "lam", "de", "demo-chair", "laptop"])
    def test_is_not_any_other(self, client: Client, shop: Shop, another: str) -> None:
        for known in ("demo-lamp", "lap", "d1"):
            shop.sells(known)
        assert stock.near_skus([another]) == {}

    def test_is_looked_for_in_a_few_only(self, shop: Shop) -> None:
        shop.sells("demo-lamp")
        many = [f"poem-{number}" for number in range(stock.MAX_MISTYPED)]
        assert stock.near_skus(["demo-lamb", *many]) == {"demo-lamb": "demo-lamp"}
        assert stock.near_skus([*many, "demo-lamb"]) == {}

    def test_costs_the_same_for_whatever_is_asked(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody keeps a process busy by skus that are long, and alike: with 30 products it took seconds for one."""
        distances, variants = Mock(wraps=near.distance), Mock(wraps=near.variants)
        monkeypatch.setattr(near, "distance", distances)
        monkeypatch.setattr(near, "variants", variants)
        for number in range(30):
            shop.sells(f"{'x' * 32}{number:>032}")
        asked = [f"{'x' * 32}{'ab' * 15}{number:02}" for number in range(stock.MAX_MISTYPED)]
        assert stock.near_skus(asked) == {}
        assert variants.call_count <= 1
        assert distances.call_count < stock.MAX_MISTYPED * 30 * 25


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("", "abc", 3), ("abcd", "acbd", 1), ("abcd", "abxd", 1), ("ab", "ba", 1), ("abcde", "xabdc", 3)],
)
def test_how_far_two_names_are_apart(one: str, other: str, distance: int) -> None:
    assert near.distance(one, other, most=3) == near.distance(other, one, most=3) == distance
    assert near.distance(one, other, most=0) == 1
