"""Money that belongs to no order goes back once, whatever the gateway answers; a refusal leaves the decision open."""

import random
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from common.authority import Authority
from common.money import Money
from payments import decisions, receipts, services
from payments.decisions import NotOpen, Outcome
from payments.gateways.base import GatewayRefused, PaymentRequest, RefundStatus, Status
from payments.messages import RefundReceipt
from payments.models import Entry, Outgoing, Payment, WebhookReceipt
from payments.tests.driver import handle, work
from payments.tests.model_gateway import ModelGateway
from payments.tests.test_whole_life import begin, deliver, deliver_all, gateway

__all__ = ["gateway"]
pytestmark = pytest.mark.django_db
ROOT = Authority("root", is_staff=True)
FAULTS = ("", "down", "lost", "broke", "broke_late")


def comes_in(gateway: ModelGateway, *, is_paid: bool = True, order_id: str = "nobody") -> str:
    """Have the gateway take money for no order of ours; return its payment id."""
    request = PaymentRequest(order_id=order_id, amount=1000, currency="USD", idempotency_key="theirs")
    payment_id = gateway.create(request).payment_id
    if is_paid:
        gateway.pays(payment_id)
        deliver_all(gateway)
    return payment_id


def kept() -> WebhookReceipt:
    return WebhookReceipt.objects.get(about="payment", says="succeeded")


def decide(receipt: WebhookReceipt | None = None) -> None:
    receipt_id = str((receipt or kept()).pk)
    decisions.refund(receipt_id=receipt_id, money=Money(1000, "USD"), reason="stray", by=ROOT)


def back(gateway: ModelGateway, payment_id: str = "pay_1") -> list[int]:
    """What has gone back, or is on its way."""
    made = gateway.payments[payment_id].refunds.values()
    return [refund.amount for refund in made if refund.status != RefundStatus.FAILED]


def arrives(gateway: ModelGateway, end: RefundStatus) -> None:
    """Have the last refund end like this."""
    gateway.refund_becomes("pay_1", list(gateway.payments["pay_1"].refunds)[-1], end, "account_closed")


def tick_until_it_waits() -> None:
    """Handle what is due, until the gateway is to be asked later."""
    for _ in range(10):
        for row in Outgoing.objects.filter(published_at=None, due_at__lte=timezone.now()):
            handle(row)


def to_decide() -> list[str]:
    """What is kept for a person to decide, by its status."""
    return [receipt.status for receipt in WebhookReceipt.objects.all() if _is_to_decide(receipt)]


def _is_to_decide(receipt: WebhookReceipt) -> bool:
    return receipt.status in decisions.OPEN and not receipt.is_being_returned


def refuse(gateway: ModelGateway, monkeypatch: pytest.MonkeyPatch, what: str, code: str) -> None:
    """Have the gateway refuse a call, which it repeats under the same key."""

    def refused(*arguments: Any, **named: Any) -> Any:
        key = named["idempotency_key"] if named else arguments[0].idempotency_key

        def do() -> Any:
            raise GatewayRefused(code)

        return gateway._under(key, do)

    monkeypatch.setattr(gateway, what, refused)


class TestStrayMoney:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_goes_back_once_whatever_becomes_of_the_call(self, gateway: ModelGateway, fault: str) -> None:
        comes_in(gateway)
        decide()
        receipt = kept()
        (row,) = Outgoing.objects.filter(published_at=None)
        status = gateway.status

        def status_then_fault(**which: Any) -> Any:
            found = status(**which)
            gateway.refunds = refunds_then_fault  # type: ignore[method-assign]
            gateway.status = status  # type: ignore[method-assign]
            return found

        refunds = gateway.refunds

        def refunds_then_fault(**which: Any) -> Any:
            found, gateway.fault, gateway.refunds = refunds(**which), fault, refunds  # type: ignore[method-assign]
            return found

        gateway.status = status_then_fault  # type: ignore[method-assign]
        handle(row)
        receipt.refresh_from_db()
        if fault:
            assert (receipt.status, receipt.decided_by) == ("unmatched", "root")
            assert receipts.sweep() == 0
        work()
        receipt.refresh_from_db()
        assert (receipt.status, receipt.decided_by, back(gateway)) == ("refunded", "root", [1000])
        deliver_all(gateway)
        assert set(WebhookReceipt.objects.filter(about="refund").values_list("reason", flat=True)) == {
            "return_of_stray_money"
        }

    def test_that_is_on_its_way_is_found_by_its_name(
        self, gateway: ModelGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also at a gateway whose payment looks the same until the refund has arrived."""
        comes_in(gateway)
        gateway.refunds_become, make = RefundStatus.PENDING, gateway.refund
        monkeypatch.setattr(gateway, "status", lambda **which: gateway.payments["pay_1"].answer)

        def broken(refund: Any) -> Any:
            gateway.fault = "broke_late"
            return make(refund)

        monkeypatch.setattr(gateway, "refund", broken)
        decide()
        tick_until_it_waits()
        assert (kept().status, kept().failures, back(gateway)) == ("unmatched", 1, [1000])
        arrives(gateway, RefundStatus.SUCCEEDED)
        work()
        assert (kept().status, kept().failures, back(gateway)) == ("refunded", 1, [1000])

    @pytest.mark.parametrize("looks", ["refunded", "succeeded"])  # while its money is on its way
    def test_that_is_on_its_way_and_does_not_arrive_can_be_decided_about_again(
        self, gateway: ModelGateway, monkeypatch: pytest.MonkeyPatch, looks: str
    ) -> None:
        comes_in(gateway)
        gateway.refunds_become = RefundStatus.PENDING
        if looks == "succeeded":
            monkeypatch.setattr(gateway, "status", lambda **which: gateway.payments["pay_1"].answer)
        decide()
        tick_until_it_waits()
        assert (kept().status, kept().is_being_returned) == ("unmatched", True)
        assert to_decide() == []
        with pytest.raises(NotOpen):
            decide()
        arrives(gateway, RefundStatus.FAILED)
        assert deliver_all(gateway) == work() == []
        assert (kept().status, kept().reason, kept().decided_by) == ("quarantined", "account_closed", "")
        assert to_decide() == ["quarantined"]
        gateway.refunds_become = RefundStatus.SUCCEEDED
        decide()
        work()
        deliver_all(gateway)
        assert (kept().status, back(gateway), to_decide()) == ("refunded", [1000], [])

    @pytest.mark.parametrize("order_id", ["nobody", ""])
    def test_that_had_arrived_and_comes_again_can_be_decided_about_again(
        self, gateway: ModelGateway, order_id: str
    ) -> None:
        comes_in(gateway, order_id=order_id)
        decide()
        work()
        deliver_all(gateway)
        assert kept().status == "refunded"
        arrives(gateway, RefundStatus.FAILED)
        failed = gateway.webhooks[-1]
        deliver_all(gateway)
        assert (kept().status, kept().reason, kept().decided_by) == ("quarantined", "account_closed", "")
        decide()
        work()
        deliver(failed.replace(b'"evt_', b'"evt_again_'))
        work()
        deliver_all(gateway)
        assert (kept().status, kept().decided_by, back(gateway)) == ("refunded", "root", [1000])
        assert to_decide() == []

    def test_that_the_gateway_refuses_to_return_can_be_decided_about_again(
        self, gateway: ModelGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        comes_in(gateway)
        for _ in range(2):
            with monkeypatch.context() as poor:
                refuse(gateway, poor, "refund", "balance_insufficient")
                decide()
                assert work() == []
            receipt = kept()
            assert (receipt.status, receipt.reason, receipt.decided_by) == ("quarantined", "balance_insufficient", "")
            assert back(gateway) == []
        decide()
        work()
        assert (kept().status, kept().decided_by, back(gateway)) == ("refunded", "root", [1000])

    def test_whose_refund_fails_can_be_decided_about_again(self, gateway: ModelGateway) -> None:
        comes_in(gateway)
        gateway.refunds_become = RefundStatus.FAILED
        decide()
        work()
        assert (kept().status, kept().reason, kept().decided_by) == ("quarantined", "refund_failed", "")
        gateway.refunds_become = RefundStatus.SUCCEEDED
        decide()
        work()
        assert (kept().status, back(gateway)) == ("refunded", [1000])

    def test_waits_for_a_gateway_that_is_down_and_asks_less_and_less_often(self, gateway: ModelGateway) -> None:
        comes_in(gateway)
        with time_machine.travel(timezone.now(), tick=False) as clock:
            decide()
            pauses = []
            for _ in range(15):
                (row,) = Outgoing.objects.filter(published_at=None)
                clock.shift(max(timedelta(0), row.due_at - timezone.now()))
                gateway.fault = "down"
                handle(row)
                (row,) = Outgoing.objects.filter(published_at=None)
                pauses.append((row.due_at - timezone.now()).total_seconds())
        assert pauses[:4] == [2, 4, 8, 16]
        assert pauses[-4:] == [3600] * 4
        with pytest.raises(NotOpen):
            decide()
        work()
        assert (kept().status, kept().failures, back(gateway)) == ("refunded", 0, [1000])

    def test_that_goes_back_pays_no_order_meanwhile(self, gateway: ModelGateway) -> None:
        """Neither by a person nor by itself, also where its payment is known by now."""
        comes_in(gateway)
        decide()
        receipt = kept()
        Payment.objects.create(
            order_id="nobody", method="gateway", gateway="model", amount=1000, currency="USD", status="pending"
        )
        with pytest.raises(NotOpen):
            decisions.match(receipt_id=str(receipt.pk), order_id="nobody", reason="seen", by=ROOT, now=timezone.now())
        assert receipts.sweep() == 0
        receipts.handle(receipt_id=str(receipt.pk), now=timezone.now())
        assert not Entry.objects.exists()
        work()
        assert (kept().status, back(gateway)) == ("refunded", [1000])
        with pytest.raises(NotOpen):
            decisions.match(receipt_id=str(receipt.pk), order_id="nobody", reason="seen", by=ROOT, now=timezone.now())

    def test_of_which_two_webhooks_tell_goes_back_by_one_decision(self, gateway: ModelGateway) -> None:
        comes_in(gateway)
        first = kept()
        twin = WebhookReceipt.objects.get(pk=first.pk)
        twin._state.adding, twin.pk, twin.webhook_id = True, WebhookReceipt().pk, "evt_twin"
        twin.save()
        decide(first)
        with pytest.raises(NotOpen):
            decide(twin)
        with pytest.raises(NotOpen):
            decisions.match(receipt_id=str(twin.pk), order_id="o", reason="seen", by=ROOT, now=timezone.now())

    def test_before_it_comes_in_is_canceled_or_refunded_as_the_payer_is_faster(self, gateway: ModelGateway) -> None:
        """The payer pays between the question and the call."""
        comes_in(gateway)
        decide()
        cancel, held = gateway.cancel, gateway.payments["pay_1"]
        gateway.change("pay_1", status=Status.PENDING, captured=None)

        def paid_first(**which: Any) -> Any:
            gateway.pays("pay_1")
            gateway.cancel = cancel  # type: ignore[method-assign]
            return cancel(**which)

        gateway.cancel = paid_first  # type: ignore[method-assign]
        work()
        assert (kept().status, held.answer.status, back(gateway)) == ("refunded", "succeeded", [1000])

    @pytest.mark.parametrize("seed", range(60))
    def test_goes_back_at_most_once_in_any_order_of_workers(self, gateway: ModelGateway, seed: int) -> None:
        """Calls and what is recorded of them in any order, some never, with faults, refusals and new decisions."""
        chance = random.Random(seed)
        comes_in(gateway)
        receipt_id = str(kept().pk)
        command = RefundReceipt(receipt_id=receipt_id, order_id="nobody", amount=1000, currency="USD")
        replies: list[Any] = []
        make = gateway.refund

        def faulty(refund: Any) -> Any:
            gateway.fault = chance.choice(FAULTS)
            gateway.refunds_become = chance.choice((RefundStatus.SUCCEEDED, RefundStatus.PENDING, RefundStatus.FAILED))
            return make(refund)

        gateway.refund = faulty  # type: ignore[method-assign]
        for _ in range(40):
            if kept().status != "refunded" and not kept().decided_by:
                decide()
            gateway.fault = chance.choice(("", "", "", "down"))
            if chance.random() < 0.6 or not replies:
                replies.append(decisions.refund_at_gateway(command))  # a worker, which may be frozen for long, or die
            else:
                reply = replies.pop(chance.randrange(len(replies)))
                decisions.record(message=command, reply=reply, now=timezone.now())
            gateway.fault = ""
            assert len(back(gateway)) <= 1
            assert (kept().status != "refunded") or back(gateway) == [1000]
        gateway.refund, gateway.refunds_become = make, RefundStatus.SUCCEEDED  # type: ignore[method-assign]
        for number in gateway.payments["pay_1"].refunds:
            if gateway.payments["pay_1"].refunds[number].status == RefundStatus.PENDING:
                gateway.refund_becomes("pay_1", number, chance.choice((RefundStatus.SUCCEEDED, RefundStatus.FAILED)))
        for _ in range(50):
            work()
            if kept().status == "refunded":
                break
            if not kept().decided_by:
                decide()
        assert (kept().status, back(gateway)) == ("refunded", [1000])

    def test_is_asked_for_under_another_key_after_each_answer_that_ends_one(self, gateway: ModelGateway) -> None:
        comes_in(gateway)
        decide()
        receipt = kept()
        command = RefundReceipt(receipt_id=str(receipt.pk), order_id="nobody", amount=1000, currency="USD")
        gateway.calls.clear()
        for outcome, broke in ((Outcome.NO_REPLY, False), (Outcome.NO_REPLY, True)):
            for _ in range(2):  # of two workers that had the same attempt, one counts
                decisions.record(message=command, reply=decisions.Reply(outcome, 0, broke=broke), now=timezone.now())
        work()
        assert [key for key in gateway.calls if key] == ["stray.pay_1.refund.1"]
        assert (kept().failures, kept().status) == (1, "refunded")


class TestASecondPayment:
    """Of an order of which the first payment was made although the gateway broke."""

    @pytest.fixture
    def second(self, gateway: ModelGateway) -> str:
        begin()
        Payment.objects.update(broken=1)
        request = PaymentRequest(order_id="o", amount=1000, currency="USD", idempotency_key="o.charge.7")
        return gateway.create(request).payment_id

    @pytest.mark.parametrize("fault", FAULTS[1:])
    def test_goes_back_by_itself_once(self, gateway: ModelGateway, second: str, fault: str) -> None:
        make = gateway.refund

        def faulty(refund: Any) -> Any:
            gateway.fault, gateway.refund = fault, make  # type: ignore[method-assign]
            return make(refund)

        gateway.refund = faulty  # type: ignore[method-assign]
        gateway.pays(second)
        deliver_all(gateway)
        work()
        assert (kept().status, kept().decided_by, back(gateway, second)) == ("refunded", "payments", [1000])
        assert services.Payment.objects.get().gateway_payment_id == "pay_1"

    def test_that_does_not_go_back_is_for_a_person_to_decide(
        self, gateway: ModelGateway, second: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as poor:
            refuse(gateway, poor, "refund", "balance_insufficient")
            gateway.pays(second)
            deliver_all(gateway)
        assert (kept().status, kept().reason, kept().decided_by) == ("quarantined", "balance_insufficient", "")
        decide()
        work()
        assert (kept().status, kept().decided_by, back(gateway, second)) == ("refunded", "root", [1000])
