"""Refunds of orders that fail, perhaps after they had succeeded, in any order of messages."""

import itertools
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from orders import refunds
from orders.models import DeadLetter, Order, Refund
from orders_project.tests.test_money_of_orders import Shopper, assert_audit_is_clean
from orders_project.tests.test_money_of_orders import gateway as gateway
from orders_project.tests.test_money_of_orders import shopper as shopper
from outbox.envelope import Envelope
from payments import services as money
from payments.gateways.base import DisputeStatus, RefundStatus
from payments.messages import RefundFailed, RefundSucceeded
from payments.tests.model_gateway import ModelGateway
from processing import services as stock
from processing.models import Product

pytestmark = pytest.mark.django_db


@pytest.fixture
def order(shopper: Shopper, gateway: ModelGateway) -> str:
    """An order of three lamps for 20 each, paid through the gateway and done."""
    stock.make_product(name="Lamp", sku="lamp", price=20_00, stock=10, actor="x", now=timezone.now())
    items = [{"sku": "lamp", "quantity": 3, "price": 20}]
    shopper.places(order_id="o", user_email="a@example.com", items=items)
    gateway.pays("pay_1")
    shopper.hears(gateway)
    assert shopper.order("o")["status"] == "done"
    return "o"


def test_a_success_that_was_overtaken_by_the_failure_changes_nothing(shopper: Shopper, order: str) -> None:
    asked = {"lines": [{"position": 1, "quantity": 1}], "restock": True}
    refund_id = shopper.post(f"/orders/{order}/refunds", asked).json()["refund_id"]
    stored = Order.objects.get().pk
    about: dict[str, Any] = {"order_id": stored, "refund_id": refund_id, "amount": 20_00, "currency": "USD"}
    refunds.failed(RefundFailed(code="account_closed", **about), now=timezone.now())
    version = Order.objects.get().version
    refunds.succeeded(RefundSucceeded(**about), now=timezone.now())
    found = Order.objects.get()
    assert (found.refunded, found.version) == (0, version)
    refund = Refund.objects.get()
    assert (refund.status, refund.fail_code, refund.restock) == ("failed", "account_closed", False)


def test_each_end_is_recorded_once(shopper: Shopper, order: str) -> None:
    refund_id = shopper.post(f"/orders/{order}/refunds", {"amount": 20}).json()["refund_id"]
    about: dict[str, Any] = {
        "order_id": Order.objects.get().pk, "refund_id": refund_id, "amount": 20_00, "currency": "USD",
    }  # fmt: skip
    for end, refunded in (
        (partial(refunds.succeeded, RefundSucceeded(**about)), 20_00),
        (partial(refunds.failed, RefundFailed(code="account_closed", **about)), 0),
    ):
        version = Order.objects.get().version
        for _ in range(2):  # payments tells it again if it is asked again
            end(now=timezone.now())
        found = Order.objects.get()
        assert (found.refunded, found.version) == (refunded, version + 1)


def test_that_never_came_back_takes_nothing_from_what_has(shopper: Shopper, gateway: ModelGateway, order: str) -> None:
    for status in (RefundStatus.SUCCEEDED, RefundStatus.FAILED):
        gateway.refunds_become = status
        shopper.post(f"/orders/{order}/refunds", {"amount": 20})
        shopper.hears(gateway)
    assert sorted(Refund.objects.values_list("status", flat=True)) == ["failed", "succeeded"]
    assert shopper.order(order)["refunded_amount"] == 20
    assert_audit_is_clean()


def test_no_more_is_back_than_was_paid(shopper: Shopper, order: str) -> None:
    """What the gateway has returned by hand may be told before what it has returned at our request is taken back."""
    for number in range(2):
        event = RefundSucceeded(
            order_id=Order.objects.get().pk, refund_id=str(UUID(int=number)), amount=40_00, currency="USD"
        )
        refunds.succeeded(event, now=timezone.now())
    assert Order.objects.get().refunded == 60_00


def test_pieces_go_back_into_stock_once(shopper: Shopper, gateway: ModelGateway, order: str) -> None:
    asked: dict[str, Any] = {"lines": [{"position": 1, "quantity": 1}], "restock": True}
    refund_id = shopper.post(f"/orders/{order}/refunds", asked).json()["refund_id"]
    shopper.hears(gateway)
    (number,) = gateway.payments["pay_1"].refunds
    gateway.refund_becomes("pay_1", number, RefundStatus.FAILED, "account_closed")
    shopper.hears(gateway)
    refund = shopper.get(f"/orders/{order}/refunds/{refund_id}")
    assert (refund["status"], refund["restock"]) == ("failed", True)  # the pieces are on the shelf
    assert Product.objects.get().available == 8

    asked["lines"][0]["quantity"] = 3
    answer = shopper.post(f"/orders/{order}/refunds", asked)
    assert answer.status_code == 400
    assert answer.json()["errors"] == {"lines[0].quantity": ["2 of them can still go back into stock."]}
    assert shopper.post(f"/orders/{order}/refunds", {"restock": True}).json()["amount"] == 60
    shopper.hears(gateway)
    product = Product.objects.get()
    assert (product.available, product.sold, shopper.order(order)["refunded_amount"]) == (10, 0, 60)
    assert_audit_is_clean()


def test_what_never_came_back_goes_back_into_stock_with_the_next_refund(
    shopper: Shopper, gateway: ModelGateway, order: str
) -> None:
    gateway.refunds_become = RefundStatus.FAILED
    shopper.post(f"/orders/{order}/refunds", {"restock": True})
    shopper.hears(gateway)
    assert (Refund.objects.get().status, Product.objects.get().available) == ("failed", 7)
    gateway.refunds_become = RefundStatus.SUCCEEDED
    assert shopper.post(f"/orders/{order}/refunds", {"restock": True}).status_code == 202
    shopper.hears(gateway)
    assert Product.objects.get().available == 10
    assert_audit_is_clean()


HELD = ("refund.succeeded", "refund.failed", "payment.refunded", "payment.return_undone")


@pytest.mark.parametrize("sequence", list(itertools.permutations(range(4))), ids=str)
@pytest.mark.parametrize("fails", ["part", "rest"])
def test_what_is_back_is_the_same_in_whatever_order_it_is_told(
    shopper: Shopper, gateway: ModelGateway, fails: str, sequence: tuple[int, ...]
) -> None:
    """Of 50, a part of 20 goes back, 10 are lost in a dispute, and the rest follows; one of the two has to go again."""
    held: list[Envelope] = []

    def hold(envelope: Envelope) -> bool:
        held.extend([envelope] if envelope.type in HELD else [])
        return envelope.type in (*HELD, "processing.process")

    shopper.carrier.passes_over = hold
    shopper.places(order_id="o", user_email="a@example.com", amount=50)
    gateway.pays("pay_1")
    shopper.hears(gateway)
    shopper.post("/orders/o/refunds", {"amount": 20})
    shopper.hears(gateway)
    gateway.dispute_becomes("pay_1", gateway.disputes_payment("pay_1", amount=10_00), DisputeStatus.LOST)
    shopper.hears(gateway)
    shopper.post("/orders/o/cancel")
    shopper.hears(gateway)
    part, rest = gateway.payments["pay_1"].refunds
    gateway.refund_becomes("pay_1", part if fails == "part" else rest, RefundStatus.FAILED, "account_closed")
    shopper.hears(gateway)
    if fails == "rest":
        money.try_return_again(order_id=Order.objects.get().pk, now=timezone.now())
    shopper.hears(gateway)
    assert [one.type for one in held] == [
        "refund.succeeded", "payment.refunded", HELD[1] if fails == "part" else HELD[3], "payment.refunded",
    ]  # fmt: skip
    for number in sequence:
        shopper.carrier.deliver("orders", held[number])
        assert Order.objects.get().refunded <= 40_00
    shopper.carrier.passes_over = lambda envelope: False
    shopper.carrier.run()
    order = Order.objects.get()
    assert (order.status, order.refunded, order.blocked) == ("canceled", 40_00, "")
    assert not DeadLetter.objects.exists()
    assert_audit_is_clean()
