"""POST /orders/{id}/cancel."""

from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from orders import factories
from orders.models import Order

pytestmark = pytest.mark.django_db


def cancel(client: Client, order_id: str, **headers: str) -> Any:
    return client.post(f"/orders/{order_id}/cancel", headers=headers)


def test_is_first_turned_back(client: Client) -> None:
    order_id = factories.order().order_id
    answer = cancel(client, order_id)
    assert (answer.status_code, answer.json()["status"], answer["ETag"]) == (202, "voiding", '"2"')
    assert answer.json()["fail_reason"] == "canceled_by_customer"
    assert cancel(client, order_id).json()["version"] == 2
    assert cancel(client, order_id).json() == client.get(f"/orders/{order_id}").json()


def test_reads_the_order_once(client: Client) -> None:
    order = factories.order()
    with CaptureQueriesContext(connections["orders"]) as queries:
        assert cancel(client, order.order_id).status_code == 202
    reads = [query["sql"] for query in queries if 'FROM "orders_order"' in query["sql"]]
    assert len(reads) == 1, reads


@pytest.mark.parametrize(
    ("status", "code", "detail"),
    [
        ("done", "already_done", "Order o-1 is done and can no longer be canceled."),
        ("failed", "already_failed", "Order o-1 has failed and can no longer be canceled."),
    ],
)
def test_an_order_that_has_ended_stays_as_it_is(client: Client, status: str, code: str, detail: str) -> None:
    order = factories.order(order_id="o-1")
    Order.objects.update(status=status)
    answer = cancel(client, order.order_id)
    assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (409, code, detail)
    order.refresh_from_db()
    assert (order.status, order.version) == (status, 1)


def test_an_order_that_does_not_exist(client: Client) -> None:
    assert cancel(client, "nowhere").status_code == 404


@pytest.mark.parametrize("etag", ['"2"', 'W/"1"', "1", '"x"', ""])
def test_at_another_version_than_if_match_says(client: Client, etag: str) -> None:
    order = factories.order()
    answer = cancel(client, order.order_id, **{"If-Match": etag})
    assert (answer.status_code, answer.json()["code"]) == (412, "version_conflict")
    order.refresh_from_db()
    assert order.status == "pending"


@pytest.mark.parametrize("etag", ['"1"', "*", '"7", "1"'])
def test_at_the_version_that_if_match_says(client: Client, etag: str) -> None:
    assert cancel(client, factories.order().order_id, **{"If-Match": etag}).status_code == 202


@pytest.mark.parametrize(
    ("body", "status"), [("", 202), ("{}", 202), ('{"reason": "late"}', 202), ('{"raeson": "x"}', 400), ("[", 400)]
)
def test_a_body_may_be_left_out_and_is_read_if_it_is_there(client: Client, body: str, status: int) -> None:
    order = factories.order()
    answer = client.post(f"/orders/{order.order_id}/cancel/", body, content_type="application/json")
    assert answer.status_code == status
