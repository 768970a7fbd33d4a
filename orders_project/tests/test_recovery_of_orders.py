"""The database of orders goes back alone: its orders come back from their events, and from what others have said."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from orders import rebuilding
from orders.models import NUMBERS, Order, OrderEvent, Outgoing, Refund, WebhookDelivery, WebhookEndpoint
from orders.rebuilding import NO_ORIGIN, Told
from orders_project.recovery import recover
from orders_project.recovery.report import AGAIN, ASKED, PLACED, TOLD
from orders_project.tests.test_money_of_orders import Shopper
from orders_project.tests.test_money_of_orders import gateway as gateway
from orders_project.tests.test_money_of_orders import shopper as shopper
from orders_project.tests.test_money_of_orders import unlimited as unlimited
from orders_project.tests.test_recovery import (
    Shop,
    assert_all_is_well,
    assert_is_as_told,
    command,
    difference,
    ended,
    picture,
    set_back,
    tell,
)
from orders_project.tests.test_recovery import shop as shop
from orders_project.tests.test_recovery import told as told
from payments.gateways.base import RefundStatus
from payments.models import Payment
from processing.models import Product

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited", "told"), pytest.mark.slow]
KEY = {"Idempotency-Key": "k"}
OLD_KEY = "a key that was replaced since then ....."


def test_a_client_that_repeats_its_requests_gets_the_same_orders(shop: Shop) -> None:
    by_name = {"order_id": "mine", "user_id": "ann", "amount": 5, "metadata": {"a": "b"}}
    by_key = {"user_email": "ann@example.com", "items": [{"sku": "lamp", "quantity": 1, "price": 20}]}
    with set_back("orders") as moment:
        named = shop.shopper.post("/orders", by_name).json()
        keyed = shop.shopper.post("/orders", by_key, **KEY).json()
        shop.shopper.carrier.run()
    tell(shop)
    with connections["orders"].cursor() as cursor:  # which no rollback sets back
        cursor.execute("SELECT setval(%s, %s)", [NUMBERS, named["number"] - 1])
    assert recover("orders", since=moment).done[PLACED] == 2
    assert shop.shopper.post("/orders", by_name).json()["number"] == named["number"]
    assert shop.shopper.post("/orders", by_key, **KEY).json()["order_id"] == keyed["order_id"]
    assert shop.shopper.post("/orders", by_key | {"description": "x"}, **KEY).status_code == 409
    assert shop.shopper.post("/orders", by_name | {"amount": 6}).status_code == 409
    assert Shopper("spy").get("/orders/mine").status_code == 404
    assert Order.objects.count() == 2
    other = shop.shopper.post("/orders", {"user_id": "ann", "amount": 5}).json()
    assert other["number"] > max(named["number"], keyed["number"])


@pytest.mark.parametrize("has_event", [True, False])
def test_an_order_of_which_no_event_tells_is_for_its_client(shop: Shop, has_event: bool) -> None:
    with set_back("orders") as moment:
        shop.by_account("lost")
        shop.by_account("told")
        lost = Order.objects.get(reference="lost").pk
        expected = picture(ended())
    carrier = shop.shopper.carrier
    if not has_event:
        carrier.facts = [one for one in carrier.facts if one.subject != lost]
    for one in carrier.facts:
        if one.subject == lost:
            one.data.pop("origin", None)  # as of a release before
    tell(shop)
    said = command(moment, service="orders", code=1)
    assert "1 to decide by a person:" in said
    assert f"order {lost}: " in said
    assert NO_ORIGIN in said
    assert Order.objects.get().reference == "told"
    carrier.run()
    shop.place("lost", user_id="ann")
    command(moment, service="orders")
    carrier.run()
    named = {name: rows for name, rows in picture(ended()).items() if name in ("orders", "payments", "entries")}
    assert difference(named, {name: expected[name] for name in named}) == []


def test_an_order_that_was_begun_and_not_answered_is_named_as_well(shop: Shop) -> None:
    carrier = shop.shopper.carrier
    with set_back("orders") as moment:
        shop.by_gateway("lost", run=False)
        for one in carrier.collect(["orders"]):
            carrier.deliver(*one)
        lost = Order.objects.get().pk
    carrier.facts = []
    assert Payment.objects.get().status == "requested"
    assert f"order {lost}: payments.charge is about it, and {NO_ORIGIN}" in command(moment, service="orders", code=1)


def test_an_event_that_cannot_be_read_yet_waits_for_its_key(shop: Shop) -> None:
    with override_settings(ENCRYPTION_KEYS=[OLD_KEY]), set_back("orders") as moment:
        shop.by_account("one")
        expected = picture(ended())
    tell(shop)
    said = command(moment, service="orders", code=1)
    assert "1 to decide by a person:" in said
    assert "add the key of that time to ENCRYPTION_KEY and run this again" in said
    assert Order.objects.count() == 0
    with override_settings(ENCRYPTION_KEYS=["new " * 10, OLD_KEY]):
        command(moment, service="orders")
    shop.shopper.carrier.run()
    assert difference(picture(ended()), expected) == []


def test_a_recovery_that_was_interrupted_is_begun_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with set_back("orders") as moment:
        for name in ("one", "two", "three"):
            shop.by_account(name)
        shop.asks("one", "refunds", amount=5)
        expected = picture(ended())
    facts = tell(shop)
    whole, calls = rebuilding.bring_forward, []

    def dies_at_the_fifth(told: Told, **more: Any) -> Order:
        calls.append(told)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(told, **more)

    with monkeypatch.context() as patch:
        patch.setattr(rebuilding, "bring_forward", dies_at_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            recover("orders", since=moment)
    report = recover("orders", since=moment)
    assert (report.decisions, report.done[PLACED], report.done[TOLD]) == ([], 0, len(facts) - 3 - 4)
    shop.shopper.carrier.run()
    assert difference(picture(ended()), expected) == []
    assert_is_as_told(facts)
    assert_all_is_well()
    assert command(moment, service="orders") == "orders has nothing to recover.\n"


def test_what_no_event_tells_of_any_more_is_handled_again_in_an_order_that_is_possible(shop: Shop) -> None:
    """The relay has told the first event of each order alone: all else is known from what the others have answered."""
    with time_machine.travel(timezone.now(), tick=True) as clock:
        with set_back("orders") as moment:
            shop.by_account("a")
            shop.by_account("poor", quantity=40)
            shop.by_gateway("g")
            shop.pays("g")
            shop.by_gateway("manual", capture="manual")
            shop.pays("manual")
            shop.asks("manual", "capture", amount=30)
            shop.asks("g", "refunds", amount=5)
            shop.place("i", customer_id="c")
            expected = picture(ended())
            clock.shift(timedelta(hours=1))
        tell(shop, "order.created")
        with override_settings(PROCESSING_SUCCESS_RATE=0.0):  # whoever is asked again is refused
            report = recover("orders", since=moment)
            assert report.decisions == []
            assert report.done[AGAIN]
            # Workers would get them in any order.
            assert set(Order.objects.values_list("reference", "status")) == {
                (name, "failed" if name == "poor" else "done") for name in ("a", "poor", "g", "manual", "i")
            }
            shop.shopper.carrier.run()
        assert difference(picture(ended()), expected) == []
        assert_all_is_well()


def test_what_may_not_have_left_is_asked_for_again(shop: Shop) -> None:
    with set_back("orders") as moment:
        shop.by_account("one", run=False)
        shop.shopper.carrier.collect()
        assert Outgoing.objects.filter(type="payments.charge").exists()
    tell(shop)
    recover("orders", since=moment)
    assert Outgoing.objects.filter(type="orders.overdue", pk=str(Order.objects.get().timer_id)).exists()
    shop.shopper.carrier.run()
    assert Order.objects.get().status == "done"
    assert_all_is_well()


def test_an_event_that_comes_after_a_newer_one_changes_nothing(shop: Shop) -> None:
    with set_back("orders") as moment:
        shop.by_account("one")
        expected = picture(ended())
    carrier, facts = shop.shopper.carrier, list(shop.shopper.carrier.facts)
    first = tell(shop, "order.created", "order.done")
    recover("orders", since=moment)
    later = carrier.facts = [one for one in facts if one not in first]
    assert later
    tell(shop)
    assert recover("orders", since=moment).done[TOLD] == len(later)
    carrier.run()
    assert difference(picture(ended()), expected) == []
    assert_is_as_told(facts)
    assert_all_is_well()


def test_what_an_event_stands_for_is_not_handled_again(shop: Shop) -> None:
    shop.by_gateway("paid")
    shop.pays("paid")
    payment = shop.payment("paid")
    with set_back("orders") as moment:
        shop.gateway.disputes_payment(payment, amount=3_00)
        shop.shopper.hears(shop.gateway)
    tell(shop)
    report = recover("orders", since=moment)
    assert (report.done[TOLD], report.done[AGAIN]) == (1, 0)
    shop.shopper.carrier.run()
    assert Outgoing.objects.filter(type="order.disputed").count() == 1
    assert OrderEvent.objects.filter(type="payment.disputed", data__dispute__amount=3_00).count() == 1
    assert_all_is_well()


def test_stock_that_was_to_come_back_with_a_refund_does_so_once(shop: Shop) -> None:
    """Also where the command for it had not left."""
    for name in ("left", "not-left"):
        shop.by_account(name)
    carrier, before = shop.shopper.carrier, Product.objects.get().available
    with set_back("orders") as moment:
        shop.asks("left", "refunds", lines=[{"position": 1, "quantity": 1}], restock=True)
        carrier.passes_over = lambda envelope: envelope.type == "processing.take_back"
        shop.asks("not-left", "refunds", lines=[{"position": 1, "quantity": 2}], restock=True)
        carrier.passes_over = lambda envelope: False
    assert Product.objects.get().available == before + 1
    tell(shop)
    assert recover("orders", since=moment).decisions == []
    carrier.run()
    assert Product.objects.get().available == before + 3
    assert_all_is_well()


def test_an_order_that_is_turned_back_does_not_wait_for_its_timer_of_before(shop: Shop) -> None:
    with time_machine.travel(timezone.now() - timedelta(hours=1), tick=True) as clock:
        shop.by_gateway("manual", capture="manual")
        shop.pays("manual")
        tell(shop)
        clock.shift(timedelta(hours=1))
        shop.shopper.carrier.run()
        timer = Order.objects.get().timer_at
        assert timer is not None
        assert timer > timezone.now() + timedelta(days=1)
        with set_back("orders") as moment:
            shop.shopper.carrier.passes_over = lambda envelope: envelope.type == "payments.void"
            shop.asks("manual", "cancel")
        tell(shop)
        recover("orders", since=moment)
        order = Order.objects.get()
        assert order.status == "voiding"
        assert order.timer_at is not None
        assert order.timer_at < timezone.now() + timedelta(hours=1)


def test_a_refund_on_its_way_is_known_again_and_named(shop: Shop) -> None:
    shop.by_gateway("paid")
    shop.pays("paid")
    shop.gateway.refunds_become = RefundStatus.PENDING
    payment = shop.payment("paid")
    with set_back("orders") as moment:
        shop.asks("paid", "refunds", lines=[{"position": 1, "quantity": 1}])
        refund = Refund.objects.get()
    tell(shop)
    said = command(moment, service="orders", code=1)
    assert f"1  {ASKED}" in said
    assert f"refund {refund.pk} of order {refund.order_id}: on its way, and nobody knows for which lines" in said
    again = Refund.objects.get()
    assert (again.pk, again.amount, again.status) == (refund.pk, refund.amount, "pending")
    assert command(moment, service="orders") == "orders has nothing to recover.\n"
    (number,) = shop.gateway.payments[payment].refunds
    shop.gateway.refund_becomes(payment, number, RefundStatus.SUCCEEDED)
    shop.shopper.hears(shop.gateway)
    assert Refund.objects.get().status == "succeeded"
    assert_all_is_well()


def test_webhooks_about_what_happened_since_are_sent_again_under_the_same_ids(shop: Shop) -> None:
    with set_back("orders") as moment:
        shop.by_account("one")
    facts = tell(shop)
    WebhookEndpoint.objects.create(url="https://example.com/hook", principal="shop", created_at=timezone.now())
    recover("orders", since=moment)
    assert {str(one.event_id) for one in WebhookDelivery.objects.all()} == {one.id for one in facts}
    assert not any("origin" in one.body for one in WebhookDelivery.objects.all())
    recover("orders", since=moment)
    assert WebhookDelivery.objects.count() == len(facts)


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("EVENTS_STREAM", "events.none", "There is no stream events.none: run manage.py declare_topology"),
        ("AMQP_URL", "amqp://x:y@127.0.0.1:1//", "The broker, whose stream has the events, cannot be reached"),
    ],
)
def test_without_the_stream_of_events_it_says_so_in_one_line(shop: Shop, setting: str, value: str, why: str) -> None:
    with override_settings(**{setting: value}), pytest.raises(CommandError) as refused:
        command(timezone.now(), service="orders")
    assert str(refused.value).startswith(why)
    assert "\n" not in str(refused.value)


def test_nobody_else_can_read_whose_an_order_is(shop: Shop) -> None:
    shop.by_account("one")
    created = next(one for one in shop.shopper.carrier.facts if one.type == "order.created")
    order = Order.objects.get()
    assert order.fingerprint
    assert not {order.principal, order.fingerprint} & {str(value) for value in created.data.values()}
    assert len(created.data["origin"]) < 300
    assert not any("origin" in one.data for one in shop.shopper.carrier.facts if one.type != "order.created")
