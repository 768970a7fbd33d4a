"""An order posted over HTTP crosses every service and comes back done."""

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
import requests
import time_machine
from django.utils import timezone

from orders import services
from orders.models import Order, OrderEvent
from orders.tests.test_webhooks import Receiver
from orders_project.tests import screenshots
from orders_project.tests.house import House, worker
from payments import services as money

pytestmark = pytest.mark.django_db

REGISTER = """
from django.utils import timezone
from orders import webhooks
webhooks.register(url="{url}", actor="a test", now=timezone.now())
"""


def place(user_id: str, *, amount: int = 500) -> Order:
    new = services.NewOrder(lines=(services.Line(quantity=1, price=amount),), user_id=user_id)
    return services.place_order(new=new, now=timezone.now())[0]


class TestAnAccountOrder:
    @pytest.mark.parametrize("times", [1, 2])
    def test_is_paid_processed_and_done(self, post: Any, times: int) -> None:
        money.open_account(user_id="ann")
        money.deposit(user_id="ann", amount=2000, now=timezone.now())
        order = place("ann")
        post.times = times
        post.run()
        order.refresh_from_db()
        assert order.status == "done"
        assert [e.status for e in OrderEvent.objects.all()] == ["pending", "payment_pending", "paid", "done"]
        assert money.open_account(user_id="ann")[0].balance == 1500

    def test_without_money_fails(self, post: Any) -> None:
        money.open_account(user_id="poor")
        order = place("poor")
        post.run()
        order.refresh_from_db()
        assert (order.status, order.fail_reason) == ("failed", "insufficient_funds")

    def test_that_waits_too_long_is_voided(self, post: Any) -> None:
        post.passes_over = lambda letter: letter.type == "payments.charge"
        order = place("nobody")
        post.run()
        with time_machine.travel(timezone.now() + timedelta(minutes=16)):
            post.run()
        order.refresh_from_db()
        assert (order.status, order.fail_reason) == ("canceled", "payment_timeout")


@pytest.fixture(scope="module")
def running(house: House) -> House:
    house.start_all()
    house.manage("load_demo", "--password-file", str(house.home / "password"))
    return house


def follow(house: House) -> str:
    """Place an order and wait until it is done; its id."""
    order = {"user_id": "demo-rich", "amount": 12.5, "description": "x"}
    answer = requests.post(house.url("/orders"), json=order, timeout=60)
    assert answer.status_code == 201, answer.text
    order_id = answer.json()["order_id"]
    house.until(lambda: screenshots.status_of(house, order_id) == "done")
    return str(order_id)


@pytest.mark.processes
def test_an_order_crosses_every_process(running: House) -> None:
    follow(running)


@pytest.mark.processes
def test_no_order_waits_for_those_who_are_told_of_it(running: House) -> None:
    """Orders are done while nobody sends webhooks, which then go out in any case."""
    running.stop("orders")
    running.start("orders alone", command=worker("orders"))
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        running.manage("shell", "-v", "0", "-c", REGISTER.format(url=receiver.url))
        order_id = follow(running)
        states = "SELECT DISTINCT status FROM orders_webhookdelivery WHERE order_id = %s"
        assert running.query("orders", states, order_id) == [("pending",)]
        assert order_id not in str(receiver.heard)
        running.start("webhooks", command=worker("orders.webhooks"))
        running.until(lambda: running.query("orders", states, order_id) == [("delivered",)])
        told = [json.loads(body) for _, body in receiver.heard]
        receiver.shutdown()
    # A delivery may come twice; and an order that somebody else has placed here may be told of, too.
    about_it = {said["type"] for said in told if said["data"]["order_id"] == order_id}
    assert sorted(about_it) == [
        "order.created",
        "order.done",
        "order.paid",
        "order.payment_pending",
    ]
