"""Taxes, discounts and shipping as lines of an order: what may be asked for, and what comes of it."""

import json
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client

from orders.models import Order, OrderLine

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

TAX = {"type": "tax", "name": "VAT 19%", "amount": 19}
DISCOUNT = {"type": "discount", "name": "Ten off", "amount": 10}
SHIPPING = {"type": "shipping", "name": "Parcel", "amount": 4.9}


def goods(price: float = 100, quantity: int = 1, sku: str = "book") -> dict[str, Any]:
    return {"sku": sku, "quantity": quantity, "price": price}


def place(client: Client, *items: dict[str, Any], **fields: Any) -> Any:
    body = {"user_id": "ann", "items": items} | fields
    return client.post("/orders", json.dumps(body), content_type="application/json")


def refused(client: Client, *items: dict[str, Any], **fields: Any) -> tuple[int, str, list[str]]:
    """The status, the code and the fields that are wrong; nothing is stored."""
    answer = place(client, *items, **fields)
    assert not Order.objects.exists()
    problem = answer.json()
    return answer.status_code, problem["code"], sorted(problem["errors"])


def test_lines_sum_to_the_total_and_are_shown_as_they_were_given(client: Client) -> None:
    answer = place(client, goods(), goods(5, 3, "pen"), TAX | {"of": 1}, DISCOUNT, SHIPPING, total_amount="128.90")
    assert answer.status_code == 201, answer.content
    order = answer.json()
    assert order["total_amount"] == 128.9
    assert (order["tax_amount"], order["discount_amount"], order["shipping_amount"]) == (19.0, 10.0, 4.9)
    shown = [
        (one["position"], one["type"], one["name"], one["of"], one["quantity"], one["price"]) for one in order["items"]
    ]
    assert shown == [
        (1, "item", None, None, 1, 100.0),
        (2, "item", None, None, 3, 5.0),
        (3, "tax", "VAT 19%", 1, 1, 19.0),
        (4, "discount", "Ten off", None, 1, -10.0),
        (5, "shipping", "Parcel", None, 1, 4.9),
    ]
    assert client.get(f"/orders/{order['order_id']}").json() == order


def test_an_order_without_them_shows_sums_of_zero(client: Client) -> None:
    order = place(client, goods()).json()
    assert (order["tax_amount"], order["discount_amount"], order["shipping_amount"]) == (0.0, 0.0, 0.0)
    assert [(one["type"], one["position"], one["of"]) for one in order["items"]] == [("item", 1, None)]


def test_several_lines_of_one_name_are_several_lines(client: Client) -> None:
    assert place(client, goods(), TAX, TAX).json()["tax_amount"] == 38.0


def test_they_are_no_free_lines(client: Client, lamp: str, settings: Any) -> None:
    settings.ORDERS_ALLOW_FREE_LINES = False
    answer = place(client, {"product_id": lamp, "quantity": 2}, TAX | {"of": 1}, DISCOUNT, SHIPPING)
    assert (answer.status_code, answer.json()["total_amount"]) == (201, 93.7)


def test_the_same_order_again_is_the_stored_one_and_with_another_tax_it_is_another(client: Client) -> None:
    first = place(client, goods(), TAX, order_id="o-1")
    again = place(client, goods(), TAX, order_id="o-1")
    assert (first.status_code, again.status_code) == (201, 200)
    other = place(client, goods(), TAX | {"type": "shipping"}, order_id="o-1")
    assert (other.status_code, other.json()["code"]) == (409, "order_exists")


@pytest.mark.parametrize(
    ("items", "wrong"),
    [
        ([goods(), {"type": "tax", "amount": 1}], ["items[1].name"]),
        ([goods(), {"type": "tax", "name": "x"}], ["items[1].amount"]),
        ([goods(), TAX | {"amount": 0}], ["items[1].amount"]),
        ([goods(), DISCOUNT | {"amount": -1}], ["items[1].amount"]),
        ([goods(), TAX | {"amount": 0.001}], ["items[1].amount"]),
        ([goods(), TAX | {"quantity": 1}], ["items[1].quantity"]),
        ([goods(), TAX | {"sku": "x", "price": 1}], ["items[1].price", "items[1].sku"]),
        ([goods(), TAX | {"of": 0}], ["items[1].of"]),
        ([goods(), TAX | {"of": True}], ["items[1].of"]),
        ([goods(), TAX | {"type": "bribe"}], ["items[1].type"]),
        ([goods() | {"amount": 5}], ["items[0].amount"]),
        ([goods() | {"of": 1, "name": "x"}], ["items[0].name", "items[0].of"]),
        ([{"sku": "x", "price": 5}], ["items[0].quantity"]),
    ],
)
def test_a_line_has_the_fields_of_its_type(client: Client, items: list[dict[str, Any]], wrong: list[str]) -> None:
    assert refused(client, *items) == (400, "invalid", wrong)


@pytest.mark.parametrize(
    ("items", "status", "code", "wrong"),
    [
        ([goods(), TAX | {"of": 2}], 400, "no_such_line", "items[1].of"),
        ([goods(), TAX | {"of": 3}], 400, "no_such_line", "items[1].of"),
        ([goods(), goods(5, 1, "pen"), DISCOUNT | {"of": 2}], 400, "discount_too_large", "items[2].amount"),
        ([goods(10), DISCOUNT | {"of": 1}, DISCOUNT | {"of": 1}], 400, "discount_too_large", "items[2].amount"),
        ([goods(5), SHIPPING, DISCOUNT], 400, "discount_too_large", "items[2].amount"),
        ([goods(10), DISCOUNT], 400, "nothing_to_pay", "items"),
        ([TAX], 400, "nothing_ordered", "items"),
        ([goods(10**12), TAX], 400, "total_too_large", "items"),
    ],
)
def test_what_does_not_add_up_is_refused(
    client: Client, items: list[dict[str, Any]], status: int, code: str, wrong: str
) -> None:
    assert refused(client, *items) == (status, code, [wrong])


def test_another_sum_than_the_client_has_is_refused_with_both(client: Client) -> None:
    answer = place(client, goods(), TAX, total_amount=118.99)
    problem = answer.json()
    assert (answer.status_code, problem["code"], list(problem["errors"])) == (409, "total_mismatch", ["total_amount"])
    assert "119.00 USD" in problem["detail"]
    assert "118.99 USD" in problem["detail"]
    assert not Order.objects.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "item", "unit_price": -1},
        {"kind": "discount", "unit_price": 1},
        {"kind": "tax", "unit_price": -1},
        {"kind": "tax", "unit_price": 1, "quantity": 2},
        {"kind": "bribe", "unit_price": 1},
        {"kind": "item", "unit_price": 1, "of_position": 1},
    ],
)
def test_the_database_refuses_lines_that_make_no_sense(client: Client, change: dict[str, Any]) -> None:
    place(client, goods())
    line = OrderLine(order=Order.objects.get(), position=9, **({"quantity": 1} | change))
    with pytest.raises(IntegrityError), transaction.atomic(using="orders"):
        line.save(force_insert=True)
