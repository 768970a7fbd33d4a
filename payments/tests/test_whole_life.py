"""Payments from the first call to the last refund, whatever the gateway, its webhooks and the network do."""

import operator
import random
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from outbox.ids import uuid7
from payments import decisions, gateways, ledger, receipts, refunds, services
from payments.gateways.base import DisputeStatus, GatewayRefused, RefundStatus, Status
from payments.models import Attempt, Outgoing, Payment, Refund, WebhookReceipt
from payments.tests.driver import NOW, ask_again, handle, moved, stored, types, view, work
from payments.tests.model_gateway import ModelGateway

MONEY = services.Money(1000, "USD")
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def gateway(settings: Any, monkeypatch: pytest.MonkeyPatch) -> ModelGateway:
    settings.PAYMENT_GATEWAY = "model"
    monkeypatch.setitem(gateways.BREAKERS, "model", ModelGateway().breaker)
    return installed(monkeypatch.setitem)


def installed(setitem: Any) -> ModelGateway:
    model = ModelGateway()
    setitem(gateways.GATEWAYS, "model", lambda breaker: model)
    return model


# What drives it -----------------------------------------------------------------------------------------------------


def deliver(*bodies: bytes) -> None:
    for body in bodies:
        receipts.receive(gateway="model", headers={}, body=body, now=timezone.now())


def deliver_all(gateway: ModelGateway) -> list[dict[str, Any]]:
    deliver(*gateway.webhooks)
    gateway.webhooks.clear()
    return work()


def begin(order_id: str = "o", **how: Any) -> Payment:
    services.charge_gateway(order_id=order_id, money=MONEY, now=timezone.now(), **how)
    work()
    return stored(order_id)


def authorized(gateway: ModelGateway) -> Payment:
    begin(is_manual=True)
    gateway.pays("pay_1")
    deliver_all(gateway)
    return stored()


# Paying -------------------------------------------------------------------------------------------------------------


class TestPaying:
    def test_is_possible_again_after_declines_which_are_listed_once_each(self, gateway: ModelGateway) -> None:
        begin()
        gateway.declines("pay_1", "insufficient_funds")
        gateway.declines("pay_1", "expired_card")
        deliver(*gateway.webhooks, *gateway.webhooks[::-1])
        assert work() == []
        ask_again()  # the gateway tells of the last one again
        assert [(a.code, a.message) for a in view().attempts] == [
            ("insufficient_funds", "Declined."), ("expired_card", "Declined."),
        ]  # fmt: skip
        assert (view().status, view().client_secret) == ("pending", "pay_1_secret")
        gateway.webhooks.clear()
        gateway.pays("pay_1")
        assert types(deliver_all(gateway)) == ["payment.succeeded"]
        assert (view().captured_amount, view().client_secret) == (1000, "")
        assert Attempt.objects.count() == 2

    def test_needs_what_the_gateway_says_now_and_not_what_a_late_webhook_said(self, gateway: ModelGateway) -> None:
        begin()
        gateway.change("pay_1", next_action={"type": "redirect", "url": "https://bank.example/1"})
        late = gateway.webhooks.pop()
        gateway.change("pay_1", next_action=None)
        deliver_all(gateway)
        assert view().next_action is None
        gateway.change("pay_1", next_action={"type": "redirect", "url": "https://bank.example/2"})
        deliver(*gateway.webhooks, late)
        work()
        assert view().next_action == {"type": "redirect", "url": "https://bank.example/2"}

    def test_needs_a_secret_that_is_shown_until_the_deadline_and_kept_until_the_end(
        self, gateway: ModelGateway
    ) -> None:
        begin(deadline=timezone.now() + timedelta(hours=1))
        assert (view().client_secret, view().expires_at) == ("pay_1_secret", stored().deadline)
        Payment.objects.update(deadline=timezone.now())
        assert view().client_secret == ""
        services.give_back(order_id="o", now=timezone.now())
        assert stored().client_secret == ""
        assert types(work()) == ["payment.voided"]

    def test_leaves_its_secret_in_no_message_and_no_log(
        self, gateway: ModelGateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        begin()
        gateway.change("pay_1", amount=1)
        gateway.fault = "lost"
        ask_again()
        ask_again()
        assert "amount_mismatch" in caplog.text
        assert "secret" not in caplog.text + str(list(Outgoing.objects.values_list("data", flat=True)))

    def test_ends_with_what_the_payer_did_last(self, gateway: ModelGateway) -> None:
        """A declined attempt that is told of late undoes nothing."""
        begin()
        gateway.declines("pay_1")
        late = gateway.webhooks.pop()
        gateway.pays("pay_1")
        assert types(deliver_all(gateway)) == ["payment.succeeded"]
        deliver(late)
        assert work() == []
        assert (stored().status, Attempt.objects.count(), moved()) == ("succeeded", 1, [("charge", 1000)])


# Captures -----------------------------------------------------------------------------------------------------------


class TestACapture:
    @pytest.mark.parametrize("amount", [1000, 1])
    def test_takes_what_orders_wants(self, gateway: ModelGateway, amount: int) -> None:
        assert authorized(gateway).status == "authorized"
        assert (view().authorized_amount, view().captured_amount, view().client_secret) == (1000, 0, "")
        services.capture(order_id="o", amount=amount, now=timezone.now())
        [told] = work()
        assert (told["type"], told["amount"]) == ("payment.succeeded", amount)
        deliver_all(gateway)
        assert moved() == [("charge", amount)]
        assert (view().authorized_amount, view().captured_amount) == (1000, amount)

    def test_is_announced_with_when_the_reservation_ends(self, gateway: ModelGateway) -> None:
        begin(is_manual=True)
        until = NOW + timedelta(days=7)
        gateway.pays("pay_1")
        gateway.payments["pay_1"].answer = gateway.payments["pay_1"].answer.__class__(
            **{**vars(gateway.payments["pay_1"].answer), "authorized_until": until}
        )
        [told] = deliver_all(gateway)
        assert told == {
            "type": "payment.authorized", "order_id": "o", "payment_id": "pay_1", "amount": 1000,
            "expires_at": until.isoformat(),
        }  # fmt: skip
        assert stored().ask_at == until

    def test_by_hand_at_the_gateway_is_recorded_as_it_is(self, gateway: ModelGateway) -> None:
        authorized(gateway)
        gateway.captures_by_hand("pay_1", 300)
        [told] = deliver_all(gateway)
        assert (told["type"], told["amount"], moved()) == ("payment.succeeded", 300, [("charge", 300)])

    def test_of_more_than_was_reserved_is_not_believed(self, gateway: ModelGateway) -> None:
        authorized(gateway)
        gateway.captures_by_hand("pay_1", 1001)
        assert deliver_all(gateway) == []
        assert (WebhookReceipt.objects.last().reason, moved()) == ("capture_mismatch", [])  # type: ignore[union-attr]

    @pytest.mark.parametrize("status", ["authorized", "capturing"])
    def test_is_not_possible_after_the_reservation_has_expired(self, gateway: ModelGateway, status: str) -> None:
        authorized(gateway)
        if status == "capturing":
            services.capture(order_id="o", amount=1000, now=timezone.now())
        gateway.change("pay_1", status=Status.CANCELED)
        told = work() + deliver_all(gateway) + ask_again()
        assert [(m["type"], m["reason"]) for m in told] == [("payment.failed", "authorization_expired")]
        assert (stored().status, moved()) == ("failed", [])

    def test_that_is_refused_releases_the_money_and_tells_why(
        self, gateway: ModelGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authorized(gateway)
        services.capture(order_id="o", amount=1000, now=timezone.now())
        monkeypatch.setattr(gateway, "capture", lambda capture: gateway.refund(capture))
        gateway.payments["pay_1"].is_manual = False
        [told] = work()
        assert (told["type"], told["reason"]) == ("payment.failed", "capture_refused")
        assert (stored().status, gateway.payments["pay_1"].answer.status) == ("voided", Status.CANCELED)

    @pytest.mark.parametrize("order", ["void first", "capture first"])
    def test_and_a_void_end_without_money(self, gateway: ModelGateway, order: str) -> None:
        authorized(gateway)
        services.capture(order_id="o", amount=700, now=timezone.now())
        if order == "capture first":
            work()
        services.give_back(order_id="o", now=timezone.now())
        told = types(work() + deliver_all(gateway))
        assert told[-1] == {"void first": "payment.voided", "capture first": "payment.refunded"}[order]
        assert ledger.of_order("o").kept == 0
        assert gateway.payments["pay_1"].back in (0, 700)

    @pytest.mark.parametrize("amount", [0, 1001, -1])
    def test_of_an_amount_that_is_not_reserved_is_refused(self, gateway: ModelGateway, amount: int) -> None:
        authorized(gateway)
        with pytest.raises(services.NothingReserved):
            services.capture(order_id="o", amount=amount, now=timezone.now())

    def test_is_not_asked_of_a_payment_that_the_gateway_only_reserves_by_itself(self, gateway: ModelGateway) -> None:
        begin()
        gateway.change("pay_1", status=Status.AUTHORIZED)
        assert deliver_all(gateway) == []
        assert (stored().status, WebhookReceipt.objects.get().reason) == ("pending", "capture_mismatch")


# The refund of all that is left -------------------------------------------------------------------------------------


def paid(gateway: ModelGateway) -> Payment:
    begin()
    gateway.pays("pay_1")
    deliver_all(gateway)
    return stored()


def being_returned(gateway: ModelGateway) -> str:
    """Have a refund made that is on its way, and return its id."""
    paid(gateway)
    gateway.refunds_become = RefundStatus.PENDING
    services.give_back(order_id="o", now=timezone.now())
    assert work() == []
    assert (stored().status, moved()) == ("refunding", [("charge", 1000)])
    return stored().gateway_refund_id


class TestAReturn:
    @pytest.mark.parametrize("way", ["webhook", "asked"])
    def test_that_is_pending_is_no_return_yet(self, gateway: ModelGateway, way: str) -> None:
        number = being_returned(gateway)
        assert deliver_all(gateway) == ask_again() == []
        assert len(gateway.payments["pay_1"].refunds) == 1
        gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        assert types(deliver_all(gateway) if way == "webhook" else ask_again()) == ["payment.refunded"]
        assert deliver_all(gateway) == []
        assert moved() == [("charge", 1000), ("refund", 1000)]

    @pytest.mark.parametrize("way", ["webhook", "asked"])
    def test_that_fails_waits_for_a_person_and_can_be_tried_again(self, gateway: ModelGateway, way: str) -> None:
        number = being_returned(gateway)
        gateway.refund_becomes("pay_1", number, RefundStatus.FAILED, "lost_or_stolen_card")
        [told] = deliver_all(gateway) if way == "webhook" else ask_again()
        assert (told["type"], told["reason"]) == ("payment.return_refused", "lost_or_stolen_card")
        assert deliver_all(gateway) == []
        gateway.refunds_become = RefundStatus.SUCCEEDED
        services.try_return_again(order_id="o", now=timezone.now())
        assert types(work() + deliver_all(gateway)) == ["payment.refunded"]
        assert moved() == [("charge", 1000), ("refund", 1000)]

    def test_that_fails_after_it_had_succeeded_is_taken_back_in_the_ledger(self, gateway: ModelGateway) -> None:
        number = being_returned(gateway)
        gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        gateway.refund_becomes("pay_1", number, RefundStatus.FAILED)
        assert types(deliver_all(gateway)) == ["payment.refunded", "payment.return_undone"]
        assert moved() == [("charge", 1000), ("refund", 1000), ("refund_failed", 1000)]
        services.settle_by_hand(order_id="o", reason="bank transfer 7", by=decisions.Authority("ann"), now=NOW)
        assert types(work()) == ["payment.refunded"]
        assert (ledger.of_order("o").kept, moved()[-1]) == (0, ("refund", 1000))

    def test_follows_its_webhooks_in_any_order_and_number(self, gateway: ModelGateway) -> None:
        number = being_returned(gateway)
        gateway.refund_becomes("pay_1", number, RefundStatus.FAILED)
        deliver(*gateway.webhooks[::-1], *gateway.webhooks)
        work()
        assert (stored().status, stored().refusal) == ("refund_refused", "refund_failed")
        gateway.refunds_become = RefundStatus.SUCCEEDED
        services.try_return_again(order_id="o", now=timezone.now())
        work()
        again = [body.replace(b'"evt_', b'"evt_again_') for body in gateway.webhooks]  # the failed one as well
        deliver(*again, *gateway.webhooks[::-1])
        assert work() == []
        assert (stored().status, moved()) == ("refunded", [("charge", 1000), ("refund", 1000)])

    def test_of_the_release_before_is_known_without_a_name(self, gateway: ModelGateway) -> None:
        number = being_returned(gateway)
        held = gateway.payments["pay_1"]
        held.refunds[number] = held.refunds[number].__class__(**{**vars(held.refunds[number]), "refund_id": ""})
        Payment.objects.update(gateway_refund_id="")
        gateway.webhooks.clear()
        gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        assert types(deliver_all(gateway) + ask_again()) == ["payment.refunded"]

    def test_that_failed_before_its_success_was_heard_of_is_no_return(self, gateway: ModelGateway) -> None:
        number = being_returned(gateway)
        gateway.webhooks.clear()
        gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        gateway.refund_becomes("pay_1", number, RefundStatus.FAILED)
        overtaken, failed = gateway.webhooks
        deliver(failed)
        assert types(work()) == ["payment.return_refused"]
        services.try_return_again(order_id="o", now=timezone.now())  # the next one is on its way
        work()
        deliver(overtaken)
        ask_again()
        assert (stored().status, moved()) == ("refunding", [("charge", 1000)])
        assert len(gateway.payments["pay_1"].refunds) == 2

    def test_of_what_a_part_left_is_taken_back_while_the_rest_is_on_its_way(self, gateway: ModelGateway) -> None:
        payment = paid(gateway)
        part = services.Money(300, "USD")  # which the gateway has not heard of yet
        refunds.request(order_id="o", refund_id=str(uuid7()), money=part, reason="", now=NOW)
        gateway.refunds_become = RefundStatus.SUCCEEDED
        services.give_back(order_id="o", now=timezone.now())
        call = Outgoing.objects.filter(type="payments.turn_to_gateway").latest("id")
        assert (handle(call), moved()) == ([], [("charge", 1000), ("refund", 700)])
        gateway.refund_becomes("pay_1", stored().gateway_refund_id, RefundStatus.FAILED)
        deliver_all(gateway)
        assert (stored().status, stored().refusal) == ("refund_refused", "refund_failed")
        assert moved()[1:] == [("refund", 700), ("refund", 300), ("refund_failed", 700)]
        services.try_return_again(order_id="o", now=timezone.now())
        work()
        deliver_all(gateway)
        ask_again()
        assert (stored().status, gateway.payments["pay_1"].back) == ("refunded", 1000)
        assert ledger.of_order(payment.order_id).refunded == 1000

    @pytest.mark.parametrize("status", [RefundStatus.PENDING, RefundStatus.SUCCEEDED, RefundStatus.FAILED])
    def test_is_told_apart_from_one_by_hand(self, gateway: ModelGateway, status: RefundStatus) -> None:
        paid(gateway)
        services.give_back(order_id="o", now=timezone.now())
        gateway.refunds_become = status
        gateway.refunded("pay_1", amount=400)
        deliver(*gateway.webhooks)
        handle(Outgoing.objects.get(type="payments.handle_webhook", published_at=None))
        by_hand = Refund.objects.get(is_foreign=True)
        assert (by_hand.status, by_hand.amount) == (status, 400)
        assert (stored().status, stored().gateway_refund_id) == ("refunding", "")

    def test_is_of_what_parts_have_left(self, gateway: ModelGateway) -> None:
        paid(gateway)
        gateway.refunded("pay_1", amount=300, refund_id="a part", order_id="o")
        with transaction.atomic("payments"):
            ledger.hand_back(stored(), amount=300, refund_id=Outgoing().pk, gateway_id="re_part", now=NOW)
        gateway.webhooks.clear()
        services.give_back(order_id="o", now=timezone.now())
        assert types(work()) == ["payment.refunded"]
        assert (gateway.payments["pay_1"].back, ledger.of_order("o").refunded) == (1000, 1000)

    @pytest.mark.parametrize("decision", ["tries again", "settles by hand"])
    def test_that_was_refused_and_yet_made_is_shown_to_whoever_decides(
        self, gateway: ModelGateway, decision: str
    ) -> None:
        paid(gateway)
        services.give_back(order_id="o", now=timezone.now())
        with pytest.MonkeyPatch.context() as refusing:
            refusing.setattr(gateway, "refund", self.refuses)
            assert types(work()) == ["payment.return_refused"]
        gateway.refunded("pay_1", amount=1000, refund_id="o.refund", order_id="o")
        body = gateway.webhooks[-1]
        assert deliver_all(gateway) == []
        kept = WebhookReceipt.objects.filter(about="refund")
        assert list(kept.values_list("status", "reason")) == [("unmatched", "refund_exceeds_captured")]
        if decision == "tries again":
            services.try_return_again(order_id="o", now=timezone.now())
            assert types(work() + ask_again()) == ["payment.refunded"]
            assert (kept.get().status, moved()[1:]) == ("applied", [("refund", 1000)])
        else:
            with pytest.raises(services.NotHandledYet, match=kept.get().webhook_id):
                settle()
            decisions.discard(
                receipt_id=str(kept.get().pk), reason="not ours", by=decisions.Authority("ann"), now=timezone.now()
            )
            settle()
            work()
            deliver(body.replace(b'"evt_', b'"evt_again_'))
            ask_again()
            WebhookReceipt.objects.update(received_at=NOW - timedelta(hours=2))
            ask_again()
            assert set(kept.values_list("status", flat=True)) == {"discarded", "quarantined"}

    @pytest.mark.parametrize("said", ["paid", "refund on its way", "refund failed", "disputed"])
    def test_is_not_settled_by_hand_against_what_the_gateway_has_told(self, gateway: ModelGateway, said: str) -> None:
        number = being_returned(gateway)
        gateway.refund_becomes("pay_1", number, RefundStatus.FAILED)
        deliver_all(gateway)
        assert stored().status == "refund_refused"
        if said == "paid":
            gateway.change("pay_1", client_secret="")
        elif said == "disputed":
            gateway.disputes_payment("pay_1", amount=400)
        else:
            gateway.refunds_become = RefundStatus.FAILED if said == "refund failed" else RefundStatus.PENDING
            gateway.refunded("pay_1", amount=400)
        deliver(*gateway.webhooks)  # which no worker has handled yet
        if said == "refund failed":
            settle()  # its money is here
        else:
            with pytest.raises(services.NotHandledYet):
                settle()
            work()
            settle()
        assert stored().status == "refunded"

    def refuses(self, request: Any) -> Any:
        raise GatewayRefused("balance_insufficient")

    def test_of_money_that_came_in_late_is_told_once_its_failure_was(self, gateway: ModelGateway) -> None:
        begin()
        services.give_back(order_id="o", now=timezone.now())
        assert types(work()) == ["payment.voided"]
        gateway.pays("pay_1")
        assert types(deliver_all(gateway)) == []
        assert moved() == [("charge", 1000), ("refund", 1000)]
        gateway.refund_becomes("pay_1", stored().gateway_refund_id, RefundStatus.FAILED)
        assert types(deliver_all(gateway)) == ["payment.return_undone"]
        services.try_return_again(order_id="o", now=timezone.now())
        assert [(told["type"], told["amount"]) for told in work()] == [("payment.refunded", 1000)]

    def test_is_told_with_what_went_back(self, gateway: ModelGateway) -> None:
        paid(gateway)
        gateway.dispute_becomes("pay_1", gateway.disputes_payment("pay_1", amount=400), DisputeStatus.LOST)
        deliver_all(gateway)
        services.give_back(order_id="o", now=timezone.now())
        assert [(told["type"], told["amount"]) for told in work()] == [("payment.refunded", 600)]

    def test_of_nothing_asks_nobody(self, gateway: ModelGateway) -> None:
        paid(gateway)
        with transaction.atomic("payments"):
            ledger.hand_back(stored(), amount=1000, refund_id=Outgoing().pk, gateway_id="re_part", now=NOW)
        gateway.calls.clear()
        services.give_back(order_id="o", now=timezone.now())
        assert (types(work()), gateway.calls) == (["payment.refunded"], [])


def settle() -> None:
    services.settle_by_hand(order_id="o", reason="transfer", by=decisions.Authority("ann"), now=timezone.now())


# Faults -------------------------------------------------------------------------------------------------------------


class TestAGatewayThatBreaks:
    @pytest.mark.parametrize("fault", ["broke", "broke_late", "lost", "down"])
    def test_at_the_request_makes_one_payment(self, gateway: ModelGateway, fault: str) -> None:
        """A saved error would be repeated under the same key for ever."""
        gateway.fault = fault
        begin()
        ask_again()
        assert (len(gateway.payments), stored().status) == (1, "pending")

    @pytest.mark.parametrize("fault", ["broke", "broke_late", "lost"])
    def test_at_the_capture_takes_the_money_once(self, gateway: ModelGateway, fault: str) -> None:
        authorized(gateway)
        services.capture(order_id="o", amount=900, now=timezone.now())
        fail_at(gateway, "capture", fault)
        told = work() + ask_again() + deliver_all(gateway)
        assert (types(told), moved()) == (["payment.succeeded"], [("charge", 900)])

    @pytest.mark.parametrize("fault", ["broke", "broke_late", "lost"])
    def test_at_the_refund_returns_the_money_once(self, gateway: ModelGateway, fault: str) -> None:
        paid(gateway)
        services.give_back(order_id="o", now=timezone.now())
        fail_at(gateway, "refund", fault)
        told = work() + ask_again() + ask_again() + deliver_all(gateway)
        assert (types(told), moved()) == (["payment.refunded"], [("charge", 1000), ("refund", 1000)])
        assert gateway.payments["pay_1"].back == 1000

    @pytest.mark.parametrize("does", ["pays", "declines"])
    def test_and_yet_has_made_two_payments_keeps_one(
        self, gateway: ModelGateway, does: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway.fault = "broke_late"
        with monkeypatch.context() as late:
            late.setattr(gateway, "status", lambda **which: None)  # it does not list what it has made
            begin()
            ask_again()
        assert (set(gateway.payments), stored().gateway_payment_id) == ({"pay_1", "pay_2"}, "pay_2")
        getattr(gateway, does)("pay_1")
        deliver_all(gateway)
        gateway.pays("pay_2")
        assert "payment.succeeded" in types(deliver_all(gateway))
        first = gateway.payments["pay_1"]
        assert first.is_all_gone or first.answer.status == Status.CANCELED
        assert (moved(), set(WebhookReceipt.objects.values_list("status", flat=True))) == (
            [("charge", 1000)], {"refunded", "applied"} | ({"discarded"} if does == "pays" else set()),
        )  # fmt: skip


class TestAGatewayThatRefusesToTell:
    """It says nothing of what is to be done, which may have been done already."""

    @pytest.mark.parametrize("what", ["status", "refunds"])
    def test_refuses_no_refund(self, gateway: ModelGateway, what: str) -> None:
        paid(gateway)
        services.give_back(order_id="o", now=timezone.now())
        fail_at(gateway, "refund", "lost")
        work()
        assert (stored().status, gateway.payments["pay_1"].back) == ("refunding", 1000)
        assert self.asked(gateway, what) == []
        assert stored().status == "refunding"
        assert types(ask_again()) == ["payment.refunded"]
        assert (gateway.payments["pay_1"].back, moved()) == (1000, [("charge", 1000), ("refund", 1000)])

    def test_refuses_no_capture(self, gateway: ModelGateway) -> None:
        authorized(gateway)
        services.capture(order_id="o", amount=900, now=timezone.now())
        assert self.asked(gateway, "status") == []
        assert stored().status == "capturing"
        assert types(ask_again()) == ["payment.succeeded"]

    def test_refuses_no_cancellation(self, gateway: ModelGateway) -> None:
        begin()
        services.give_back(order_id="o", now=timezone.now())
        assert self.asked(gateway, "status") == []
        assert stored().status == "voiding"
        assert types(ask_again()) == ["payment.voided"]

    def test_refuses_no_payment_that_it_may_have_made(self, gateway: ModelGateway) -> None:
        gateway.fault = "broke_late"
        begin()
        assert self.asked(gateway, "status") == []
        assert stored().status == "requested"
        ask_again()
        assert (len(gateway.payments), stored().status) == (1, "pending")

    def asked(self, gateway: ModelGateway, what: str) -> list[dict[str, Any]]:
        """Have the gateway asked while it refuses to tell this."""

        def refuse(**which: Any) -> Any:
            raise GatewayRefused("parameter_unknown")

        setattr(gateway, what, refuse)
        told = work() + ask_again()
        delattr(gateway, what)
        return told


def fail_at(gateway: ModelGateway, name: str, fault: str) -> None:
    """Have the next call of this kind fail."""
    proper = getattr(gateway, name)

    def failing(request: Any) -> Any:
        gateway.fault = fault
        setattr(gateway, name, proper)
        return proper(request)

    setattr(gateway, name, failing)


# Webhooks -----------------------------------------------------------------------------------------------------------


class TestAWebhook:
    def test_that_differs_in_what_is_about_the_delivery_is_the_same(self, gateway: ModelGateway) -> None:
        begin()
        gateway.pays("pay_1")
        body = gateway.webhooks[0]
        deliver(body, body[:-1] + b', "pending_webhooks": 2}')
        assert WebhookReceipt.objects.count() == 1
        with pytest.raises(receipts.WebhookIdReused):
            deliver(body.replace(b"1000", b"1"))

    def test_that_the_release_before_would_misread_waits_for_the_end_of_the_upgrade(
        self, gateway: ModelGateway, settings: Any
    ) -> None:
        number = being_returned(gateway)
        gateway.refund_becomes("pay_1", number, RefundStatus.SUCCEEDED)
        settings.UPGRADING = True
        assert deliver_all(gateway) == []
        assert receipts.sweep() == 0
        assert set(WebhookReceipt.objects.filter(about="refund").values_list("status", "reason")) == {
            ("received", "upgrading")
        }
        settings.UPGRADING = False
        assert receipts.sweep() == 2
        assert types(work()) == ["payment.refunded"]
        assert receipts.sweep() == 0

    def test_about_a_refund_of_a_payment_that_nobody_here_knows_is_discarded(self, gateway: ModelGateway) -> None:
        paid(gateway)
        gateway.refunded("pay_1", amount=5)
        Payment.objects.update(gateway_payment_id="pay_9")
        assert deliver_all(gateway) == []
        assert list(WebhookReceipt.objects.filter(about="refund").values_list("status", "reason")) == [
            ("discarded", "unknown_payment")
        ]


# Anything, in any order ---------------------------------------------------------------------------------------------

FAULTS = ("", "", "", "down", "lost", "broke", "broke_late")
THINGS = (
    "work",
    "work",
    "work",
    "ask",
    "deliver",
    "payer",
    "payer",
    "refund",
    "refund",
    "capture",
    "withdraw",
    "again",
)


@given(st.integers(0, 2**32))
def test_whatever_happens_the_ledger_says_what_the_gateway_has(seed: int) -> None:
    chance = random.Random(seed)  # which varies more than what Hypothesis draws in few examples
    with transaction.atomic("payments"):
        gateway = installed(operator.setitem)
        services.charge_gateway(order_id="o", money=MONEY, now=timezone.now(), is_manual=chance.random() < 0.5)
        seen: list[bytes] = []
        told: list[str] = []
        beginning = chance.choice(["", "paid", "withdrawn"])
        if beginning:
            told += types(work())
            gateway.pays("pay_1")
            seen += gateway.webhooks
            told += types(deliver_all(gateway))
        if beginning == "withdrawn":
            gateway.refunds_become = chance.choice(list(RefundStatus))
            services.give_back(order_id="o", now=timezone.now())
            told += types(work())
        for _ in range(chance.randint(0, 10)):
            gateway.fault = chance.choice(FAULTS)
            told += happen(gateway, chance, seen)
        gateway.fault = ""
        told += types(work())
        seen += gateway.webhooks
        deliver(*chance.sample(seen, len(seen)))
        told += types(work())
        for _ in range(3):
            told += types(ask_again())
            deliver(*gateway.webhooks)
            told += types(work())
        assert_agrees(gateway, told)
        transaction.set_rollback(True, "payments")


def happen(gateway: ModelGateway, chance: random.Random, seen: list[bytes]) -> list[str]:
    """Let one thing happen to the order, at the gateway, or on the way between, and return what orders is told."""
    thing = chance.choice(THINGS)
    payment_id = stored().gateway_payment_id
    match thing:
        case "work":
            waiting = list(Outgoing.objects.filter(published_at=None).order_by("id"))
            return types(handle(chance.choice(waiting))) if waiting else []
        case "ask":
            return types(ask_again())
        case "deliver" if gateway.webhooks:
            seen.append(body := gateway.webhooks.pop(chance.randrange(len(gateway.webhooks))))
            deliver(body)
        case "payer" if payment_id:
            at_the_gateway(gateway, payment_id, chance)
        case "refund" if payment_id:
            gateway.refunds_become = chance.choice(list(RefundStatus))
            for number, refund in gateway.payments[payment_id].refunds.items():
                later = list(RefundStatus)[list(RefundStatus).index(refund.status) + 1 :]  # pending, succeeded, failed
                if later:
                    gateway.refund_becomes(payment_id, number, chance.choice(later))
        case "again" if stored().status in Payment.REFUSED:
            services.try_return_again(order_id="o", now=timezone.now())
        case "capture" if stored().status == "authorized":
            services.capture(order_id="o", amount=chance.randint(1, 1000), now=timezone.now())
        case "withdraw":
            services.give_back(order_id="o", now=timezone.now())
    return []


def at_the_gateway(gateway: ModelGateway, payment_id: str, chance: random.Random) -> None:
    """Let the payer, or somebody at the gateway, do what the status of the payment there allows."""
    status = gateway.payments[payment_id].answer.status
    if status == Status.PENDING:
        chance.choice([gateway.pays, gateway.declines])(payment_id)
    elif status == Status.AUTHORIZED:
        amount = chance.randint(0, 1000)
        if amount:
            gateway.captures_by_hand(payment_id, amount)
        else:
            gateway.change(payment_id, status=Status.CANCELED)


def assert_agrees(gateway: ModelGateway, told: list[str]) -> None:
    payment, money = stored(), ledger.of_order("o")
    assert 0 <= money.refunded <= money.captured <= 1000
    held = [one for one in gateway.payments.values() if one.answer.status == Status.SUCCEEDED]
    assert len(held) <= 1
    assert money.captured == sum(one.answer.taken for one in held)
    assert money.refunded == sum(one.back for one in held)
    if payment.status in ("voided", "refunded", "failed"):
        assert money.kept == 0
    if payment.status in ("succeeded", "refunding", "refund_refused"):
        assert money.kept > 0
    assert told.count("payment.succeeded") <= 1 or payment.status == "succeeded"
    assert not WebhookReceipt.objects.filter(status__in=decisions.OPEN).exists()
