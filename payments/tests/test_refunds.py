"""Refunds of parts: their table, who may have how much back, and what the gateway says of them in any order."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db import IntegrityError, connections, transaction
from django.utils import timezone

from common.audit import Scope
from common.state_diagram import with_diagram
from outbox.ids import uuid7
from payments import audit, diagram, ledger, messages, refund_lifecycle, refunds, services
from payments.gateways.base import DisputeAnswer, DisputeStatus, GatewayRefused, RefundStatus
from payments.models import Account, Entry, Outgoing, Payment, Refund, WebhookReceipt
from payments.refund_lifecycle import ASK_AT, NEW, OTHERWISE, STEPS, Event
from payments.tests.model_gateway import ModelGateway
from payments.tests.test_whole_life import (
    MONEY,
    ask_again,
    begin,
    deliver,
    deliver_all,
    fail_at,
    gateway,
    moved,
    paid,
    stored,
    types,
    work,
)

__all__ = ["gateway"]
NOW = timezone.now()
USD = "USD"
EVERYTHING = Scope(now=NOW, window=timedelta(days=1), grace=timedelta(0))
Status = Refund.Status
FIRST = UUID(int=1)


def ask(amount: int, *, refund_id: UUID = FIRST, order_id: str = "o", currency: str = USD) -> Refund:
    found = refunds.request(
        order_id=order_id,
        refund_id=str(refund_id),
        money=services.Money(amount, currency),
        reason="late",
        now=timezone.now(),
    )
    assert found is not None
    return found


def raises(error: Exception) -> Any:
    raise error


def ends(told: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [(one["type"], one["amount"], one.get("code", one.get("reason", ""))) for one in told]


# The table ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", Event)
def test_every_pair_is_decided_exactly_once(event: Event) -> None:
    for status in Status:
        assert ((status, event) in STEPS) + (status in OTHERWISE[event]) == 1, status


def test_the_gateway_is_asked_about_what_is_open_and_every_refund_can_end() -> None:
    assert set(ASK_AT) == set(Refund.OPEN) == set(refund_lifecycle.SHORTEST)
    for status in Refund.OPEN:
        assert {Status.SUCCEEDED, Status.FAILED} <= {step.becomes for (was, _), step in STEPS.items() if was == status}


def test_what_is_booked_is_what_the_status_says() -> None:
    """Money leaves where a refund begins to be `succeeded`, and comes back where it stops to be."""
    for (was, event), step in STEPS.items():
        leaves = step.becomes == Status.SUCCEEDED != was
        returns = was == Status.SUCCEEDED != step.becomes
        assert leaves == (refund_lifecycle.book in step.does), (was, event)
        assert returns == (refund_lifecycle.take_back in step.does), (was, event)
        if was is not NEW and step.becomes in (Status.SUCCEEDED, Status.FAILED):
            assert {refund_lifecycle.announce, refund_lifecycle.tell_payment} <= set(step.does), (was, event)


def test_its_diagram_is_in_the_docs() -> None:
    text = Path(settings.BASE_DIR, "docs", "architecture.md").read_text()
    drawn = with_diagram(text, diagram.refund_mermaid(), command="refund_lifecycle")
    assert drawn == text, "run manage.py refund_lifecycle"
    printed = list(diagram.refund_table())
    assert len(printed) == len(Status) * len(Event) + sum(was is NEW for was, _ in STEPS)


# Asking -------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
class TestAsking:
    def test_for_parts_gives_back_what_was_asked_for_and_no_more(self, gateway: ModelGateway) -> None:
        paid(gateway)
        for amount in (300, 300, 300, 300, 100, 1):
            ask(amount, refund_id=uuid7())
        assert ends(work() + deliver_all(gateway)) == [
            ("refund.failed", 300, "refund_exceeds_captured"),
            ("refund.failed", 1, "refund_exceeds_captured"),
            *[("refund.succeeded", 300, "")] * 3,
            ("refund.succeeded", 100, ""),
        ]
        assert (gateway.payments["pay_1"].back, ledger.of_order("o").kept) == (1000, 0)
        assert not findings()

    def test_twice_is_one_refund_whose_end_is_told_again(self, gateway: ModelGateway) -> None:
        paid(gateway)
        ask(300)
        ask(300)
        assert ends(work()) == [("refund.succeeded", 300, "")]
        ask(300)
        assert ends(work()) == [("refund.succeeded", 300, "")]
        assert moved() == [("charge", 1000), ("refund", 300)]

    def test_in_another_currency_is_refused(self, gateway: ModelGateway) -> None:
        paid(gateway)
        assert ask(300, currency="EUR").fail_reason == "currency_mismatch"

    def test_for_what_was_not_captured_is_refused(self, gateway: ModelGateway) -> None:
        begin()
        ask(300)
        refunds.request(order_id="none", refund_id=str(uuid7()), money=MONEY, reason="", now=NOW)
        assert ends(work()) == [("refund.failed", 300, "not_captured"), ("refund.failed", 1000, "not_captured")]

    def test_for_what_is_being_returned_is_refused(self, gateway: ModelGateway) -> None:
        paid(gateway)
        services.give_back(order_id="o", now=timezone.now())
        assert ask(300).fail_reason == "not_captured"

    def test_of_an_account_has_it_at_once(self) -> None:
        services.open_account(user_id="u")
        services.deposit(user_id="u", amount=1000, now=NOW)
        services.charge_account(order_id="o", user_id="u", money=MONEY, now=NOW)
        ask(400)
        assert ends(work()[1:]) == [("refund.succeeded", 400, "")]
        assert Account.objects.get(user_id="u").balance == 400
        assert not findings()


def findings() -> list[Any]:
    return [found for rule in audit.RULES for found in rule.check(EVERYTHING)]


def hours_pass() -> None:
    """Handle what was kept as it was early."""
    WebhookReceipt.objects.update(received_at=timezone.now() - WebhookReceipt.EARLY)
    assert ask_again() == []


# What the gateway says ----------------------------------------------------------------------------------------------


def pending(gateway: ModelGateway, amount: int = 300) -> str:
    """Have a part on its way, and return its id at the gateway."""
    paid(gateway)
    gateway.refunds_become = RefundStatus.PENDING
    ask(amount)
    assert work() == []
    return Refund.objects.get().gateway_refund_id


@pytest.mark.django_db
class TestAPart:
    @pytest.mark.parametrize("way", ["webhook", "asked"])
    @pytest.mark.parametrize("end", [RefundStatus.SUCCEEDED, RefundStatus.FAILED])
    def test_that_is_pending_ends_as_the_gateway_says(self, gateway: ModelGateway, way: str, end: RefundStatus) -> None:
        number = pending(gateway)
        assert deliver_all(gateway) == ask_again() == []
        assert (moved(), ledger.left(stored())) == ([("charge", 1000)], 700)
        gateway.refund_becomes("pay_1", number, end)
        told = ends(deliver_all(gateway) if way == "webhook" else ask_again())
        assert told == [
            ("refund.succeeded", 300, "") if end == RefundStatus.SUCCEEDED else ("refund.failed", 300, "refund_failed")
        ]
        assert deliver_all(gateway) == ask_again() == []
        assert ledger.left(stored()) == (700 if end == RefundStatus.SUCCEEDED else 1000)

    def test_that_fails_late_is_taken_back_in_the_ledger(self, gateway: ModelGateway) -> None:
        number = pending(gateway)
        gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        gateway.refund_becomes("pay_1", number, RefundStatus.FAILED, "expired_card")
        assert ends(deliver_all(gateway)) == [("refund.succeeded", 300, ""), ("refund.failed", 300, "expired_card")]
        assert moved() == [("charge", 1000), ("refund", 300), ("refund_failed", 300)]
        assert not findings()

    def test_ends_the_same_whatever_order_its_webhooks_come_in(self, gateway: ModelGateway) -> None:
        number = pending(gateway)
        gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        gateway.refund_becomes("pay_1", number, RefundStatus.FAILED)
        for order in itertools.permutations(gateway.webhooks):
            with transaction.atomic("payments"):
                deliver(*order, *order[::-1])
                told = work()
                assert (Refund.objects.get().status, types(told)[-1]) == ("failed", "refund.failed")
                assert len(told) == len(set(types(told)))
                assert ledger.of_order("o").refunded == 0
                transaction.set_rollback(True, "payments")

    def test_is_known_by_a_webhook_that_overtakes_the_reply(self, gateway: ModelGateway) -> None:
        paid(gateway)
        gateway.refunds_become = RefundStatus.PENDING
        part = ask(300)
        call = messages.CallForRefund(order_id="o", refund_id=str(part.pk))
        reply = refunds.call_gateway(call)
        gateway.refund_becomes("pay_1", "re_3", RefundStatus.SUCCEEDED)
        Outgoing.objects.update(published_at=NOW)
        assert ends(deliver_all(gateway)) == [("refund.succeeded", 300, "")]
        refunds.record(order_id="o", refund_id=str(part.pk), reply=reply, now=timezone.now())
        assert (work(), Refund.objects.get().status) == ([], "succeeded")

    @pytest.mark.parametrize("fault", ["down", "lost", "broke", "broke_late"])
    def test_goes_back_once_whatever_happens_to_the_call(self, gateway: ModelGateway, fault: str) -> None:
        paid(gateway)
        ask(300)
        fail_at(gateway, "refund", fault)
        told = work() + ask_again() + ask_again() + deliver_all(gateway)
        assert (ends(told), gateway.payments["pay_1"].back) == ([("refund.succeeded", 300, "")], 300)

    def test_is_not_given_up_because_refunds_cannot_be_listed(
        self, gateway: ModelGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have been made before."""
        paid(gateway)
        ask(300)
        fail_at(gateway, "refund", "lost")
        assert work() == []
        with monkeypatch.context() as refusing:
            refusing.setattr(gateway, "refunds", lambda **which: raises(GatewayRefused("invalid_api_key")))
            assert ask_again() == []
        assert ends(ask_again()) == [("refund.succeeded", 300, "")]
        assert (gateway.payments["pay_1"].back, Refund.objects.get().fail_reason) == (300, "")

    def test_that_is_pending_and_not_listed_is_not_made_again(self, gateway: ModelGateway) -> None:
        """The gateway may have forgotten its key by now."""
        pending(gateway)
        gateway.payments["pay_1"].refunds.clear()
        made = [key for key in gateway.calls if key]
        assert ask_again() == []
        assert [key for key in gateway.calls if key] == made

    @pytest.mark.parametrize("end", [RefundStatus.SUCCEEDED, RefundStatus.FAILED])
    def test_whose_end_was_known_is_no_news(self, gateway: ModelGateway, end: RefundStatus) -> None:
        """A success that comes after a failure was overtaken."""
        number = pending(gateway, 1000)
        gateway.refund_becomes("pay_1", number, end)
        deliver_all(gateway)
        gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        assert deliver_all(gateway) == []
        assert set(WebhookReceipt.objects.values_list("status", flat=True)) == {"applied"}

    def test_whose_call_was_posted_is_not_called_again_at_once(self, gateway: ModelGateway) -> None:
        paid(gateway)
        due = ask(300).ask_at
        assert due is not None
        assert [refunds.post_due_calls(now=due) for _ in range(2)] == [1, 0]

    def test_that_was_refused_and_yet_made_is_quarantined(self, gateway: ModelGateway) -> None:
        paid(gateway)
        gateway.payments["pay_1"].disputes["dp"] = DisputeAnswer(
            dispute_id="dp", payment_id="pay_1", status=DisputeStatus.OPENED, amount=900, currency=USD
        )
        ask(300)
        assert ends(work()) == [("refund.failed", 300, "charge_already_refunded")]
        gateway.refunded("pay_1", amount=300, refund_id=str(FIRST))
        assert deliver_all(gateway) == []
        assert WebhookReceipt.objects.get(about="refund").reason == "contradicts_the_payment"

    def test_that_is_refused_fails_with_the_code_and_can_be_asked_for_again(self, gateway: ModelGateway) -> None:
        paid(gateway)
        ask(700)
        gateway.refunded("pay_1", amount=400)  # by hand, meanwhile
        assert ends(work()) == [("refund.failed", 700, "charge_already_refunded")]
        assert ends(deliver_all(gateway)) == [("refund.succeeded", 400, "made_at_gateway")]
        ask(600, refund_id=uuid7())
        assert ends(work()) == [("refund.succeeded", 600, "")]
        assert not findings()

    @pytest.mark.parametrize("first", ["return", "failure"])
    def test_that_fails_while_all_is_to_go_back_goes_back_with_the_rest(
        self, gateway: ModelGateway, first: str
    ) -> None:
        number = pending(gateway)
        gateway.refunds_become = RefundStatus.SUCCEEDED
        services.give_back(order_id="o", now=timezone.now())
        if first == "return":
            work()
        gateway.refund_becomes("pay_1", number, RefundStatus.FAILED)
        told = types(work() + deliver_all(gateway) + work() + ask_again())
        assert set(told) == {"refund.failed", "payment.refunded"}
        assert (stored().status, ledger.of_order("o").kept, gateway.payments["pay_1"].back) == ("refunded", 0, 1000)


@pytest.mark.django_db
class TestMadeByHand:
    @pytest.mark.parametrize("amount", [300, 1000])
    def test_is_booked_and_told_once(self, gateway: ModelGateway, amount: int) -> None:
        paid(gateway)
        gateway.refunded("pay_1", amount=amount)
        deliver(*gateway.webhooks, *(body.replace(b"evt_", b"again_") for body in gateway.webhooks))
        assert ends(work()) == [("refund.succeeded", amount, "made_at_gateway")]
        refund = Refund.objects.get()
        assert (refund.is_foreign, refund.gateway_refund_id, moved()[1:]) == (True, "re_3", [("refund", amount)])
        assert not findings()

    def test_before_its_capture_is_known_waits_for_it(self, gateway: ModelGateway) -> None:
        begin()
        gateway.pays("pay_1")
        gateway.refunded("pay_1", amount=300)
        deliver(*gateway.webhooks[::-1])
        told = work() + ask_again()
        assert types(told) == ["payment.succeeded", "refund.succeeded"]
        assert set(WebhookReceipt.objects.values_list("status", flat=True)) == {"applied"}

    def test_of_more_than_is_left_is_quarantined(self, gateway: ModelGateway) -> None:
        paid(gateway)
        gateway.refunded("pay_1", amount=1001)
        assert deliver_all(gateway) == ask_again() == []
        assert WebhookReceipt.objects.get(about="refund").status == "unmatched"  # one before it may still come
        hours_pass()
        receipt = WebhookReceipt.objects.get(about="refund")
        assert (receipt.status, receipt.reason) == ("quarantined", "refund_exceeds_captured")
        assert not Refund.objects.exists()

    @pytest.mark.parametrize("change", [{"amount": 299}, {"currency": "EUR"}])
    def test_differently_than_asked_for_is_quarantined(self, gateway: ModelGateway, change: dict[str, Any]) -> None:
        number = pending(gateway)
        held = gateway.payments["pay_1"]
        held.refunds[number] = type(held.refunds[number])(**{**vars(held.refunds[number]), **change})
        gateway.webhooks.clear()
        gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        assert deliver_all(gateway) == ask_again() == []
        reason = WebhookReceipt.objects.get(about="refund").reason
        assert (reason, moved()) == (f"{next(iter(change))}_mismatch", [("charge", 1000)])

    def test_during_an_upgrade_waits_for_its_end(self, gateway: ModelGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        paid(gateway)
        gateway.refunded("pay_1", amount=300)
        monkeypatch.setattr(settings, "UPGRADING", True)
        assert deliver_all(gateway) == ask_again() == []
        monkeypatch.setattr(settings, "UPGRADING", False)
        assert types(ask_again()) == ["refund.succeeded"]


# Whatever runs at once ----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_hundred_at_once_give_back_no_more_than_was_captured() -> None:
    services.open_account(user_id="u")
    services.deposit(user_id="u", amount=1000, now=NOW)
    services.charge_account(order_id="o", user_id="u", money=MONEY, now=NOW)
    barrier = threading.Barrier(20)  # so many connections, each with five refunds

    def some(number: int) -> list[str]:
        barrier.wait()
        try:
            return [str(ask(37, refund_id=UUID(int=5 * number + i + 1)).status) for i in range(5)]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(20) as pool:
        ended = [status for statuses in pool.map(some, range(20)) for status in statuses]
    assert (ended.count("succeeded"), ended.count("failed")) == (27, 73)
    assert (ledger.of_order("o").refunded, Account.objects.get(user_id="u").balance) == (999, 999)
    assert Entry.objects.filter(kind="refund").count() == 27


@pytest.mark.django_db(transaction=True)
def test_the_database_refuses_what_code_without_the_lock_would_book() -> None:
    services.open_account(user_id="u")
    services.deposit(user_id="u", amount=1000, now=NOW)
    services.charge_account(order_id="o", user_id="u", money=MONEY, now=NOW)
    barrier = threading.Barrier(2)

    def book(amount: int) -> str:
        try:
            with transaction.atomic("payments"):
                payment = Payment.objects.get()
                assert ledger.left(payment) == 1000
                barrier.wait()
                ledger.hand_back(payment, amount=amount, refund_id=uuid7(), now=NOW)
        except IntegrityError as error:
            return str(error).splitlines()[0]
        finally:
            connections.close_all()
        return ""

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(book, (600, 500))) == ["", "more would go back for order o than was captured"]
    assert ledger.of_order("o").refunded in (500, 600)
