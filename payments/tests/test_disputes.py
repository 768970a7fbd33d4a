"""Disputes: each is booked once, whatever order its webhooks come in, and its money cannot go back meanwhile."""

import itertools
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from payments import ledger, services
from payments.gateways.base import DisputeStatus, RefundStatus
from payments.models import Dispute, Entry, Refund, WebhookReceipt
from payments.tests.model_gateway import ModelGateway
from payments.tests.test_refunds import ask, findings, hours_pass
from payments.tests.test_whole_life import ask_again, begin, deliver, deliver_all, gateway, paid, stored, types, work

__all__ = ["gateway"]
pytestmark = pytest.mark.django_db
WON, LOST = DisputeStatus.WON, DisputeStatus.LOST


def disputed(gateway: ModelGateway, amount: int = 400) -> str:
    paid(gateway)
    number = gateway.disputes_payment("pay_1", amount=amount)
    assert [(one["type"], one["status"], one["reason"]) for one in deliver_all(gateway)] == [
        ("payment.disputed", "opened", "fraudulent")
    ]
    return number


def sides() -> list[tuple[str, str, str, int]]:
    entries = Entry.objects.exclude(kind="charge").order_by("id")
    return list(entries.values_list("kind", "source__user_id", "target__user_id", "amount"))


def reasons() -> set[Any]:
    return set(WebhookReceipt.objects.filter(about="dispute").values_list("status", "reason"))


class TestADispute:
    def test_moves_its_money_aside_which_cannot_go_back(self, gateway: ModelGateway) -> None:
        disputed(gateway)
        assert sides() == [("dispute", "revenue", "disputes", 400)]
        assert ask(601).fail_reason == "refund_exceeds_captured"
        assert ledger.left(stored()) == 600
        assert not findings()

    @pytest.mark.parametrize(
        ("end", "entry", "kept"),
        [
            (WON, ("dispute_won", "disputes", "revenue", 400), 1000),
            (LOST, ("dispute_lost", "disputes", "cash", 400), 600),
        ],
    )
    def test_ends(self, gateway: ModelGateway, end: DisputeStatus, entry: Any, kept: int) -> None:
        number = disputed(gateway)
        gateway.dispute_becomes("pay_1", number, end)
        assert [one["status"] for one in deliver_all(gateway)] == [end]
        assert sides()[1:] == [entry]
        assert ledger.left(stored()) == kept
        assert not findings()

    @pytest.mark.parametrize("end", [WON, LOST])
    def test_is_booked_once_whatever_order_its_webhooks_come_in(
        self, gateway: ModelGateway, end: DisputeStatus
    ) -> None:
        paid(gateway)
        gateway.dispute_becomes("pay_1", gateway.disputes_payment("pay_1", amount=400), end)
        for order in itertools.permutations(gateway.webhooks):
            with transaction.atomic("payments"):
                deliver(*order, *(body.replace(b"evt_", b"again_") for body in order))
                told = [one["status"] for one in work()]
                assert told[-1] == end
                assert len(set(told)) == len(told)
                assert [kind for kind, *_ in sides()] == ["dispute", f"dispute_{end}"]
                assert reasons() == {("applied", "")}
                transaction.set_rollback(True, "payments")

    def test_that_was_won_is_not_lost(self, gateway: ModelGateway) -> None:
        number = disputed(gateway)
        gateway.dispute_becomes("pay_1", number, WON)
        gateway.dispute_becomes("pay_1", number, LOST)
        deliver_all(gateway)
        assert reasons() == {("applied", ""), ("quarantined", "contradicts_the_payment")}
        assert Dispute.objects.get().status == "won"

    def test_of_more_than_is_kept_is_quarantined(self, gateway: ModelGateway) -> None:
        paid(gateway)
        ask(300)
        work()
        gateway.disputes_payment("pay_1", amount=701)
        assert types(deliver_all(gateway)) == []
        hours_pass()
        assert (reasons(), sides()[1:]) == ({("quarantined", "dispute_exceeds_captured")}, [])

    def test_that_was_won_before_all_went_back_is_booked_even_if_it_is_heard_of_last(
        self, gateway: ModelGateway
    ) -> None:
        paid(gateway)
        gateway.dispute_becomes("pay_1", gateway.disputes_payment("pay_1", amount=400), WON)
        late = gateway.webhooks[:]
        gateway.webhooks.clear()
        services.give_back(order_id="o", now=timezone.now())
        assert types(work()) == ["payment.refunded"]
        deliver(*late)
        assert [one["status"] for one in work() + ask_again() if "dispute_id" in one] == ["won"]
        assert (Dispute.objects.get().status, reasons()) == ("won", {("applied", "")})
        assert not findings()

    def test_before_its_capture_is_known_waits_for_it(self, gateway: ModelGateway) -> None:
        begin()
        gateway.pays("pay_1")
        gateway.disputes_payment("pay_1", amount=1000)
        deliver(*gateway.webhooks[::-1])
        assert types(work() + ask_again()) == ["payment.succeeded", "payment.disputed"]

    def test_and_a_refund_that_was_on_its_way_take_no_more_than_there_is(self, gateway: ModelGateway) -> None:
        """The gateway says that both have taken the same money: one of them is kept for a person."""
        paid(gateway)
        gateway.refunds_become = RefundStatus.PENDING
        ask(300)
        work()
        part = Refund.objects.get().gateway_refund_id
        number = gateway.disputes_payment("pay_1", amount=1000)
        gateway.dispute_becomes("pay_1", number, LOST)
        gateway.refund_becomes("pay_1", part, RefundStatus.SUCCEEDED)
        assert types(deliver_all(gateway) + ask_again()) == ["payment.disputed", "payment.disputed"]
        hours_pass()
        receipt = WebhookReceipt.objects.get(says="succeeded", about="refund")
        assert (receipt.status, receipt.reason) == ("quarantined", "refund_exceeds_captured")
        assert (ledger.of_order("o").kept, Refund.objects.get().status) == (0, "pending")

    @pytest.mark.parametrize(("end", "back"), [(WON, 1000), (LOST, 600)])
    def test_of_what_is_to_go_back_delays_it(self, gateway: ModelGateway, end: DisputeStatus, back: int) -> None:
        number = disputed(gateway)
        services.give_back(order_id="o", now=timezone.now())
        assert types(work() + ask_again()) == []
        assert stored().status == "refunding"
        gateway.dispute_becomes("pay_1", number, end)
        assert types(deliver_all(gateway) + work())[-1] == "payment.refunded"
        assert (gateway.payments["pay_1"].back, ledger.of_order("o").kept) == (back, 0)
