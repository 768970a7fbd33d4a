"""Keyset paging: keys survive their cursor, and whatever else arrives as a cursor is refused."""

import base64
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from django.db.models import Model
from django.test import Client
from django.utils import timezone as now
from rest_framework.exceptions import ValidationError

from common import keyset
from orders import factories, filters
from orders.models import Order, OrderEvent, Refund, WebhookDelivery, WebhookEndpoint
from orders_project.tests.efforts import some
from payments import services
from payments.models import Account, Entry
from processing.models import Product

pytestmark = pytest.mark.django_db

ORDERING = ("-created_at", "-order_id")
UUID = "01a1fe01-4d49-7bd4-9e70-2e5fa2680929"
TIME = "2026-01-01 00:00:00+00:00"

# The lists whose pages are found by a cursor, and the type of each value of it.
LISTS: dict[str, tuple[type[Model], tuple[str, ...], list[Any]]] = {
    "/orders": (Order, ("-created_at", "-number"), [TIME, 7]),
    "/orders?sort=created_at": (Order, ("created_at", "number"), ["created_at", TIME, 7]),
    "/orders?sort=-updated_at": (Order, ("-updated_at", "-number"), ["-updated_at", TIME, 7]),
    "/orders/o1/events": (OrderEvent, ("version",), [1]),
    "/orders/o1/refunds": (Refund, ("refund_id",), [UUID]),
    "/products": (Product, ("-product_id",), [UUID]),
    "/products?sort=created_at": (Product, ("product_id",), ["created_at", UUID]),
    "/accounts": (Account, ("-id",), [UUID]),
    "/accounts/ann/entries": (Entry, ("-id",), [UUID]),
    "/accounts/ann/entries?sort=at": (Entry, ("id",), ["at", UUID]),
    "/webhook-endpoints": (WebhookEndpoint, ("-id",), [UUID]),
    f"/webhook-endpoints/{UUID}/deliveries": (WebhookDelivery, ("-id",), [UUID]),
}
OF_ORDERS = [path for path, (model, _ordering, _key) in LISTS.items() if model is Order]
# What JSON can have in the place of a value. None of it is a value that a row can have.
VALUES = [
    None, True, False, 0.5, 1.0, 1e300, -0.0, float("inf"), float("nan"), [], {}, [1], [[1]], {"a": 1}, [None], "",
    " ", "x", "1", "1.0", " 1", "١", "a\0b", "\0", "\ud800", "a\nb", "\u2028", "null", "true", "[]", "x" * 300,
    "2026-01-01", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00+20:00", "2026-01-01 00:00:00+20:00",
    "2026-01-01 00:00:00-23:59:59.999999", "2026-01-01 00:00:00+00:00:00.5", "2026-01-01 00:00:00",
    "0001-01-01 00:00:00+14:00", "9999-12-31 23:59:59-14:00", "2026-02-30 00:00:00+00:00", "10000-01-01 00:00:00+00:00",
    "2026-01-01 00:00:00.1234567+00:00", "infinity", UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}",
    f"urn:uuid:{UUID}",
]  # fmt: skip
NUMBERS = [0, -1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**300]


def cursor_of(key: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode()


def keys(good: list[Any], values: list[Any]) -> list[list[Any]]:
    """The good key with each of these values in each of its places."""
    return [[*good[:at], value, *good[at + 1 :]] for at, value in itertools.product(range(len(good)), values)]


def test_a_key_survives_its_cursor() -> None:
    key = [datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC), str(uuid4())]
    assert keyset.decode(keyset.encode(key), Order, ORDERING) == key
    assert keyset.decode(keyset.encode(key, sort="x"), Order, ORDERING, sort="x") == key


@pytest.mark.parametrize(
    "cursor",
    [
        "", "?", "WzFd", "e30=", "bnVsbA==", "A" * 401, "Ü", keyset.encode(["yesterday", "x"]), keyset.encode(["x"]),
        keyset.encode([datetime(2026, 1, 1, tzinfo=UTC), "a\nb"]), base64.b64encode(b"[" * 200).decode(),
        keyset.encode([datetime(2026, 1, 1), "x"]),
        keyset.encode([datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "x"]),
    ],
)  # fmt: skip
def test_anything_else_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError):
        keyset.decode(cursor, Order, ORDERING)


@pytest.fixture
def there() -> None:
    """Rows before and after each of the cursors, as far as the lists need any."""
    factories.order(order_id="o1")
    services.deposit(user_id=services.open_account(user_id="ann")[0].user_id, amount=1, now=now.now())
    WebhookEndpoint.objects.create(id=UUID, url="https://shop.example/", created_at=now.now())


@pytest.fixture
def ask(there: None) -> Callable[[str, str], Any]:
    http = Client(raise_request_exception=False)
    return lambda path, cursor: http.get(f"{path}{'&' if '?' in path else '?'}cursor={cursor}")


@pytest.mark.parametrize("path", LISTS)
def test_no_cursor_of_a_list_is_a_mistake_of_ours(path: str, ask: Callable[[str, str], Any]) -> None:
    _model, _ordering, good = LISTS[path]
    assert ask(path, cursor_of(good)).status_code == 200
    for wrong in [*not_keys(good), *some(keys(good, VALUES), list(LISTS).index(path))]:
        answer = ask(path, cursor_of(wrong))
        if is_old(wrong, path) and answer.status_code == 200:
            continue
        assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json"), (
            wrong,
            answer.content,
        )
        assert list(answer.json()["errors"]) == ["cursor"]
    for far in keys(good, NUMBERS):  # where there is a number, it may be any number
        assert ask(path, cursor_of(far)).status_code in (200, 400), far


@pytest.mark.parametrize("path", OF_ORDERS)
def test_nor_is_one_over_grpc(path: str, there: None) -> None:
    _model, _ordering, good = LISTS[path]
    sort = path.partition("sort=")[2]
    for key in [good, *not_keys(good), *keys(good, VALUES), *keys(good, NUMBERS)]:
        errors = errors_of({"cursor": cursor_of(key), **({"sort": sort} if sort else {})})
        assert errors in ([], ["cursor"])
        assert not (errors and key == good)


@pytest.mark.parametrize("path", LISTS)
def test_what_is_refused_is_refused_before_the_database_is_asked(path: str) -> None:
    model, ordering, good = LISTS[path]
    sort = good[0] if len(good) > len(ordering) else ""
    for wrong in [*not_keys(good), *keys(good, VALUES)]:
        with pytest.raises(ValueError):
            keyset.decode(cursor_of(wrong), model, ordering, sort=sort)


def errors_of(parameters: dict[str, str]) -> list[str]:
    """The parameters that a page of orders is refused for."""
    try:
        filters.page_of(Order.objects.all(), parameters)
    except ValidationError as refusal:
        return [*map(str, refusal.detail)]
    return []


def not_keys(good: list[Any]) -> list[Any]:
    """What is no key at all, or one of the wrong length or order."""
    lengths = [[], good[:-1], [*good, 1], [*good, None], good[::-1] if len(good) > 1 else [good]]
    return [*lengths, "x", 1, None, True, {}, {"0": good[0]}]


def is_old(key: Any, path: str) -> bool:
    """Whether it may be a cursor of the release before, which has the id of an order in place of its number."""
    match key:
        case [*_, str()]:
            return path in OF_ORDERS
    return False
