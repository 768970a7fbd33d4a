"""A refund by line gives back each piece's share of taxes, discounts and shipping; all of them give back the total."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from orders.models import Refund
from orders_project.audit import audit
from payments import services as money
from payments.models import Account

pytestmark = pytest.mark.django_db

# 3 books for 10.00 each less 1.00 and with a tax of 5.51, 2 pens for 1.00 each; 3.00 off, 4.90 for the parcel; a gift.
ITEMS: list[dict[str, Any]] = [
    {"sku": "book", "quantity": 3, "price": 1000},
    {"sku": "pen", "quantity": 2, "price": 100},
    {"type": "discount", "name": "Regular", "amount": 100, "of": 1},
    {"type": "tax", "name": "VAT", "amount": 551, "of": 1},
    {"type": "discount", "name": "Voucher", "amount": 300},
    {"type": "shipping", "name": "Parcel", "amount": 490},
    {"sku": "card", "quantity": 1, "price": 0},
]
TOTAL = 3841  # minor units
EXPONENTS = {"USD": 2, "JPY": 0, "KWD": 3}


@pytest.fixture
def currency(request: Any, settings: Any) -> str:
    settings.CURRENCIES = tuple(EXPONENTS)
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0
    return str(request.param)


def post_json(client: Client, path: str, body: dict[str, Any]) -> Any:
    return client.post(path, json.dumps(body), content_type="application/json")


@pytest.fixture
def order_id(client: Client, post: Any, currency: str) -> str:
    """A paid order of these items, with the same numbers of minor units in each currency."""

    def whole(minor: int) -> str:
        return f"{minor / 10 ** EXPONENTS[currency]:.{EXPONENTS[currency]}f}"

    items = [one | {name: whole(one[name]) for name in ("price", "amount") if name in one} for one in ITEMS]
    money.open_account(user_id="ann", currency=currency)
    money.deposit(user_id="ann", currency=currency, amount=TOTAL, now=timezone.now())
    body = {"user_id": "ann", "items": items, "currency": currency, "total_amount": whole(TOTAL)}
    placed = post_json(client, "/orders", body)
    assert placed.status_code == 201, placed.content
    post.run()
    order = client.get(f"/orders/{placed.json()['order_id']}").json()
    assert order["status"] == "done", order
    assert balance(currency) == 0
    return str(order["order_id"])


def balance(currency: str) -> int:
    return Account.objects.get(kind="customer", currency=currency).balance


def refund(client: Client, order_id: str, *lines: tuple[int, int]) -> Any:
    wanted = [{"position": position, "quantity": quantity} for position, quantity in lines]
    return post_json(client, f"/orders/{order_id}/refunds", {"lines": wanted})


@pytest.mark.parametrize(
    ("currency", "parts"),
    [
        ("USD", [[(1, 3), (2, 2)]]),
        ("JPY", [[(2, 1)], [(1, 1)], [(1, 2), (2, 1)]]),
        ("KWD", [[(1, 1)], [(1, 1)], [(2, 2)], [(1, 1)]]),
    ],
    indirect=["currency"],
)
def test_all_lines_in_any_parts_are_the_total(
    client: Client, post: Any, order_id: str, currency: str, parts: list[list[tuple[int, int]]]
) -> None:
    shown = []
    for lines in parts:
        answer = refund(client, order_id, *lines)
        assert answer.status_code == 202, answer.content
        shown.append(answer.json()["amount"])
        post.run()
    assert balance(currency) == TOTAL
    assert sum(refund.amount for refund in Refund.objects.all()) == TOTAL
    assert round(sum(shown) * 10 ** EXPONENTS[currency]) == TOTAL
    order = client.get(f"/orders/{order_id}").json()
    assert (order["status"], order["refunded_amount"]) == ("done", order["total_amount"])
    assert audit(grace=timedelta(0), settle=timedelta(0)).findings == []


@pytest.mark.parametrize("currency", ["USD"], indirect=True)
@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ([(3, 1)], "lines[0].position"),
        ([(2, 1), (6, 1)], "lines[1].position"),
        ([(1, 4)], "lines[0].quantity"),
        ([(7, 1)], "lines"),
    ],
)
def test_only_goods_that_were_ordered_and_paid_come_back(
    client: Client, order_id: str, lines: list[tuple[int, int]], field: str
) -> None:
    answer = refund(client, order_id, *lines)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])
    assert not Refund.objects.exists()


@pytest.mark.parametrize("currency", ["USD"], indirect=True)
def test_a_refund_that_failed_is_made_again_without_a_rest(client: Client, post: Any, order_id: str) -> None:
    amounts = [refund(client, order_id, (1, 1)).json()["amount"] for _ in range(3)]
    second = sorted(Refund.objects.all(), key=lambda one: one.created_at)[1]
    Refund.objects.filter(pk=second.pk).update(status="failed")  # before payments was asked
    again = refund(client, order_id, (1, 1))
    assert again.status_code == 202, again.content
    kept = [amounts[0], amounts[2], again.json()["amount"]]
    assert round(sum(kept) * 100) == round(sum(amounts) * 100)
