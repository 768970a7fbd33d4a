"""The table of a payment: every pair is decided once, every path can end, and each pair is carried out as it says."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import transaction
from django.forms.models import model_to_dict
from django.utils import timezone

from common.audit import Scope
from common.state_diagram import with_diagram
from payments import audit, diagram, effects, gateway_calls, lifecycle, receipts, services
from payments.gateways.base import RefundAnswer, RefundStatus
from payments.gateways.base import Status as GatewayStatus
from payments.ledger import CASH, capture, hand_back, system_account
from payments.lifecycle import ASK_AT, NEW, OTHERWISE, SETTLED, STEPS, Event, Otherwise, Status
from payments.models import Account, Entry, Outgoing, Payment

NOW = timezone.now()
OF_RETURNS = (Event.RETURN_PENDING, Event.RETURNED, Event.RETURNED_IN_PART, Event.RETURN_FAILED, Event.RETURN_UNDONE)
BEGINNINGS = [event for status, event in STEPS if status is NEW]


@pytest.mark.parametrize("status", Status)
def test_every_pair_is_decided_exactly_once(status: Status) -> None:
    for event in Event:
        decisions = [decision for decision, statuses in OTHERWISE[event].items() if status in statuses]
        assert len(decisions) + ((status, event) in STEPS) == 1, (event, decisions)


def test_every_event_and_decision_is_in_the_table() -> None:
    assert set(OTHERWISE) == set(Event)
    assert set(lifecycle.CARRY_OUT) == set(Otherwise)


def reachable(*begin: Status) -> set[Status]:
    seen, waiting = set(begin), list(begin)
    while waiting:
        status = waiting.pop()
        new = {step.becomes for (source, _), step in STEPS.items() if source == status} - seen
        seen |= new
        waiting += new
    return seen


def test_every_status_can_be_reached() -> None:
    assert reachable(*(STEPS[NEW, event].becomes for event in BEGINNINGS)) == set(Status)


@pytest.mark.parametrize("status", sorted(Payment.ASKED))
def test_every_path_can_end(status: Status) -> None:
    assert reachable(status) & set(SETTLED)


def test_the_gateway_is_asked_about_all_that_is_not_settled() -> None:
    assert set(Payment.ASKED) == set(ASK_AT) == set(gateway_calls.CALLS) == set(Status) - set(lifecycle.RESTING)


def test_what_is_booked_is_what_has_happened() -> None:
    for (was, event), step in STEPS.items():
        comes_in = event in (Event.PAID, Event.WEBHOOK_PAID)
        goes_back = step.becomes == Status.REFUNDED or event == Event.RETURNED_IN_PART
        assert comes_in == (effects.record_capture in step.does), (was, event)
        assert goes_back == (effects.return_money in step.does), (was, event)
        assert (event == Event.RETURN_UNDONE) == (effects.take_return_back in step.does), (was, event)


def test_whatever_the_gateway_says_is_an_event() -> None:
    assert set(gateway_calls.ANSWERS) == set(receipts.EVENTS) == set(GatewayStatus)


def test_orders_is_told_each_settled_status_but_for_money_that_comes_in_late() -> None:
    for pair, step in STEPS.items():
        if step.becomes in lifecycle.RESTING:
            assert step.does[-1] in (effects.announce, effects.announce_refund, effects.announce_undone), pair


# The table is carried out as it says --------------------------------------------------------------------------------


def payment_in(status: Status) -> Payment:
    """A payment with the entries that belong to its status."""
    payment = Payment.objects.create(
        order_id="o", method="gateway", gateway="fake", gateway_payment_id="pay_o", amount=500, currency="USD",
        status=status, unanswered=3, fail_reason="payment_declined" if status == Status.FAILED else "",
        client_secret="secret", next_action={"type": "redirect", "url": "https://example.com"}, is_manual=True,
    )  # fmt: skip
    with transaction.atomic(using="payments"):
        if status in (Status.SUCCEEDED, Status.REFUNDING, Status.REFUNDED, Status.REFUND_REFUSED):
            capture(payment, source=system_account(CASH, currency="USD"), amount=500, now=NOW)
        if status == Status.REFUNDED:
            hand_back(payment, amount=500, gateway_id="re_o", now=NOW)
    return payment


REFUND = RefundAnswer(
    gateway_refund_id="re_o", payment_id="pay_o", status=RefundStatus.SUCCEEDED, amount=500, currency="USD"
)


def expected_messages(does: tuple[effects.Effect, ...], payment: Payment) -> list[str]:
    types: dict[effects.Effect, str] = {
        effects.call_gateway: "payments.turn_to_gateway",
        effects.announce_refund: "payment.refunded",
        effects.announce_undone: "payment.return_undone",
    }
    announcement = effects.ANNOUNCEMENTS.get(Status(payment.status))
    types[effects.announce] = announcement(payment).type if announcement else ""
    return [types[effect] for effect in does if types.get(effect)]


def posted() -> list[str]:
    return list(Outgoing.objects.order_by("id").values_list("type", flat=True))


def assert_ledger_is_right() -> None:
    assert list(audit.ledger(Scope(now=NOW, window=timedelta(0), grace=timedelta(0)))) == []


@pytest.mark.django_db
@pytest.mark.parametrize("status", Status)
def test_a_payment_does_as_the_table_says(status: Status) -> None:
    payment_in(status)
    for event in Event:
        with transaction.atomic(using="payments"):
            assert_does_as_the_table_says(Payment.objects.get(), event)
            transaction.set_rollback(True, using="payments")


def assert_does_as_the_table_says(payment: Payment, event: Event) -> None:
    status = Status(payment.status)
    if event == Event.RETURN_UNDONE and status in (Status.REFUNDING, Status.REFUND_REFUSED):
        hand_back(payment, amount=500, gateway_id="re_o", now=NOW)  # which had succeeded, as all that was left then
    before, entries = model_to_dict(payment), Entry.objects.count()
    step = STEPS.get((status, event))
    decision = lifecycle.otherwise(status, event) if step is None else None
    if decision == Otherwise.CONTRADICTION:
        with pytest.raises(lifecycle.Contradiction):
            lifecycle.advance(payment, event, now=NOW)
    else:
        refund = None if event not in OF_RETURNS else REFUND
        lifecycle.advance(payment, event, now=NOW, refusal="charge_disputed", refund=refund)
    after = Payment.objects.get()
    if step is not None:
        assert after.status == step.becomes
        assert after.fail_reason == (before["fail_reason"] or step.reason)
        assert (after.ask_at is not None) == (step.becomes in Payment.ASKED)
        assert after.unanswered == 0
        is_refused = step.becomes in Payment.REFUSED
        assert (after.refusal, after.refusals) == (("charge_disputed", 1) if is_refused else ("", 0))
        assert posted() == expected_messages(step.does, after)
        assert bool(after.client_secret) == bool(after.next_action) == (step.becomes in Payment.PAYABLE)
        moving = {effects.record_capture, effects.return_money, effects.take_return_back}
        assert Entry.objects.count() - entries == len(moving & set(step.does))
        assert_ledger_is_right()
    elif decision == Otherwise.AGAIN:
        assert after.unanswered == 3
        assert after.ask_at is not None
        assert timedelta(seconds=8) <= after.ask_at - NOW <= timedelta(seconds=10)
        assert posted() == []
    else:
        assert model_to_dict(after) == before
        assert posted() == (expected_messages((effects.announce,), after) if decision == Otherwise.REPEAT else [])


@pytest.mark.django_db
@pytest.mark.parametrize("event", BEGINNINGS)
def test_a_payment_begins_as_the_table_says(event: Event) -> None:
    source = Account.objects.create(user_id="ann", currency="USD", balance=500)
    Entry.objects.create(
        kind="deposit", source=system_account(CASH, currency="USD"), target=source, amount=500, currency="USD", at=NOW
    )
    amount = 0 if event in (Event.NOTHING_TO_PAY, Event.WITHDRAW_HERE) else 500
    for _ in range(2):  # the second one finds the payment of the first
        with transaction.atomic(using="payments"):
            payment = lifecycle.begin(
                Payment(order_id="o", amount=amount, currency="USD"), event, now=NOW, reason="no_account", source=source
            )
    step = STEPS[NEW, event]
    assert (payment.status, Payment.objects.get().status) == (step.becomes, step.becomes)
    assert (payment.ask_at is not None) == (step.becomes in Payment.ASKED)
    repeated = expected_messages((effects.announce,), payment)
    assert posted() == [*expected_messages(step.does, payment), *repeated]
    assert Entry.objects.filter(kind="charge").count() == (effects.charge_account in step.does)
    assert_ledger_is_right()


@pytest.mark.django_db
@pytest.mark.parametrize("share", [-1, 0, 0.5, 1, 1.1])
def test_no_more_is_captured_than_is_reserved(share: float) -> None:
    payment = payment_in(Status.AUTHORIZED)
    amount = int(payment.amount * share)
    if not 0 < share <= 1:
        with pytest.raises(services.NothingReserved), transaction.atomic(using="payments"):
            services.capture(order_id=payment.order_id, amount=amount, now=NOW)
        return
    services.capture(order_id=payment.order_id, amount=amount, now=NOW)
    services.capture(order_id=payment.order_id, amount=1, now=NOW)  # too late
    payment.refresh_from_db()
    assert (payment.status, payment.to_capture) == ("capturing", amount)


@pytest.mark.django_db
@pytest.mark.parametrize(("tried_at", "status"), [(None, "voided"), (NOW, "voiding")])
def test_what_the_gateway_may_know_is_withdrawn_there(tried_at: Any, status: str) -> None:
    payment = payment_in(Status.REQUESTED)
    Payment.objects.update(tried_at=tried_at, gateway_payment_id="")
    assert services.give_back(order_id=payment.order_id, now=NOW).status == status


@pytest.mark.django_db
def test_an_account_without_enough_money_makes_a_failed_payment() -> None:
    source = Account.objects.create(user_id="ann", currency="USD", balance=0)
    with transaction.atomic(using="payments"):
        payment = lifecycle.begin(
            Payment(order_id="o", amount=500, currency="USD"), Event.CHARGE_ACCOUNT, now=NOW, source=source
        )
    assert (payment.status, Payment.objects.get().status) == ("failed", "failed")
    assert Payment.objects.get().fail_reason == "insufficient_funds"
    assert posted() == ["payment.failed"]
    assert_ledger_is_right()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("age", "wait"),
    [
        (timedelta(0), timedelta(minutes=5)),
        (timedelta(minutes=6), timedelta(minutes=24)),
        (timedelta(hours=1), timedelta(hours=1)),
        (timedelta(days=3), timedelta(days=1)),
    ],
)
def test_a_pending_payment_is_checked_less_and_less_often(age: timedelta, wait: timedelta) -> None:
    payment = payment_in(Status.PENDING)
    payment.created_at = NOW - age
    with transaction.atomic(using="payments"):
        lifecycle.advance(payment, Event.PENDING, now=NOW)
    assert Payment.objects.get().ask_at == NOW + wait


# Its diagram --------------------------------------------------------------------------------------------------------


def test_the_docs_show_the_table_as_it_is() -> None:
    text = Path(settings.BASE_DIR / "docs" / "architecture.md").read_text()
    drawn = with_diagram(text, diagram.mermaid(), command="payment_lifecycle")
    assert drawn == text, "run manage.py payment_lifecycle"


def test_the_command_prints_every_pair_and_draws(tmp_path: Path, capsys: Any) -> None:
    docs = tmp_path / "page.md"
    docs.write_text(
        "before\n<!-- payment_lifecycle: written by manage.py payment_lifecycle --><!-- end of payment_lifecycle -->\n"
    )
    call_command("payment_lifecycle", docs=docs)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(BEGINNINGS) + len(Status) * len(Event)
    assert any(line.split() == ["succeeded", "webhook", "not", "paid", *["refused", "as", "a", "contradiction"]]
               for line in printed)  # fmt: skip
    assert diagram.decision(Status.VOIDING, Event.PAID) == "refunding, does record capture, call gateway"
    assert "    failed --> refunding: webhook paid / record capture, call gateway\n" in docs.read_text()
