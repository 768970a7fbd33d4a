"""Orders paid through the fake gateway, over real HTTP in both directions, however it misbehaves."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db.models import Min
from django.utils import timezone

from common.circuit_breaker import CircuitBreaker
from orders import services, transitions
from orders.models import ENDS, Order
from orders_project.audit import audit
from outbox.envelope import Envelope
from outbox.models import DeadLetter
from outbox.services import model_of
from payments import gateway_calls, gateways, receipts
from payments.gateways.base import GatewayUnavailable
from payments.gateways.fake import webhook_url
from payments.gateways.fake_bank import Payment as FakePayment
from payments.gateways.server import FakeService
from payments.models import Entry, Payment, WebhookReceipt
from processing.tests import factories

from .carrier import Carrier

SERVICES = ("orders", "payments")
UNKNOWN_CURRENCY = "XXX"  # a webhook with it is refused
pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@dataclass
class Simulation:
    """The services and the fake gateway. Time passes when nothing else happens."""

    gateway: FakeService
    clock: time_machine.Traveller
    post: Carrier = field(default_factory=Carrier)

    def place(self, order_id: str = "o", *, quantity: int = 1) -> Order:
        line = services.Line(quantity=quantity, sku="lamp", price=1000)
        new = services.NewOrder(lines=(line,), order_id=order_id, payment_method="gateway")
        return services.place_order(new=new, now=timezone.now())[0]

    def behave(self, **behaviour: object) -> None:
        self.gateway.bank.behave({"delay": 0.05, **behaviour})

    def settle(self, order: Order, *, hours: float = 72) -> Order:
        """Run everything until the order has ended, in real time for the network and in virtual time for the rest."""
        ends = timezone.now() + timedelta(hours=hours)
        while timezone.now() < ends:
            self.round()
            self.wait_for_the_gateway()
            order.refresh_from_db()
            if order.status in ENDS and self.is_quiet():
                return order
            self.clock.shift(max(timedelta(seconds=1), self.next_due() - timezone.now()))
        raise AssertionError(f"{order.order_id} is {order.status}; {list(Payment.objects.values())}")

    def round(self) -> None:
        self.post.run()
        gateway_calls.post_due_calls(now=timezone.now())
        receipts.sweep()
        self.post.run()

    def wait_for_the_gateway(self) -> None:
        """Wait, in real time, for money that is about to move and webhooks that are about to be sent."""
        give_up_at = time.monotonic() + 60
        while any(map(self.is_busy_with, list(self.gateway.bank.payments.values()))):
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        self.round()

    @staticmethod
    def is_busy_with(payment: FakePayment) -> bool:
        """Return whether the gateway is about to move this money, or to send a webhook that we accept."""
        behaviour = payment.behaviour
        if behaviour["delay"] >= 2 or payment.notified:
            return False
        sends = not behaviour["drop"] and behaviour["lie_currency"] != UNKNOWN_CURRENCY
        return payment.status == "pending" or (sends and payment.status in ("succeeded", "failed"))

    def next_due(self) -> datetime:
        """Return when the next thing happens by itself."""
        due = [
            model_of(service, "Outgoing").objects.filter(published_at=None).aggregate(at=Min("due_at"))
            for service in SERVICES
        ]
        due.append(Payment.objects.aggregate(at=Min("ask_at")))
        return min(one["at"] for one in due if one["at"])

    def is_quiet(self) -> bool:
        """Return whether no payment waits for the gateway."""
        return not Payment.objects.filter(ask_at__isnull=False).exists()


@pytest.fixture
def world(live_server: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    settings.WEBHOOKS_URL = live_server.url
    settings.GATEWAY_TIMEOUT = (60, 2)
    breakers = {name: CircuitBreaker(name, failures=(GatewayUnavailable,), rest=0) for name in gateways.GATEWAYS}
    monkeypatch.setattr(gateways, "BREAKERS", breakers)
    gateway = FakeService(
        ("127.0.0.1", 0), webhook_url=webhook_url(), secrets=settings.PAYMENT_WEBHOOK_SECRETS, success_rate=1.0
    )
    settings.FAKE_GATEWAY_URL = f"http://127.0.0.1:{gateway.port}"
    serving = threading.Thread(target=gateway.serve_forever)
    serving.start()
    factories.product("lamp", stock=10)
    with time_machine.travel(timezone.now(), tick=True) as clock:
        yield Simulation(gateway, clock)
    gateway.close()
    serving.join()


def status_at_gateway(world: Simulation, order_id: str = "o") -> str:
    return world.gateway.bank.find(order_id=order_id).status


def kinds(order_id: str = "o") -> list[str]:
    return [str(kind) for kind in Entry.objects.filter(order_id=order_id).order_by("id").values_list("kind", flat=True)]


def conserved(world: Simulation) -> None:
    """Check that money and stock are where they belong, also at the gateway, and that there is no dead letter."""
    at_gateway = {
        payment.order_id: round(payment.amount * 100)
        for payment in world.gateway.bank.payments.values()
        if payment.status == "succeeded"
    }
    kept = {
        entry.order_id: entry.amount
        for entry in Entry.objects.filter(kind="charge")
        if not Entry.objects.filter(kind="refund", order_id=entry.order_id).exists()
    }
    assert at_gateway == kept
    report = audit(grace=timedelta(0), settle=timedelta(0))
    assert report.findings == []
    available, held, sold = factories.counters("lamp")
    done = Order.objects.filter(status="done")
    assert (available, held, sold) == (10 - done.count(), 0, done.count())
    assert not DeadLetter.objects.using("orders").exists()
    assert not DeadLetter.objects.using("payments").exists()


class TestAPaymentThroughTheGateway:
    @pytest.mark.parametrize("times", [1, 2])
    def test_is_reported_by_webhook(self, world: Simulation, times: int) -> None:
        world.post.times = times
        world.behave()
        order = world.settle(world.place(), hours=0.1)
        payment = Payment.objects.get()
        assert (order.status, order.payment_id) == ("done", payment.gateway_payment_id)
        assert payment.status == "succeeded"
        assert kinds() == ["charge"]
        assert WebhookReceipt.objects.get().status == "applied"
        conserved(world)

    def test_that_is_declined_cancels_the_order(self, world: Simulation) -> None:
        world.behave(outcome="failed")
        order = world.settle(world.place(), hours=0.1)
        assert (order.status, order.fail_reason) == ("canceled", "payment_declined")
        assert kinds() == []
        conserved(world)

    def test_goes_back_if_the_processor_refuses(self, world: Simulation, settings: Any) -> None:
        settings.PROCESSING_SUCCESS_RATE = 0
        world.behave()
        order = world.settle(world.place(), hours=0.1)
        assert (order.status, order.fail_reason) == ("failed", "processing_refused")
        assert (status_at_gateway(world), kinds()) == ("refunded", ["charge", "refund"])
        conserved(world)


MISBEHAVIOURS: dict[str, dict[str, Any]] = {
    "delays": {"delay": 1.0},
    "duplicates": {"duplicates": 5},
    "sends the webhook before it answers": {"early": True},
    "never sends a webhook": {"drop": True},
    "answers 500": {"errors": 2},
    "takes the payment and answers 500": {"lost_answers": 2},
    "hangs": {"hang": 3600},
    "lies about the amount": {"lie_amount": 1.0},
    "lies about the currency": {"lie_currency": "EUR"},
    "claims an unknown currency": {"lie_currency": UNKNOWN_CURRENCY},
    "everything": {"duplicates": 2, "early": True, "lost_answers": 1, "hang": 3600},
}


@pytest.mark.parametrize("behaviour", MISBEHAVIOURS)
@pytest.mark.parametrize("outcome", ["success", "failed"])
def test_a_gateway_that(world: Simulation, behaviour: str, outcome: str) -> None:
    """The order ends as its payment did, with money and stock conserved."""
    world.behave(outcome=outcome, **MISBEHAVIOURS[behaviour])
    order = world.settle(world.place())
    payment = Payment.objects.get()
    actual = status_at_gateway(world)
    if order.status == "done":
        assert (actual, payment.status, kinds()) == ("succeeded", "succeeded", ["charge"])
        assert outcome == "success"
    else:
        assert order.status == "canceled"
        assert actual in ("failed", "canceled", "refunded")
        assert kinds() in ([], ["charge", "refund"])
    assert order.status == ("done" if outcome == "success" else "canceled")
    receipts_kept = list(WebhookReceipt.objects.values_list("status", "reason"))
    if behaviour.startswith("lies"):
        assert receipts_kept == [("quarantined", f"{behaviour.split()[-1]}_mismatch")]
    if behaviour == "duplicates":
        assert receipts_kept == [("applied", "")]
    if behaviour in ("never sends a webhook", "claims an unknown currency"):
        assert receipts_kept == []
    conserved(world)


class TestACancel:
    @pytest.mark.parametrize("rounds", [0, 1, 2, 3, 5])
    @pytest.mark.parametrize("delay", [0.01, 30.0])
    def test_at_any_moment_leaves_no_money_in(self, world: Simulation, rounds: int, delay: float) -> None:
        world.behave(delay=delay)
        order = world.place()
        for _ in range(rounds):
            for service, envelope in world.post.collect():
                world.post.deliver(service, envelope)
            time.sleep(0.02)
        order.refresh_from_db()
        if order.status not in ENDS:
            services.cancel_order(order_id="o", now=timezone.now())
        order = world.settle(order)
        if order.status == "canceled":
            assert Payment.objects.get().status in ("voided", "refunded")
            assert kinds() in ([], ["charge", "refund"])
        conserved(world)

    def test_cancels_a_pending_payment_at_the_gateway(self, world: Simulation) -> None:
        world.behave(delay=3600)
        order = world.place()
        world.round()
        services.cancel_order(order_id="o", now=timezone.now())
        order = world.settle(order, hours=0.1)
        assert (order.status, status_at_gateway(world)) == ("canceled", "canceled")
        conserved(world)

    def test_before_the_gateway_was_called_calls_nothing(self, world: Simulation) -> None:
        late: list[Envelope] = []

        def is_held_up(envelope: Envelope) -> bool:
            late.extend([envelope] if envelope.type == "payments.turn_to_gateway" else [])
            return envelope in late

        world.post.passes_over = is_held_up
        order = world.place()
        world.post.run()
        world.post.passes_over = lambda envelope: False
        services.cancel_order(order_id="o", now=timezone.now())
        order = world.settle(order, hours=0.1)
        world.post.deliver("payments", late[0])
        assert (order.status, Payment.objects.get().tried_at) == ("canceled", None)
        assert not world.gateway.bank.payments
        conserved(world)


class TestMoneyThatComesInLate:
    def test_after_the_end_is_refunded_by_itself(self, world: Simulation) -> None:
        world.behave(drop=True, delay=3600)
        order = world.place()
        world.round()
        services.cancel_order(order_id="o", now=timezone.now())
        order = world.settle(order, hours=0.1)
        assert (order.status, kinds()) == ("canceled", [])
        paid = world.gateway.bank.find(order_id="o")
        paid.status, paid.outcome = "succeeded", "success"  # the money comes in after all
        paid.behaviour["drop"] = False
        world.gateway.notify(paid)
        order = world.settle(order, hours=1)
        assert (order.status, status_at_gateway(world), kinds()) == ("canceled", "refunded", ["charge", "refund"])
        conserved(world)

    def test_for_a_payment_whose_id_is_unknown_is_refunded_by_itself(self, world: Simulation) -> None:
        """The request took the money, and an error was the answer. So the gateway is asked whether it has a payment."""
        world.behave(lost_answers=2, delay=0.01, drop=True)
        order = world.place()
        world.round()
        services.cancel_order(order_id="o", now=timezone.now())
        world.round()
        order = world.settle(order, hours=1)
        assert (order.status, status_at_gateway(world), kinds()) == ("canceled", "refunded", ["charge", "refund"])
        assert len(world.gateway.bank.payments) == 1
        conserved(world)

    def test_is_never_taken_if_the_request_never_arrived(self, world: Simulation, settings: Any) -> None:
        order = world.place()
        settings.FAKE_GATEWAY_URL, up = "http://127.0.0.1:1", settings.FAKE_GATEWAY_URL
        world.behave(delay=3600)
        world.round()
        services.cancel_order(order_id="o", now=timezone.now())
        world.round()
        settings.FAKE_GATEWAY_URL = up
        assert Payment.objects.get().status == "voiding"
        order = world.settle(order)
        assert (order.status, status_at_gateway(world), kinds()) == ("canceled", "canceled", [])
        conserved(world)


class TestAGatewayThatTookAnotherAmount:
    def test_has_to_refund_it_and_the_ledger_never_records_it(self, world: Simulation) -> None:
        world.behave(drop=True)
        order = world.place()
        world.round()
        world.gateway.bank.find(order_id="o").amount = 1.0
        order = world.settle(order)
        assert (order.status, order.fail_reason) == ("canceled", "payment_timeout")
        assert (status_at_gateway(world), Payment.objects.get().status, kinds()) == ("refunded", "voided", [])
        conserved(world)


class TestAGatewayThatDoesNotReply:
    @pytest.mark.parametrize("minutes", [1, 10, 60, 60 * 24])
    def test_strands_no_order(self, world: Simulation, settings: Any, minutes: int) -> None:
        world.behave()
        settings.FAKE_GATEWAY_URL, up = "http://127.0.0.1:1", settings.FAKE_GATEWAY_URL
        order = world.place()
        back = timezone.now() + timedelta(minutes=minutes)
        while timezone.now() < back:
            world.round()
            world.clock.shift(timedelta(minutes=minutes) / 12)
        order.refresh_from_db()
        assert order.status not in ENDS
        settings.FAKE_GATEWAY_URL = up
        order = world.settle(order)
        assert order.status == ("done" if minutes < 15 else "canceled")
        conserved(world)


def test_many_orders_with_every_misbehaviour_end_conserved(world: Simulation) -> None:
    chance = random.Random(7)
    world.post.shuffle = chance
    orders = []
    for number in range(10):
        misbehaviour = MISBEHAVIOURS[chance.choice(sorted(MISBEHAVIOURS))]
        outcome = chance.choice(["success", "success", "failed"])
        world.behave(order_id=f"o{number}", outcome=outcome, reorder=chance.random() < 0.5, **misbehaviour)
        orders.append(world.place(f"o{number}"))
        world.round()
        if chance.random() < 0.3:
            with suppress(transitions.OutOfTurn):  # it may be done by now
                services.cancel_order(order_id=f"o{number}", now=timezone.now())
    ended = [world.settle(order).status for order in orders]
    assert set(ended) <= {"done", "canceled"}
    conserved(world)
