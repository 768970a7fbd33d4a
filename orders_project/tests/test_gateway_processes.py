"""The fake gateway as a process of its own, a worker that is killed while it speaks with it, and nothing lost."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from orders_project.embedded import processes

from .house import House

pytestmark = pytest.mark.processes

BEHAVIOURS: list[dict[str, Any]] = [
    {}, {"duplicates": 3}, {"early": True}, {"errors": 1}, {"lost_answers": 1}, {"reorder": True, "delay": 1},
    {"outcome": "failed"}, {"outcome": "failed", "early": True},
]  # fmt: skip


@pytest.fixture(scope="module")
def town() -> Iterator[House]:
    """A house with a fake gateway beside it."""
    port = processes.free_port()
    with House(FAKE_GATEWAY_URL=f"http://127.0.0.1:{port}") as standing:
        standing.commands["gateway"] = ["manage.py", "fake_gateway", "--port", str(port)]
        standing.start_all()
        standing.until(lambda: processes.answers(port))
        yield standing


def test_orders_end_with_the_truth_though_a_worker_is_killed(town: House) -> None:
    gateway = town.env["FAKE_GATEWAY_URL"]
    for number, behaviour in enumerate(BEHAVIOURS):
        wishes: dict[str, Any] = {"order_id": f"o{number}", "outcome": "success", "delay": 0.2} | behaviour
        assert requests.post(f"{gateway}/behaviour", json=wishes, timeout=60).ok
        order = {"order_id": f"o{number}", "customer_id": "c", "items": [{"sku": "tea", "quantity": 2, "price": 5}]}
        assert requests.post(town.url("/orders"), json=order, timeout=60).status_code == 201
        if number == 3:
            town.kill("payments")
            town.start("payments")
    ended = "SELECT count(*) FROM orders_order WHERE status IN ('done', 'canceled', 'failed')"
    town.until(lambda: town.query("orders", ended) == [(len(BEHAVIOURS),)])
    for number, behaviour in enumerate(BEHAVIOURS):
        order = requests.get(town.url(f"/orders/o{number}"), timeout=60).json()
        truth = requests.get(f"{gateway}/payments", params={"order_id": f"o{number}"}, timeout=60).json()["status"]
        expected = ("canceled", "failed") if behaviour.get("outcome") == "failed" else ("done", "succeeded")
        assert (order["status"], truth) == expected, behaviour
    town.until(lambda: town.ask("audit", "--grace", "0")[1] == 0)  # a webhook may still be on its way
