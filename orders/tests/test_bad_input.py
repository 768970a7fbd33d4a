"""Bad input, on every field: a problem that names the field, and nothing stored."""

from typing import Any

import pytest
from django.test import Client

from orders.models import IdempotencyKey, Order, OrderLine, Outgoing

from .conftest import Shop

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

CATALOGUE = '{"user_email": "a@example.com", "items": [{"product_id": "%s", "quantity": %s}]}'
LINES = '{"customer_id": "c", "items": [{"sku": "x", "quantity": %s, "price": %s}]}'
AMOUNT = '{"user_id": "ann", "amount": %s}'

BAD_QUANTITIES = [
    "0", "-1", "1.5", str(2**31), str(2**63), "1000001", "1e400", "-0.0", "null", "true", "[]", "{}", '""', '"1.5"',
    '"٣"', '"１"', '"1e3"', '" "', '"0x1"', '"1_0"', '"NaN"', '"' + "9" * 10_000 + '"', "1e-400", "9" * 4000,
]  # fmt: skip
BAD_AMOUNTS = [
    "-0.01", "-1", "1e400", "-1e400", "1e-400", "0.001", "12.345", "true", "[]", "{}", '"٣"', '"１２"', '"1_0"',
    '"NaN"', '"Infinity"', '"1,5"', '"0x1"', '"12.345"', '"--1"', '"\\t"', str(10**14), str(2**63),
    '"' + "9" * 10_000 + '"', "9" * 4000, "1e999999999999999999999",
]  # fmt: skip
BAD_TEXTS = ["\x00", "\n", "\t", "\x1b[31m", "\x7f", "\x85", "\r\nX: y", 1, 1.5, True, [], {}, ["x"], "x" * 10_000]


def send(client: Client, body: str | dict[str, Any]) -> Any:
    return client.post("/orders", body, content_type="application/json")


def assert_nothing_stored() -> None:
    for table in (Order, OrderLine, Outgoing, IdempotencyKey):
        assert not table.objects.exists()


def assert_names(answer: Any, field: str) -> None:
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json"), answer.content
    problem = answer.json()
    if problem["code"] != "malformed":  # a body that is not JSON has no fields
        assert (problem["code"], list(problem["errors"])) == ("invalid", [field])
    assert_nothing_stored()


@pytest.mark.parametrize("quantity", BAD_QUANTITIES)
def test_quantities(client: Client, quantity: str) -> None:
    assert_names(send(client, LINES % (quantity, "1")), "items[0].quantity")


def test_quantities_of_products(client: Client, shop: Shop, lamp: str) -> None:
    for quantity in BAD_QUANTITIES:
        assert_names(send(client, CATALOGUE % (lamp, quantity)), "items[0].quantity")
    assert shop.stock(lamp) == (10, 0)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("body", [LINES % ("%s", "1"), LINES % ("1", "%s"), AMOUNT])
def test_constants_that_are_not_json(client: Client, body: str, constant: str) -> None:
    answer = send(client, body % constant)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert constant.strip("-") in answer.json()["detail"]
    assert_nothing_stored()


@pytest.mark.parametrize("amount", [*BAD_AMOUNTS, "0", "0.0", '"0.00"', '""'])
def test_amounts(client: Client, amount: str) -> None:
    assert_names(send(client, AMOUNT % amount), "amount")


@pytest.mark.parametrize("price", [*BAD_AMOUNTS, "null", '""'])
def test_prices(client: Client, price: str) -> None:
    assert_names(send(client, LINES % ("1", price)), "items[0].price")


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: repr(text)[:20])
@pytest.mark.parametrize("field", ["order_id", "customer_id", "user_id", "user_email", "description", "currency"])
def test_texts(client: Client, field: str, text: Any) -> None:
    assert_names(send(client, {"customer_id": "c", "user_id": "u", "amount": 1} | {field: text}), field)


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: repr(text)[:20])
@pytest.mark.parametrize("field", ["sku", "product_id"])
def test_texts_of_a_line(client: Client, field: str, text: Any) -> None:
    body = {"customer_id": "c", "items": [{"quantity": 1, "price": 1, field: text}]}
    assert_names(send(client, body), f"items[0].{field}")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"order_id": "x" * 65}, "order_id"),
        ({"order_id": "a b"}, "order_id"),
        ({"order_id": " ab"}, "order_id"),
        ({"order_id": "ünï"}, "order_id"),
        ({"order_id": "a/b"}, "order_id"),
        ({"order_id": ".."}, "order_id"),
        ({"order_id": "."}, "order_id"),
        ({"customer_id": "x" * 101}, "customer_id"),
        ({"user_email": "nobody"}, "user_email"),
        ({"user_email": "a@b"}, "user_email"),
        ({"user_email": "a@" + "b" * 300 + ".com"}, "user_email"),
        ({"user_email": "a@example.com, b@example.com"}, "user_email"),
        ({"description": "x" * 501}, "description"),
        ({"currency": "EUR"}, "currency"),
        ({"currency": "usd"}, "currency"),
        ({"payment_method": "cash"}, "payment_method"),
        ({"payment_method": 1}, "payment_method"),
        ({"payment_method": ["account"]}, "payment_method"),
        ({"payment_method": "account", "user_id": None, "customer_id": "c"}, "user_id"),
        ({"user_id": ""}, "customer_id"),
        ({"amount": None}, "items"),
        ({"items": []}, "items"),
        ({"items": [{"sku": "x", "quantity": 1, "price": 1}]}, "amount"),
        ({"items": [], "amount": None}, "items"),
        ({"items": {}, "amount": None}, "items"),
        ({"items": "x", "amount": None}, "items"),
        ({"items": 1, "amount": None}, "items"),
        ({"items": [{"sku": "x", "quantity": 1}], "amount": None}, "items[0].price"),
        ({"items": [{"quantity": 1, "price": 1}], "amount": None}, "items[0].product_id"),
        ({"items": [{"sku": "x", "price": 1}], "amount": None}, "items[0].quantity"),
        ({"items": [{"sku": "x", "quantity": 1, "price": 1, "color": "red"}], "amount": None}, "items[0].color"),
        ({"items": [{"product_id": "product-uuid", "quantity": 1}], "amount": None}, "items[0].product_id"),
        ({"status": "done"}, "status"),
        ({"principal": "admin"}, "principal"),
        ({"version": 7}, "version"),
        ({"total_amount": 0}, "total_amount"),
        ({"Amount": 1}, "Amount"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_everything_else(client: Client, change: dict[str, Any], field: str) -> None:
    assert_names(send(client, {"user_id": "u", "amount": 1} | change), field)


@pytest.mark.parametrize("item", [None, 1, "x", [], True, [[]]])
def test_lines_that_are_not_objects(client: Client, item: Any) -> None:
    answer = send(client, {"user_id": "u", "items": [item]})
    assert answer.status_code == 400
    assert all(field.startswith("items[0]") for field in answer.json()["errors"])
    assert_nothing_stored()


def test_both_a_product_and_a_sku(client: Client, lamp: str) -> None:
    item = {"product_id": lamp, "sku": "lamp", "quantity": 1, "price": 39.9}
    assert_names(send(client, {"user_id": "u", "items": [item]}), "items[0].sku")


@pytest.mark.parametrize("same", [{"sku": "x", "price": 1}, {"product_id": "01890000-0000-7000-8000-00000000000A"}])
def test_duplicate_lines(client: Client, same: dict[str, Any]) -> None:
    other = {"sku": "y", "quantity": 1, "price": 1}
    again = {key: value.lower() if key == "product_id" else value for key, value in same.items()}
    items = [same | {"quantity": 1}, other, again | {"quantity": 2}]
    field = "sku" if "sku" in same else "product_id"
    assert_names(send(client, {"user_id": "u", "items": items}), f"items[2].{field}")


def test_more_than_a_hundred_lines(client: Client) -> None:
    items = [{"sku": f"x{number}", "quantity": 1, "price": 1} for number in range(101)]
    assert_names(send(client, {"user_id": "u", "items": items}), "items")
    assert send(client, {"user_id": "u", "items": items[:100]}).status_code == 201


def test_every_mistake_is_reported_at_once(client: Client) -> None:
    items = [{"sku": "x", "quantity": 0, "price": 1}, {"sku": "y", "quantity": 1, "price": "z", "size": "L"}]
    answer = send(client, {"user_email": "x", "items": items, "colour": 1})
    assert set(answer.json()["errors"]) == {
        "user_email", "colour", "items[0].quantity", "items[1].price", "items[1].size",
    }  # fmt: skip


@pytest.mark.parametrize("body", ["", "[]", '"x"', "1", "null", "[1]", "{", "user_id=u", "{}", "<x/>", "\ufeff{}"])
def test_bodies_that_are_not_an_order(client: Client, body: str) -> None:
    answer = send(client, body)
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert_nothing_stored()


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data", "x"]
)
def test_other_content_types(client: Client, content_type: str) -> None:
    answer = client.post("/orders", '{"user_id": "u", "amount": 1}', content_type=content_type)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert_nothing_stored()


def test_a_body_that_is_too_large(client: Client) -> None:
    answer = send(client, '{"user_id": "u", "amount": 1}' + " " * 256 * 1024)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert_nothing_stored()


@pytest.mark.parametrize("key", ["", "x" * 256, "ключ", "a\tb", "a\x00b"])
def test_keys(client: Client, key: str) -> None:
    answer = client.post(
        "/orders", {"user_id": "u", "amount": 1}, content_type="application/json", headers={"Idempotency-Key": key}
    )
    assert_names(answer, "Idempotency-Key")


@pytest.mark.parametrize("order_id", ["x" * 65, "a%20b", "a%00b", "%F0%9F%98%80", "..%2f", "a;b"])
def test_ids_that_no_order_has(client: Client, order_id: str) -> None:
    for path in ("", "/events"):
        assert client.get(f"/orders/{order_id}{path}").status_code == 404
    assert client.post(f"/orders/{order_id}/cancel").status_code == 404
