"""The curl commands of the original requirements work as they are written there."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here"),
]

CREATE_ORDER = """
curl -X POST http://localhost:8000/orders \\
  -H "Content-Type: application/json" \\
  -d '{
    "order_id": "ord-001",
    "customer_id": "cust-123",
    "items": [
      {"sku": "laptop", "quantity": 1, "price": 1200.0}
    ]
  }'
"""
ORDER_STATUS = "curl http://localhost:8000/orders/ord-001"

CREATE_ORDER_8001 = CREATE_ORDER.replace("8000", "8001")
ORDER_STATUS_8001 = "curl http://localhost:8001/orders/ord-001"

HEALTHZ = "curl http://localhost:8000/healthz"
METRICS = "curl http://localhost:8000/metrics"
CREATE_PRODUCT = """
curl -X POST http://localhost:8000/admin/products \\
  -H "Content-Type: application/json" \\
  -H "X-Admin-Secret: dev-admin-secret" \\
  -d '{
    "name": "Laptop",
    "price": 1500.00,
    "stock": 10
  }'
"""
LIST_PRODUCTS = 'curl "http://localhost:8000/products?is_active=true&limit=20"'
CREATE_ORDER_OF_PRODUCT = """
curl -X POST http://localhost:8000/orders \\
  -H "Content-Type: application/json" \\
  -H "Idempotency-Key: unique-key-123" \\
  -d '{
    "user_email": "customer@example.com",
    "items": [
      {"product_id": "product-uuid", "quantity": 2}
    ]
  }'
"""
GET_ORDER = "curl http://localhost:8000/orders/{order_id}"
CANCEL_ORDER = "curl -X POST http://localhost:8000/orders/{order_id}/cancel"


def run(system: Any, line: str, placeholders: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Run a command with our port and its placeholders filled in; return the status and the body of the answer."""
    for port in ("8000", "8001"):
        line = line.replace(f"http://localhost:{port}/", system.url("/"))
    for placeholder, value in (placeholders or {}).items():
        line = line.replace(placeholder, value)
    arguments = [*shlex.split(line.replace("\\\n", " ")), "--silent", "--write-out", "\n%{http_code}"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body) if body.startswith(("{", "[")) else body


@pytest.mark.parametrize("lines", [(CREATE_ORDER, ORDER_STATUS), (CREATE_ORDER_8001, ORDER_STATUS_8001)])
def test_an_order_with_skus(web: Any, lines: tuple[str, str]) -> None:
    status, made = run(web, lines[0])
    assert status in (200, 201)  # the second document asks for the same order again
    assert made["order_id"] == "ord-001"
    status, order = run(web, lines[1])
    assert status == 200
    assert (order["order_id"], order["customer_id"], order["total_amount"]) == ("ord-001", "cust-123", 1200.0)
    assert order["version"] >= 1
    assert order["status"] in ("pending", "reserved", "payment_pending", "paid", "done")
    asked = {"sku": "laptop", "quantity": 1, "price": 1200.0}
    assert {name: order["items"][0][name] for name in asked} == asked


def test_products_and_an_order_of_one(web: Any) -> None:
    status, product = run(web, CREATE_PRODUCT)
    assert (status, product["name"], product["price"], product["stock"]) == (201, "Laptop", 1500.0, 10)
    status, products = run(web, LIST_PRODUCTS)
    assert status == 200
    assert product["product_id"] in [one["product_id"] for one in products["results"]]

    it = {"product-uuid": product["product_id"]}
    status, order = run(web, CREATE_ORDER_OF_PRODUCT, it)
    assert (status, order["status"], order["total_amount"]) == (201, "reserved", 3000.0)
    assert order["user_email"] == "customer@example.com"
    assert run(web, CREATE_ORDER_OF_PRODUCT, it) == (201, order)
    reused = CREATE_ORDER_OF_PRODUCT.replace('"quantity": 2', '"quantity": 3')
    assert run(web, reused, it)[0] == 409

    status, shown = run(web, GET_ORDER, {"{order_id}": order["order_id"]})
    assert (status, shown["order_id"]) == (200, order["order_id"])
    status, canceled = run(web, CANCEL_ORDER, {"{order_id}": order["order_id"]})
    assert status in (200, 202)
    assert canceled["fail_reason"] == "canceled_by_customer"


def test_an_order_paid_from_an_account(web: Any) -> None:
    """The requests of the third document, which has no curl commands."""
    base = "http://localhost:8000"
    assert run(web, f'curl -X POST "{base}/accounts?user_id=seed-user"')[0] in (200, 201)
    json_body = '-H "Content-Type: application/json" -d'
    assert run(web, f"curl -X POST {base}/accounts/seed-user/deposit {json_body} '{{\"amount\": 100}}'")[0] in (
        200,
        201,
    )
    status, balance = run(web, f"curl {base}/accounts/seed-user/balance")
    assert (status, balance["balance"]) == (200, 100.0)
    body = '{"user_id": "seed-user", "amount": 30.5, "description": "A course"}'
    status, order = run(web, f"curl -X POST {base}/orders {json_body} '{body}'")
    assert (status, order["total_amount"], order["payment_method"]) == (201, 30.5, "account")
    status, orders = run(web, f"curl {base}/orders")
    assert status == 200
    assert order["order_id"] in [one["order_id"] for one in orders["results"]]
    assert run(web, f"curl {base}/orders/{order['order_id']}")[0] == 200


def test_more_than_five_orders_a_minute(web: Any) -> None:
    body = '{"user_email": "hasty@example.com", "amount": 1}'
    line = f"curl -X POST http://localhost:8000/orders -H 'Content-Type: application/json' -d '{body}'"
    answers = [run(web, line)[0] for _ in range(6)]
    assert answers == [201] * 5 + [429]


def test_health_and_metrics(web: Any) -> None:
    assert run(web, HEALTHZ)[0] in (200, 503)  # no workers are running
    status, metrics = run(web, METRICS)
    assert status == 200
    for name in ("orders_total", "orders_paid_total", "orders_canceled_total", "outbox_pending", "worker_errors_total"):
        assert name in metrics
