"""The fake gateway as a process of its own, a worker that is killed while it speaks with it, and nothing lost."""

from typing import Any

import pytest
import requests

from orders_project.tests.running_system import RunningSystem

pytestmark = pytest.mark.processes

BEHAVIOURS: list[dict[str, Any]] = [
    {}, {"duplicates": 3}, {"early": True}, {"errors": 1}, {"lost_answers": 1}, {"reorder": True, "delay": 1},
    {"outcome": "failed"}, {"outcome": "failed", "early": True},
]  # fmt: skip


def test_orders_end_with_the_truth_though_a_worker_is_killed(everything: RunningSystem) -> None:
    gateway = everything.env["FAKE_GATEWAY_URL"]
    for number, behaviour in enumerate(BEHAVIOURS):
        wishes: dict[str, Any] = {"order_id": f"o{number}", "outcome": "success", "delay": 0.2} | behaviour
        assert requests.post(f"{gateway}/behaviour", json=wishes, timeout=60).ok
        order: dict[str, Any] = {"order_id": f"o{number}", "payment_method": "gateway", "customer_id": "c"}
        order["items"] = [{"sku": "tea", "quantity": 2, "price": 5}]
        assert requests.post(everything.url("/orders"), json=order, timeout=60).status_code == 201
        if number == 3:
            everything.kill("payments")
            everything.start("payments")
    placed = [f"o{number}" for number in range(len(BEHAVIOURS))]
    ended = "SELECT count(*) FROM orders_order WHERE order_id = ANY(%s) AND status IN ('done', 'canceled', 'failed')"
    everything.until(lambda: everything.query("orders", ended, placed) == [(len(BEHAVIOURS),)])
    for number, behaviour in enumerate(BEHAVIOURS):
        order = requests.get(everything.url(f"/orders/o{number}"), timeout=60).json()
        truth = requests.get(f"{gateway}/payments", params={"order_id": f"o{number}"}, timeout=60).json()["status"]
        expected = ("canceled", "failed") if behaviour.get("outcome") == "failed" else ("done", "succeeded")
        assert (order["status"], truth) == expected, behaviour
    everything.until(lambda: everything.ask("audit", "--grace", "0")[1] == 0)  # a webhook may still be on its way
