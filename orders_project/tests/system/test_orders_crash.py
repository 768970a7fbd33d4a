"""A web process that is killed in the middle of an order: the customer's retry gets a true answer."""

import threading
from typing import Any

import psycopg
import pytest
import requests

pytestmark = [pytest.mark.processes]

POINTS = {
    "while it holds the stock": ("processing", "LOCK processing_stockmovement IN EXCLUSIVE MODE"),
    "between the hold and the order": ("orders", "LOCK orders_order IN EXCLUSIVE MODE"),
    "before the answer is kept": ("orders", "LOCK orders_idempotencykey IN EXCLUSIVE MODE"),
}
WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.mark.parametrize("point", POINTS)
def test_killed(web: Any, point: str) -> None:
    system = web
    made = requests.post(
        system.url("/admin/products"),
        json={"name": "The last one", "price": 5, "stock": 1},
        headers={"X-Admin-Secret": "dev-admin-secret"},
        timeout=60,
    )
    product_id = made.json()["product_id"]
    email = f"{point.split()[-1]}@example.com"

    def attempt() -> requests.Response:
        return requests.post(
            system.url("/orders"),
            json={"user_email": email, "items": [{"product_id": product_id, "quantity": 1}]},
            headers={"Idempotency-Key": product_id},
            timeout=300,
        )

    lost: list[Exception] = []

    def doomed() -> None:
        try:
            attempt()
        except requests.ConnectionError as error:
            lost.append(error)

    service, lock = POINTS[point]
    customer = threading.Thread(target=doomed)
    with psycopg.connect(system.direct(service)) as blocker:
        blocker.execute(lock)
        customer.start()
        system.until(lambda: system.query(service, WAITING))
        system.kill("web")
    customer.join(300)
    assert len(lost) == 1

    system.start("web")
    answers: list[requests.Response] = []

    def answered() -> bool:
        answers.append(attempt())
        return answers[-1].status_code != 409 or answers[-1].json()["code"] != "idempotency_key_in_use"

    system.until(answered)
    assert answers[-1].status_code == 201, answers[-1].text
    again = attempt()
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (answers[-1].json(), "true")
    product = requests.get(system.url(f"/products/{product_id}"), timeout=60).json()
    assert (product["stock"], product["held"]) == (0, 1)
    found = requests.get(system.url(f"/orders?user_email={email}"), timeout=60).json()["results"]
    assert [order["order_id"] for order in found] == [answers[-1].json()["order_id"]]
