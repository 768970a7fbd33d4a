"""POST /orders/{id}/cancel."""

from typing import Any

import pytest
from django.test import Client

from orders import factories
from orders.models import Order

from .conftest import Shop

pytestmark = pytest.mark.django_db


def cancel(client: Client, order_id: str, **headers: str) -> Any:
    return client.post(f"/orders/{order_id}/cancel", headers=headers)


def test_goes_back_first_and_is_canceled_then(client: Client, shop: Shop, lamp: str, post: Any) -> None:
    body = {"user_email": "ann@example.com", "items": [{"product_id": lamp, "quantity": 2}]}
    order_id = client.post("/orders", body, content_type="application/json").json()["order_id"]
    answer = cancel(client, order_id)
    assert (answer.status_code, answer.json()["status"], answer["ETag"]) == (202, "voiding", '"2"')
    assert answer.json()["fail_reason"] == "canceled_by_customer"
    assert shop.stock(lamp) == (8, 2)
    assert cancel(client, order_id).json()["version"] == 2
    post.run()
    answer = cancel(client, order_id)
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert shop.stock(lamp) == (10, 0)


@pytest.mark.parametrize(("status", "code"), [("done", "already_done"), ("failed", "already_failed")])
def test_what_has_ended_otherwise_stays(client: Client, status: str, code: str) -> None:
    order = factories.order()
    Order.objects.update(status=status)
    answer = cancel(client, order.order_id)
    assert (answer.status_code, answer.json()["code"]) == (409, code)
    order.refresh_from_db()
    assert (order.status, order.version) == (status, 1)


def test_an_order_that_is_not_there(client: Client) -> None:
    assert cancel(client, "nowhere").status_code == 404


@pytest.mark.parametrize("etag", ['"2"', 'W/"1"', "1", '"x"', ""])
def test_another_version_than_the_caller_believes(client: Client, etag: str) -> None:
    order = factories.order()
    answer = cancel(client, order.order_id, **{"If-Match": etag})
    assert (answer.status_code, answer.json()["code"]) == (412, "version_conflict")
    order.refresh_from_db()
    assert order.status == "pending"


@pytest.mark.parametrize("etag", ['"1"', "*", '"7", "1"'])
def test_the_version_that_the_caller_believes(client: Client, etag: str) -> None:
    assert cancel(client, factories.order().order_id, **{"If-Match": etag}).status_code == 202


def test_a_body_makes_no_difference(client: Client) -> None:
    order = factories.order()
    answer = client.post(f"/orders/{order.order_id}/cancel/", {}, content_type="application/json")
    assert answer.status_code == 202
