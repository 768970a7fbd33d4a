"""A page of orders costs the same wherever it is, whatever its filters are, and however many orders there are."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

pytestmark = pytest.mark.django_db

ORDERS = int(os.environ.get("ORDERS_AT_SCALE", "20000"))
MANY = """
INSERT INTO orders_order (order_id, principal, customer_id, user_id, user_email, description, status, total, currency,
    payment_method, payment_id, hold_id, fail_reason, version, fingerprint, created_at, updated_at)
SELECT 'o' || n, CASE WHEN n %% 100 = 0 THEN 'small' WHEN n %% 2 = 0 THEN '' ELSE 'shop' END,
    'c' || n %% 50, 'u' || n %% 5000,
    CASE WHEN n %% 10 = 0 THEN 'e' || n %% 1000 || '@example.com' ELSE '' END, '',
    CASE WHEN n %% 10000 = 0 THEN 'failed' WHEN n %% 3 = 0 THEN 'canceled' ELSE 'done' END, 100, 'USD', 'account', '',
    NULL, '', 4, '', now() - n / 7 * interval '1 second', now() - n * interval '1 second'
FROM generate_series(1, %s) AS n
"""
AN_HOUR_AGO = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
MAX_PAGES = 400  # of the database, 8 KB each: what reading 21 orders by an index may touch


@pytest.fixture
def many() -> None:
    with connections["orders"].cursor() as cursor:
        cursor.execute(MANY, [ORDERS])
        cursor.execute("ANALYZE orders_order")


def explained(client: Any, path: str) -> tuple[Any, dict[str, Any]]:
    """The answer, and the plan by which the database found the orders in it."""
    with CaptureQueriesContext(connections["orders"]) as queries:
        answer = client.get(path).json()
    with connections["orders"].cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + queries.captured_queries[0]["sql"])
        plan = cursor.fetchone()[0][0]["Plan"]
    return answer, plan


def test_every_page_by_every_filter(many: None, client: Client) -> None:
    filters = (
        "", "status=done", "status=failed", "status=pending", "customer_id=c7", "user_id=u7", "user_id=nobody",
        "user_email=E10@example.com", "number=1500", "status=canceled&customer_id=c7",
        "created_to=2020-01-01T00:00:00Z",
        "sort=created_at", "sort=updated_at", "sort=-updated_at", "sort=updated_at&user_id=u7",
        "sort=updated_at&status=done", "sort=updated_at&status=failed", f"sort=updated_at&updated_since={AN_HOUR_AGO}",
    )  # fmt: skip
    for filtered in filters:
        page, plan = explained(client, f"/orders?{filtered}")
        touched = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        assert touched < MAX_PAGES, (filtered, plan)
        if os.environ.get("ORDERS_SHOW_PLANS"):
            print(f"{filtered or 'no filter'}: {touched} pages, {_named(plan)}")
        for _ in range(5):
            if page["next"] is None:
                break
            page, plan = explained(client, page["next"])
            assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < MAX_PAGES, (filtered, plan)


def test_what_has_changed_of_one_client(many: None, client_named: Callable[[str], APIClient]) -> None:
    path = f"/orders?sort=updated_at&limit=5&updated_since={AN_HOUR_AGO}"
    for _ in range(3):
        page, plan = explained(client_named("small"), path)
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < MAX_PAGES, plan
        assert "order_of_client_by_change" in _named(plan)
        path = page["next"]


def test_the_last_page(many: None, client: Client) -> None:
    with connections["orders"].cursor() as cursor:
        cursor.execute("UPDATE orders_order SET created_at = '2020-01-02' WHERE order_id IN ('o1', 'o2')")
    page, _ = explained(client, "/orders?created_to=2020-01-03T00:00:00Z&limit=1")
    _, plan = explained(client, page["next"])
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < MAX_PAGES, plan


def test_a_sku_that_is_not_sold_any_more(many: None, client: Client) -> None:
    with connections["orders"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO orders_orderline (order_id, position, sku, name, quantity, unit_price)"
            " SELECT 'o' || n, 1, CASE WHEN n > %s THEN 'gone' ELSE 'lamp' END, '', 1, 100"
            " FROM generate_series(%s, 1, -1) AS n",
            [ORDERS - 2000, ORDERS],
        )
        cursor.execute(
            "UPDATE orders_order SET created_at = '2020-01-02' WHERE substr(order_id, 2)::int > %s", [ORDERS - 2000]
        )
        cursor.execute("ANALYZE orders_order, orders_orderline")
    with CaptureQueriesContext(connections["orders"]) as queries:
        assert len(client.get("/orders?sku=GONE").json()["results"]) == 20
    for query in queries.captured_queries:
        with connections["orders"].cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query["sql"])
            plan = cursor.fetchone()[0][0]["Plan"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < MAX_PAGES, (query, _named(plan))


def _named(plan: dict[str, Any]) -> str:
    """The steps of a plan, outermost first."""
    own = " ".join(filter(None, (plan["Node Type"], plan.get("Index Name"))))
    return " < ".join([own, *map(_named, plan.get("Plans", []))])
