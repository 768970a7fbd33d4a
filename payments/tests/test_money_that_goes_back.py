"""Parts that go back, refunds by hand, disputes and whole returns at once, with faults, in any order."""

import operator
import random
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from outbox.ids import uuid7
from payments import decisions, ledger, services
from payments.gateways.base import DisputeStatus, RefundStatus
from payments.models import Dispute, Outgoing, Payment, Refund, WebhookReceipt
from payments.tests.model_gateway import ModelGateway
from payments.tests.test_refunds import ask, findings
from payments.tests.test_whole_life import (
    MONEY,
    ask_again,
    deliver,
    deliver_all,
    gateway,
    handle,
    installed,
    stored,
    work,
)

__all__ = ["gateway"]
pytestmark = pytest.mark.django_db
THINGS = (
    "work",
    "work",
    "ask",
    "deliver",
    "deliver",
    "part",
    "part",
    "part",
    "hand",
    "dispute",
    "later",
    "later",
    "all",
)
FAULTS = ("", "", "", "down", "lost", "broke", "broke_late")


@limits(max_examples=limits().max_examples // 3)  # each takes long
@given(st.integers(0, 2**32))
def test_the_ledger_says_what_the_gateway_has(seed: int) -> None:
    chance = random.Random(seed)  # which varies more than what Hypothesis draws in few examples
    with transaction.atomic("payments"):
        gateway = installed(operator.setitem)
        captured = begin(gateway, chance)
        seen: list[bytes] = []
        told: list[dict[str, Any]] = []
        for _ in range(chance.randint(4, 16)):
            gateway.fault = chance.choice(FAULTS)
            told += happen(gateway, chance, seen)
            assert_possible(captured)
        told += settle(gateway, chance, seen)
        assert_agrees(gateway, told, captured)
        transaction.set_rollback(True, "payments")


def begin(gateway: ModelGateway, chance: random.Random) -> int:
    """Have a payment captured, perhaps less than all of it, and return how much."""
    is_manual = chance.random() < 0.5
    captured = chance.randint(1, 1000) if is_manual else 1000
    services.charge_gateway(order_id="o", money=MONEY, now=timezone.now(), is_manual=is_manual)
    work()
    gateway.pays("pay_1")
    deliver_all(gateway)
    if is_manual:
        services.capture(order_id="o", amount=captured, now=timezone.now())
        work()
    gateway.webhooks.clear()
    return captured


def happen(gateway: ModelGateway, chance: random.Random, seen: list[bytes]) -> list[dict[str, Any]]:
    """Let one thing happen, and return what orders is told."""
    held = gateway.payments["pay_1"]
    match chance.choice(THINGS):
        case "work":
            waiting = list(Outgoing.objects.filter(published_at=None).order_by("id"))
            return handle(chance.choice(waiting)) if waiting else []
        case "ask":
            return ask_again()
        case "deliver" if gateway.webhooks:
            seen.append(body := gateway.webhooks.pop(chance.randrange(len(gateway.webhooks))))
            deliver(body)
        case "part":
            gateway.refunds_become = chance.choice(list(RefundStatus))
            known = Refund.objects.filter(is_foreign=False).first()
            if known is not None and chance.random() < 0.2:
                ask(known.amount, refund_id=known.pk)  # once more
            else:
                ask(chance.randint(1, 600), refund_id=uuid7())
        case "hand" if held.left > 0:
            gateway.refunds_become = chance.choice(list(RefundStatus))
            gateway.refunded("pay_1", amount=chance.randint(1, held.left))
        case "dispute" if held.left > 0:
            gateway.disputes_payment("pay_1", amount=chance.randint(1, held.left))
        case "later":
            later(gateway, chance)
        case "all" if chance.random() < 0.4:
            services.give_back(order_id="o", now=timezone.now())
    return []


def later(gateway: ModelGateway, chance: random.Random) -> None:
    """Let the gateway say how a refund or a dispute ends, or that a refund has failed after all."""
    held = gateway.payments["pay_1"]
    steps = list(RefundStatus)  # pending, succeeded, failed
    for number, refund in held.refunds.items():
        if following := steps[steps.index(refund.status) + 1 :]:
            gateway.refund_becomes("pay_1", number, chance.choice(following))
    for number, dispute in held.disputes.items():
        if dispute.status == DisputeStatus.OPENED and chance.random() < 0.5:
            gateway.dispute_becomes("pay_1", number, chance.choice([DisputeStatus.WON, DisputeStatus.LOST]))


def settle(gateway: ModelGateway, chance: random.Random, seen: list[bytes]) -> list[dict[str, Any]]:
    """Have all that is open decided at the gateway, and all webhooks delivered in another order, again."""
    gateway.fault, gateway.refunds_become = "", RefundStatus.SUCCEEDED
    told = work()
    for _ in range(6):
        for number, refund in gateway.payments["pay_1"].refunds.items():
            if refund.status == RefundStatus.PENDING:
                gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        for number, dispute in gateway.payments["pay_1"].disputes.items():
            if dispute.status == DisputeStatus.OPENED:
                gateway.dispute_becomes("pay_1", number, chance.choice([DisputeStatus.WON, DisputeStatus.LOST]))
        seen += gateway.webhooks
        gateway.webhooks.clear()
        deliver(*chance.sample(seen, len(seen)))
        if stored().status in Payment.REFUSED:
            services.try_return_again(order_id="o", now=timezone.now())
        told += work() + ask_again()
    if stored().status in Payment.REFUSED:  # by the last of them: a person has it tried once more
        services.try_return_again(order_id="o", now=timezone.now())
        told += work() + deliver_all(gateway) + ask_again()
    return told


def assert_possible(captured: int) -> None:
    money = ledger.of_order("o")
    assert money.captured == captured
    assert 0 <= money.refunded <= captured
    assert 0 <= money.disputed <= money.kept
    assert money.lost >= 0


def assert_agrees(gateway: ModelGateway, told: list[dict[str, Any]], captured: int) -> None:
    held, money, payment = gateway.payments["pay_1"], ledger.of_order("o"), stored()
    assert (money.refunded, money.lost, money.disputed) == (held.back, held.lost, 0)
    assert not Refund.objects.filter(status__in=Refund.OPEN).exists()
    assert Dispute.objects.count() == len(held.disputes)
    assert payment.status in ("succeeded", "refunded")
    assert (payment.status == "refunded") <= (money.kept == 0)
    assert not WebhookReceipt.objects.filter(status__in=decisions.OPEN).exists()
    assert not findings()
    for refund in Refund.objects.all():
        last = [one["type"] for one in told if one.get("refund_id") == str(refund.pk)][-1:]
        assert last == [f"refund.{refund.status}"] or (refund.is_foreign and last == [])
