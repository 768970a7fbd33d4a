"""What a gateway refuses to return goes to a person; what it says of another payment is not used."""

import dataclasses
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from common.authority import Authority
from orders import services as orders
from orders.models import Order, OrderEvent
from orders_project.audit import audit
from orders_project.models import Approval
from orders_project.tests.carrier import Carrier
from orders_project.tests.test_admin_actions import client_of, do
from payments import gateway_calls, gateways, gauges, receipts, services
from payments.gateways.base import (
    Answer,
    Event,
    GatewayRefused,
    GatewayUnavailable,
    PaymentRequest,
    RefundAnswer,
    RefundRequest,
    RefundStatus,
)
from payments.gateways.base import Status as GatewayStatus
from payments.models import Entry, Outgoing, Payment, WebhookReceipt

pytestmark = pytest.mark.django_db


EVE = Authority("eve", is_staff=True)


class Stub:
    """A gateway in memory. Its search does not tell upper from lower case, and lags behind; it refuses when told to."""

    name = "fake"

    def __init__(self) -> None:
        self.payments: dict[str, Answer] = {}
        self.made: list[RefundAnswer] = []
        self.keys: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuses = ""
        self.is_away = False
        self.answers_are_lost = False
        self.lists = True
        self.takes = GatewayStatus.SUCCEEDED

    def _call(self, call: str, key: str) -> None:
        self.calls.append((call, key))
        if self.is_away:
            raise GatewayUnavailable("away")

    def create(self, payment: PaymentRequest) -> Answer:
        self._call("create", payment.idempotency_key)
        payment_id = self.keys.setdefault(payment.idempotency_key, f"pay_{len(self.payments)}")
        made = Answer(
            payment_id=payment_id, order_id=payment.order_id, status=self.takes, amount=payment.amount,
            currency=payment.currency,
        )  # fmt: skip
        answer = self.payments.setdefault(payment_id, made)
        if self.answers_are_lost:
            raise GatewayUnavailable("timeout")
        return answer

    def status(self, *, payment_id: str = "", order_id: str = "", since: datetime | None = None) -> Answer | None:
        self._call("status", payment_id or order_id)
        if payment_id:
            return self.payments.get(payment_id)
        found = [one for one in self.payments.values() if one.order_id.lower() == order_id.lower()]
        return found[0] if found and self.lists else None

    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        self._call("cancel", idempotency_key)
        if self.refuses:
            raise GatewayRefused(self.refuses)
        return self._become(payment_id, GatewayStatus.CANCELED)

    def refund(self, refund: RefundRequest) -> RefundAnswer:
        self._call("refund", refund.idempotency_key)
        if self.refuses:
            raise GatewayRefused(self.refuses)
        self._become(refund.payment_id, GatewayStatus.REFUNDED)
        made = RefundAnswer(
            gateway_refund_id=f"re_{len(self.made)}", payment_id=refund.payment_id, status=RefundStatus.SUCCEEDED,
            amount=refund.amount, currency=refund.currency, order_id=refund.order_id, refund_id=refund.refund_id,
        )  # fmt: skip
        self.made.append(made)
        return made

    def refunds(self, *, payment_id: str) -> list[RefundAnswer]:
        self._call("refunds", payment_id)
        return [refund for refund in self.made if refund.payment_id == payment_id]

    def read_webhook(self, *, body: bytes) -> Event:
        about = json.loads(body)
        return Event(webhook_id="", type="x", about=Answer(**about | {"status": GatewayStatus(about["status"])}))

    def _become(self, payment_id: str, status: GatewayStatus) -> Answer:
        self.payments[payment_id] = dataclasses.replace(self.payments[payment_id], status=status)
        return self.payments[payment_id]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setitem(gateways.GATEWAYS, "fake", lambda breaker: stub)
    return stub


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        yield clock


def place(order_id: str = "o", *, amount: int = 500) -> Order:
    line = orders.Line(quantity=1, price=amount)
    new = orders.NewOrder(lines=(line,), order_id=order_id, user_email="ann@example.com")
    return orders.place_order(new=new, now=timezone.now())[0]


def pass_time(clock: Any, post: Carrier, span: timedelta, *, step: timedelta = timedelta(minutes=1)) -> None:
    ends = timezone.now() + span
    while timezone.now() < ends:
        clock.shift(step)
        gateway_calls.post_due_calls(now=timezone.now())
        receipts.sweep()
        post.run()


def paid_and_canceled(post: Carrier, *, amount: int = 500) -> Order:
    """An order that was paid, whose processing never answers, and which its customer has canceled."""
    order = place(amount=amount)
    post.passes_over = lambda envelope: envelope.type == "processing.process"
    post.run()
    orders.cancel_order(order_id=order.order_id, now=timezone.now())
    post.run()
    order.refresh_from_db()
    return order


def refused() -> dict[str, int]:
    reading = next(one for one in gauges.READINGS if "payments_refused" in one.gauges)
    return {row["status"]: row["payments_refused"] for row in reading.take()}


class TestARefundThatTheGatewayRefuses:
    def test_goes_to_a_person_and_is_not_repeated(self, stub: Stub, clock: Any, post: Carrier) -> None:
        stub.refuses = "charge_disputed"
        order = paid_and_canceled(post)
        payment = Payment.objects.get()
        assert (payment.status, payment.refusal, payment.ask_at) == ("refund_refused", "charge_disputed", None)
        assert (order.status, order.blocked) == ("refunding", "charge_disputed")
        assert refused() == {"refund_refused": 1, "void_refused": 0}
        history = OrderEvent.objects.count()
        pass_time(clock, post, timedelta(hours=1))
        assert [call for call, _ in stub.calls].count("refund") == 1
        assert OrderEvent.objects.count() == history
        assert Outgoing.objects.count() < 30

    def test_is_asked_for_again_under_a_new_key(self, stub: Stub, post: Carrier) -> None:
        stub.refuses = "balance_insufficient"
        order = paid_and_canceled(post)
        stub.refuses = ""
        services.try_return_again(order_id="o", now=timezone.now())
        post.run()
        order.refresh_from_db()
        assert (order.status, order.blocked, Payment.objects.get().status) == ("canceled", "", "refunded")
        assert [key for call, key in stub.calls if call == "refund"] == ["o.refund", "o.refund.1"]

    def test_is_settled_by_hand(self, stub: Stub, post: Carrier) -> None:
        stub.refuses = "charge_disputed"
        order = paid_and_canceled(post)
        with pytest.raises(services.ReasonMissing):
            services.settle_by_hand(order_id="o", reason=" ", by=EVE, now=timezone.now())
        services.settle_by_hand(order_id="o", reason="bank transfer 17", by=EVE, now=timezone.now())
        post.run()
        order.refresh_from_db()
        payment = Payment.objects.get()
        assert (payment.status, payment.settled_by, payment.settled_why) == ("refunded", "eve", "bank transfer 17")
        assert order.status == "canceled"
        assert sorted(Entry.objects.values_list("kind", flat=True)) == ["charge", "refund"]
        with pytest.raises(services.NotRefused):
            services.try_return_again(order_id="o", now=timezone.now())
        with pytest.raises(services.NotRefused):
            services.settle_by_hand(order_id="o", reason="again", by=EVE, now=timezone.now())

    def test_because_the_amount_differs_is_not_refunded(self, stub: Stub, post: Carrier) -> None:
        order = place()
        post.passes_over = lambda envelope: envelope.type == "processing.process"
        post.run()
        (payment_id,) = stub.payments
        stub.payments[payment_id] = dataclasses.replace(stub.payments[payment_id], amount=1)
        orders.cancel_order(order_id="o", now=timezone.now())
        post.run()
        order.refresh_from_db()
        assert (order.status, order.blocked) == ("refunding", "amount_mismatch")
        assert "refund" not in [call for call, _ in stub.calls]


class TestAnOperator:
    def test_sees_it_and_has_the_gateway_asked_again(self, stub: Stub, post: Carrier) -> None:
        stub.refuses = "balance_insufficient"
        order = paid_and_canceled(post)
        operator = client_of("operator")
        page = operator.get(reverse("admin:orders_order_change", args=["o"])).content.decode()
        assert "fake refuses to return the money (balance_insufficient)" in page
        assert "refund refused – balance_insufficient: the balance at the gateway is too low" in page.lower()
        stub.refuses = ""
        assert do(operator, Payment.objects.get(), "try_again").status_code == 302
        post.run()
        order.refresh_from_db()
        assert order.status == "canceled"

    def test_needs_a_second_person_to_settle_much_by_hand(self, stub: Stub, post: Carrier) -> None:
        stub.refuses = "charge_disputed"
        order = paid_and_canceled(post, amount=1000_01)
        payment, eve, bob = Payment.objects.get(), client_of("manager", "eve"), client_of("manager", "bob")
        assert do(client_of("operator"), payment, "settle", reason="bank transfer").status_code == 403
        assert do(eve, payment, "settle", reason="bank transfer").status_code == 302
        assert Payment.objects.get().status == "refund_refused"
        assert do(eve, Approval.objects.get(), "approve").status_code == 422
        assert do(bob, Approval.objects.get(), "approve").status_code == 302
        post.run()
        order.refresh_from_db()
        payment.refresh_from_db()
        assert (order.status, payment.status, payment.settled_by) == ("canceled", "refunded", "bob for eve")


class TestAVoidThatTheGatewayRefuses:
    def test_goes_to_a_person_until_the_gateway_has_an_end(self, stub: Stub, post: Carrier) -> None:
        stub.takes, stub.refuses = GatewayStatus.PENDING, "processing_error"
        order = place()
        post.run()
        orders.cancel_order(order_id="o", now=timezone.now())
        post.run()
        order.refresh_from_db()
        assert (order.status, order.blocked) == ("voiding", "processing_error")
        assert Payment.objects.get().status == "void_refused"
        stub.refuses = ""
        services.try_return_again(order_id="o", now=timezone.now())
        post.run()
        order.refresh_from_db()
        assert order.status == "canceled"


def test_a_gateway_that_is_away_for_six_hours_is_called_few_times(stub: Stub, clock: Any, post: Carrier) -> None:
    stub.takes = GatewayStatus.PENDING
    order = place()
    post.run()
    stub.is_away = True
    orders.cancel_order(order_id="o", now=timezone.now())
    post.run()
    before = len(stub.calls)
    pass_time(clock, post, timedelta(hours=6), step=timedelta(minutes=2))
    assert len(stub.calls) - before <= 16
    stub.is_away = False
    pass_time(clock, post, timedelta(hours=1, minutes=20), step=timedelta(minutes=5))
    order.refresh_from_db()
    assert order.status == "canceled"


def test_the_answer_about_another_order_cancels_nothing(stub: Stub, post: Carrier, clock: Any) -> None:
    """The gateway finds order-7 where ORDER-7 was searched for."""
    stub.takes = GatewayStatus.PENDING
    place("order-7")
    post.run()
    place("ORDER-7")
    stub.is_away = True
    post.run()
    clock.shift(timedelta(seconds=2))
    orders.cancel_order(order_id="ORDER-7", now=timezone.now())
    post.run()
    Payment.objects.filter(pk="ORDER-7").update(created_at=timezone.now() - timedelta(days=2))  # only a search is left
    stub.is_away = False
    pass_time(clock, post, timedelta(minutes=10))
    assert "cancel" not in [call for call, _ in stub.calls]
    assert Payment.objects.get(pk="order-7").status == "pending"
    assert Payment.objects.get(pk="ORDER-7").status == "voiding"
    assert {one.status for one in stub.payments.values()} == {GatewayStatus.PENDING}


@pytest.mark.parametrize("says", [{"order_id": "p"}, {"payment_id": "pay_9"}])
def test_an_answer_about_another_payment_is_no_answer(
    stub: Stub, post: Carrier, says: dict[str, Any], clock: Any
) -> None:
    order = place()
    post.passes_over = lambda envelope: envelope.type == "processing.process"
    post.run()
    stub.status = lambda **_: dataclasses.replace(stub.payments["pay_0"], **says)  # type: ignore[method-assign]
    orders.cancel_order(order_id="o", now=timezone.now())
    post.run()
    assert Payment.objects.get().status == "refunding"
    assert "refund" not in [call for call, _ in stub.calls]
    order.refresh_from_db()
    assert order.status == "refunding"


class TestMoneyOfWhichWeWereNotTold:
    def test_is_found_although_the_gateway_lists_nothing(self, stub: Stub, clock: Any, post: Carrier) -> None:
        """The request times out but took the money; the webhook comes first; cancel; the search finds nothing."""
        stub.answers_are_lost, stub.lists = True, False
        order = place()
        post.run()
        taken = stub.payments["pay_0"]
        webhook("evt_1", taken)
        post.run()
        orders.cancel_order(order_id="o", now=timezone.now())
        post.run()
        pass_time(clock, post, timedelta(minutes=10))
        assert Payment.objects.get().status == "voiding"  # an empty search proves nothing
        stub.answers_are_lost = False
        pass_time(clock, post, timedelta(minutes=40), step=timedelta(minutes=5))
        order.refresh_from_db()
        assert (order.status, stub.payments["pay_0"].status, len(stub.payments)) == ("canceled", "refunded", 1)
        assert sorted(Entry.objects.values_list("kind", flat=True)) == ["charge", "refund"]
        assert WebhookReceipt.objects.get().status == "applied"

    def test_goes_back_if_its_webhook_was_kept_while_the_payment_was_voided(self, stub: Stub, post: Carrier) -> None:
        place()
        post.passes_over = lambda envelope: envelope.type == "payments.turn_to_gateway"
        post.run()
        webhook(
            "evt_1",
            Answer(payment_id="pay_0", order_id="o", status=GatewayStatus.SUCCEEDED, amount=500, currency="USD"),
        )
        stub.payments["pay_0"] = Answer(
            payment_id="pay_0", order_id="o", status=GatewayStatus.SUCCEEDED, amount=500, currency="USD"
        )  # fmt: skip
        post.run()
        assert WebhookReceipt.objects.get().status == "unmatched"
        Payment.objects.update(status="voided", ask_at=None)
        post.passes_over = lambda envelope: False
        assert receipts.sweep() == 1
        post.run()
        assert (Payment.objects.get().status, stub.payments["pay_0"].status) == ("refunded", "refunded")
        assert WebhookReceipt.objects.get().status == "applied"

    def test_of_an_unknown_order_is_seen_after_an_hour(self, stub: Stub, post: Carrier) -> None:
        webhook(
            "evt_1", Answer(payment_id="x", order_id="nobody", status=GatewayStatus.SUCCEEDED, amount=5, currency="USD")
        )
        post.run()
        assert (late(), found()) == (0, [])
        WebhookReceipt.objects.update(received_at=timezone.now() - timedelta(minutes=61))
        assert (late(), found()) == (1, [str(WebhookReceipt.objects.get().pk)])


def webhook(webhook_id: str, said: Answer) -> WebhookReceipt:
    """Store a webhook as if it had been received."""
    receipt = WebhookReceipt.objects.create(
        gateway="fake",
        webhook_id=webhook_id,
        body=json.dumps(dataclasses.asdict(said)).encode(),
        says=said.status,
        amount=said.amount,
        currency=said.currency,
        payment_id=said.payment_id,
        order_id=said.order_id,
        received_at=timezone.now(),
    )
    with transaction.atomic(using="payments"):
        receipts._post(receipt)
    return receipt


def late() -> int:
    reading = next(one for one in gauges.READINGS if "webhooks_unmatched_late" in one.gauges)
    return int(reading.take()[0]["webhooks_unmatched_late"])


def found() -> list[str]:
    report = audit(grace=timedelta(0), settle=timedelta(0))
    return [finding.subject for finding in report.findings if finding.check == "receipts"]


class TestAnInstallation:
    def test_has_its_own_names_at_the_gateway(self, stub: Stub, post: Carrier, settings: Any) -> None:
        place("before")
        post.run()
        settings.INSTALLATION = "shop-a"
        place("o")
        post.run()
        assert [key for call, key in stub.calls if call == "create"] == ["before.charge", "shop-a:o.charge"]
        assert [one.order_id for one in stub.payments.values()] == ["before", "shop-a:o"]
        assert set(Payment.objects.values_list("status", flat=True)) == {"succeeded"}

    @pytest.mark.parametrize(
        ("named", "status", "order_id"),
        [
            ("shop-a:o", "received", "o"),
            ("o", "discarded", "o"),
            ("shop-b:o", "discarded", "o"),
            ("old", "received", "old"),
        ],
    )
    def test_hears_its_own_webhooks(
        self, monkeypatch: pytest.MonkeyPatch, settings: Any, named: str, status: str, order_id: str
    ) -> None:
        services.charge_gateway(order_id="old", money=services.Money(5, "USD"), now=timezone.now())
        settings.INSTALLATION = "shop-a"

        class Told(Stub):
            def parse_webhook(self, *, headers: Any, body: bytes, now: datetime) -> Any:
                about = Answer(payment_id="p", order_id=named, status=GatewayStatus.SUCCEEDED, amount=5, currency="USD")
                return Event(webhook_id="evt", type="x", about=about)

        monkeypatch.setitem(gateways.GATEWAYS, "fake", lambda breaker: Told())
        receipt = receipts.receive(gateway="fake", headers={}, body=b"{}", now=timezone.now())
        assert (receipt.status, receipt.order_id) == (status, order_id)
        assert receipt.reason == ("another_installation" if status == "discarded" else "")


def test_sweeps_follow_their_backlog() -> None:
    now = timezone.now()
    Payment.objects.bulk_create(
        Payment(order_id=f"o{n}", gateway="fake", status="pending", gateway_payment_id=f"p{n}", ask_at=now)
        for n in range(1200)
    )
    assert gateway_calls.post_due_calls(now=now) == 1200
    assert Outgoing.objects.filter(type="payments.turn_to_gateway").count() == 1200
    assert not Payment.objects.filter(ask_at__lt=now + timedelta(minutes=5)).exists()
    WebhookReceipt.objects.bulk_create(
        WebhookReceipt(
            gateway="fake", webhook_id=f"e{n}", body=b"", status="unmatched", order_id=f"o{n}", received_at=now
        )
        for n in range(1200)
    )
    assert receipts.sweep() == 1200
    assert receipts.sweep() == 0
