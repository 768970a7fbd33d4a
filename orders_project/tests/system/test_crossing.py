"""An order posted over HTTP crosses every service and comes back done."""

import json
import threading

import pytest
import requests

from orders.tests.test_webhooks import Receiver
from orders_project.tests import screenshots
from orders_project.tests.running_system import RunningSystem, worker

pytestmark = pytest.mark.processes

REGISTER = """
from django.utils import timezone
from orders import webhook_endpoints
webhook_endpoints.register(url="{url}", hears_all=True, actor="a test", now=timezone.now())
"""


def follow(system: RunningSystem) -> str:
    """Place an order and wait until it is done; its id."""
    order = {"user_id": "demo-rich", "amount": 12.5, "description": "x"}
    answer = requests.post(system.url("/orders"), json=order, timeout=60)
    assert answer.status_code == 201, answer.text
    order_id = answer.json()["order_id"]
    system.until(lambda: screenshots.status_of(system, order_id) == "done")
    return str(order_id)


def test_an_order_crosses_every_process(everything: RunningSystem) -> None:
    follow(everything)


@pytest.mark.usefixtures("hushed")
def test_no_order_waits_for_those_who_are_told_of_it(everything: RunningSystem) -> None:
    """Orders are done while nobody sends webhooks, which then go out in any case."""
    everything.stop("orders")
    everything.start("orders alone", command=worker("orders"))
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        everything.manage("shell", "-v", "0", "-c", REGISTER.format(url=receiver.url))
        order_id = follow(everything)
        states = "SELECT DISTINCT status FROM orders_webhookdelivery WHERE order_id = %s"
        assert everything.query("orders", states, order_id) == [("pending",)]
        assert order_id not in str(receiver.requests)
        everything.start("webhooks", command=worker("orders.webhooks"))
        everything.until(lambda: everything.query("orders", states, order_id) == [("delivered",)])
        told = [json.loads(body) for _, body in receiver.requests]
        receiver.shutdown()
    # A delivery may come twice; and an order that somebody else has placed here may be told of, too.
    about_it = {said["type"] for said in told if said["data"]["order_id"] == order_id}
    assert sorted(about_it) == [
        "order.created",
        "order.done",
        "order.paid",
        "order.payment_pending",
    ]
