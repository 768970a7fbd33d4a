"""Payments at a server that speaks Stripe, with its webhooks in order, in the reverse order, and twice."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from common.circuit_breaker import CircuitBreaker
from payments import ledger, receipts, services
from payments.gateways import BREAKERS
from payments.gateways.base import (
    CaptureRequest,
    GatewayBroke,
    GatewayRefused,
    GatewayUnavailable,
    PaymentRequest,
    RefundRequest,
    RefundStatus,
    Status,
    Transaction,
)
from payments.gateways.stripe import StripeGateway
from payments.models import Dispute, WebhookReceipt
from payments.tests import stripe_server
from payments.tests.driver import ask_again, moved, stored, types, view, work
from payments.tests.stripe_server import StripeServer

ORDERS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "in order": list,
    "reversed": lambda events: events[::-1],
    "shuffled and twice": lambda events: random.Random(7).sample(events * 2, len(events) * 2),
}


@pytest.fixture
def stripe(settings: Any) -> Iterator[StripeServer]:
    settings.PAYMENT_GATEWAY, settings.STRIPE_WEBHOOK_SECRETS = "stripe", [stripe_server.SECRET]
    settings.STRIPE_API_KEY, settings.GATEWAY_TIMEOUT = stripe_server.KEY, (60, 60)
    with stripe_server.running() as server:
        settings.STRIPE_API_URL = server.url
        BREAKERS["stripe"] = CircuitBreaker("stripe", failures=(GatewayUnavailable,))
        yield server


@pytest.fixture
def gateway(stripe: StripeServer) -> StripeGateway:
    return StripeGateway(CircuitBreaker("stripe", failures=(GatewayUnavailable,)))


def begin(**how: Any) -> str:
    """Charge the order, and return the id of its PaymentIntent."""
    services.charge_gateway(order_id="o", money=services.Money(1000, "USD"), now=timezone.now(), **how)
    work()
    return stored().gateway_payment_id


def deliver(stripe: StripeServer, how: str = "in order") -> list[str]:
    """Deliver the events that there are so far, each time as another delivery, and return what orders is told."""
    for number, event in enumerate(ORDERS[how](list(stripe.events))):
        headers, body = stripe.delivery(event, pending_webhooks=number)
        receipts.receive(gateway="stripe", headers=headers, body=body, now=timezone.now())
    return types(work())


def settle(stripe: StripeServer, how: str) -> list[str]:
    """Deliver the events, ask about the rest, and return what orders is told; nothing is left over."""
    told = deliver(stripe, how) + types(ask_again())
    assert not WebhookReceipt.objects.filter(status__in=("quarantined", "unmatched", "received")).exists()
    return told


@pytest.mark.django_db
@pytest.mark.parametrize("how", ORDERS)
class TestAPayment:
    def test_is_declined_authenticated_and_paid(self, stripe: StripeServer, how: str) -> None:
        name = begin()
        assert view().client_secret == f"{name}_secret_local"
        stripe.declines(name)
        stripe.has_to_act(name)
        assert deliver(stripe) == []
        assert view().next_action == {"type": "redirect_to_url", "url": "https://hooks.stripe.com/3d_secure"}
        stripe.pays(name)
        assert settle(stripe, how) == ["payment.succeeded"]
        assert (view().client_secret, view().next_action, moved()) == ("", None, [("charge", 1000)])
        assert [attempt.code for attempt in view().attempts] == ["insufficient_funds"]

    def test_by_a_method_that_takes_days(self, stripe: StripeServer, how: str) -> None:
        name = begin()
        stripe.pays_late(name)
        assert (deliver(stripe, how), stored().status) == ([], "pending")
        stripe.pays(name)
        assert settle(stripe, how) == ["payment.succeeded"]

    def test_that_arrives_after_its_order_was_given_up_goes_back(self, stripe: StripeServer, how: str) -> None:
        name = begin()
        stripe.pays_late(name)
        deliver(stripe, how)
        services.give_back(order_id="o", now=timezone.now())
        assert (types(work()), stored().status) == ([], "voiding")
        stripe.pays(name)
        assert settle(stripe, how)[-1] in ("payment.voided", "payment.refunded")
        assert stripe.objects[stripe.objects[name]["latest_charge"]]["refunded"] is True
        assert ledger.of_order("o").kept == 0

    @pytest.mark.parametrize("amount", [1000, 250])
    def test_is_reserved_and_captured(self, stripe: StripeServer, how: str, amount: int) -> None:
        name = begin(is_manual=True)
        stripe.pays(name)
        assert deliver(stripe, how) == ["payment.authorized"]
        assert stored().authorized_until is not None
        services.capture(order_id="o", amount=amount, now=timezone.now())
        assert types(work()) + settle(stripe, how) == ["payment.succeeded"]
        assert (moved(), view().authorized_amount) == ([("charge", amount)], 1000)

    def test_is_captured_in_the_dashboard(self, stripe: StripeServer, how: str) -> None:
        name = begin(is_manual=True)
        stripe.pays(name)
        deliver(stripe)
        stripe.captures(name, 350)
        assert settle(stripe, how) == ["payment.succeeded"]
        assert moved() == [("charge", 350)]

    def test_is_reserved_and_expires(self, stripe: StripeServer, how: str) -> None:
        name = begin(is_manual=True)
        stripe.pays(name)
        deliver(stripe)
        stripe.expires(name)
        assert settle(stripe, how) == ["payment.failed"]
        assert moved() == []

    def test_is_returned(self, stripe: StripeServer, how: str) -> None:
        name = begin()
        stripe.pays(name)
        deliver(stripe)
        stripe.refunds_become = "pending"
        services.give_back(order_id="o", now=timezone.now())
        assert (types(work()), ledger.of_order("o").kept) == ([], 1000)
        [refund] = [one for one in stripe.objects if one.startswith("re_")]
        stripe.refund_becomes(refund, "succeeded")
        assert settle(stripe, how) == ["payment.refunded"]
        stripe.refund_becomes(refund, "failed", "lost_or_stolen_card")
        assert settle(stripe, how) == ["payment.return_undone"]
        assert ledger.of_order("o").kept == 1000

    def test_is_refunded_in_the_dashboard(self, stripe: StripeServer, how: str) -> None:
        name = begin()
        stripe.pays(name)
        deliver(stripe)
        stripe.refunds(name, 300)
        stripe.refunds(name, 200)
        settle(stripe, how)
        assert ledger.of_order("o").kept == 500

    @pytest.mark.parametrize("end", ["won", "lost"])
    def test_is_disputed(self, stripe: StripeServer, how: str, end: str) -> None:
        name = begin()
        stripe.pays(name)
        deliver(stripe)
        stripe.disputes(name, 400, "warning_needs_response")
        deliver(stripe, how)
        assert not Dispute.objects.exists()
        dispute = stripe.disputes(name, 400)
        deliver(stripe, how)
        assert ledger.of_order("o").disputed == 400
        stripe.decides(dispute, end)
        settle(stripe, how)
        money = ledger.of_order("o")
        assert (Dispute.objects.get().status, money.disputed, money.kept) == (end, 0, {"won": 1000, "lost": 600}[end])


@pytest.mark.django_db
class TestFaults:
    @pytest.mark.parametrize("broken", ["500", "500 late", "silent"])
    def test_of_the_first_call_make_one_payment(self, stripe: StripeServer, broken: str) -> None:
        stripe.broken = broken
        begin()
        ask_again()
        names = [one for one in stripe.objects if one.startswith("pi_")]
        assert names == [stored().gateway_payment_id]
        stripe.pays(names[0])
        assert settle(stripe, "in order") == ["payment.succeeded"]

    @pytest.mark.parametrize("broken", ["500", "500 late", "silent"])
    def test_of_a_capture_take_the_money_once(self, stripe: StripeServer, broken: str) -> None:
        name = begin(is_manual=True)
        stripe.pays(name)
        deliver(stripe)
        services.capture(order_id="o", amount=600, now=timezone.now())
        stripe.broken = broken
        told = types(work())
        assert told + settle(stripe, "reversed") == ["payment.succeeded"]
        assert moved() == [("charge", 600)]


ORDER = PaymentRequest(order_id="o", amount=1000, currency="USD", idempotency_key="k")


class TestTheAdapter:
    def test_lists_what_stripe_has_booked(self, stripe: StripeServer, gateway: StripeGateway) -> None:
        began = timezone.now() - timedelta(seconds=1)
        name = gateway.create(PaymentRequest(**{**vars(ORDER), "capture": "manual"})).payment_id
        stripe.pays(name)
        capture = CaptureRequest(payment_id=name, order_id="o", amount=700, currency="USD", idempotency_key="c")
        assert gateway.capture(capture).taken == 700
        refund = stripe.refunds(name, 100)
        stripe.refund_becomes(refund, "failed")
        dispute = stripe.disputes(name, 400)
        stripe.decides(dispute, "won")
        booked = list(gateway.transactions(since=began, until=timezone.now() + timedelta(seconds=1)))
        kinds = Transaction.Kind
        assert [(one.kind, one.amount, one.fee, one.source_id) for one in reversed(booked) if one.kind != "other"] == [
            (kinds.CHARGE, 700, 59, name),
            (kinds.REFUND, 100, 0, refund),
            (kinds.REFUND_FAILED, 100, 0, refund),
            (kinds.DISPUTE, 400, 1500, dispute),
            (kinds.DISPUTE_WON, 400, 0, dispute),
        ]
        assert {one.payment_id for one in booked} == {name}
        assert list(gateway.transactions(since=began - timedelta(days=1), until=began - timedelta(hours=1))) == []

    def test_reads_every_page(self, stripe: StripeServer, gateway: StripeGateway) -> None:
        began = timezone.now() - timedelta(seconds=1)
        name = gateway.create(ORDER).payment_id
        stripe.pays(name)
        made = {stripe.refunds(name, 1) for _ in range(230)}
        assert {one.gateway_refund_id for one in gateway.refunds(payment_id=name)} == made
        assert len(list(gateway.transactions(since=began, until=timezone.now() + timedelta(seconds=1)))) == 231
        for number in range(150):
            stripe.create_intent({"amount": "1", "currency": "usd", "metadata[order_id]": f"o-{number}"})
        found = gateway.status(order_id="o", since=began)
        assert found is not None
        assert found.payment_id == name

    def test_finds_a_payment_before_the_search_does(self, stripe: StripeServer, gateway: StripeGateway) -> None:
        began = timezone.now() - timedelta(seconds=1)
        name = gateway.create(ORDER).payment_id
        assert gateway.status(order_id="o") is None
        assert (found := gateway.status(order_id="o", since=began)) is not None
        assert found.payment_id == name
        assert gateway.status(order_id="O", since=began) is None
        stripe.index()
        assert gateway.status(order_id="o") is not None
        assert gateway.status(order_id="O") is None

    def test_tells_a_saved_error_from_silence(self, stripe: StripeServer, gateway: StripeGateway) -> None:
        stripe.broken = "500 late"
        for _ in range(2):
            with pytest.raises(GatewayBroke):
                gateway.create(ORDER)
        assert gateway.status(order_id="o", since=timezone.now() - timedelta(seconds=1)) is not None
        stripe.broken = "silent"
        other = PaymentRequest(**{**vars(ORDER), "idempotency_key": "another"})
        with pytest.raises(GatewayUnavailable) as silence:
            gateway.create(other)
        assert not isinstance(silence.value, GatewayBroke)
        assert gateway.create(other) == gateway.create(other)
        with pytest.raises(GatewayUnavailable):  # the key of another request says nothing about this one
            gateway.create(PaymentRequest(**{**vars(other), "amount": 2}))

    @pytest.mark.parametrize("state", ["paid", "captured", "canceled", "expired", "too much"])
    def test_says_why_nothing_can_be_captured(self, stripe: StripeServer, gateway: StripeGateway, state: str) -> None:
        name = gateway.create(PaymentRequest(**{**vars(ORDER), "capture": "manual"})).payment_id
        stripe.pays(name)
        match state:
            case "captured" | "paid":
                stripe.captures(name, 1000)
            case "canceled":
                assert gateway.cancel(payment_id=name, idempotency_key="v").status == Status.CANCELED
            case "expired":
                stripe.expires(name)
        amount = 1001 if state == "too much" else 1000
        with pytest.raises(GatewayRefused) as refused:
            gateway.capture(
                CaptureRequest(payment_id=name, order_id="o", amount=amount, currency="USD", idempotency_key="c")
            )
        codes = {"expired": "authorization_expired", "too much": "capture_exceeds_authorized"}
        assert refused.value.code == codes.get(state, "payment_intent_unexpected_state")

    @pytest.mark.parametrize("status", ["pending", "requires_action", "succeeded", "failed", "canceled"])
    def test_refunds(self, stripe: StripeServer, gateway: StripeGateway, status: str) -> None:
        name = gateway.create(ORDER).payment_id
        stripe.pays(name)
        stripe.refunds_become = status
        asked = RefundRequest(
            payment_id=name, order_id="o", amount=300, currency="USD", idempotency_key="r", refund_id="r-1"
        )
        answer = gateway.refund(asked)
        expected = {"requires_action": "pending", "canceled": "failed"}.get(status, status)
        assert (answer.status, answer.refund_id, answer.order_id) == (RefundStatus(expected), "r-1", "o")
        assert gateway.refunds(payment_id=name) == [answer]
        with pytest.raises(GatewayRefused, match="amount_too_large"):
            gateway.refund(RefundRequest(**{**vars(asked), "amount": 1001, "idempotency_key": "more"}))
        stripe.expires(gateway.create(PaymentRequest(**{**vars(ORDER), "idempotency_key": "x"})).payment_id)
        assert gateway.refunds(payment_id=list(stripe.objects)[-2]) == []
