"""Which transaction belongs to which entry: by the id of a refund or dispute, else by payment and amount."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from common.audit import Scope
from orders_project.audit import CHECKS
from orders_project.observability import status
from orders_project.observability.metrics import Stored, readings
from payments.books import comparison
from payments.books.reconcile import reconcile_told
from payments.gateways import stripe_objects
from payments.gateways.base import Transaction
from payments.ledger import CASH, REVENUE, system_account
from payments.models import Difference, Entry, GatewayTransaction, Payment, Reconciliation, Refund

pytestmark = pytest.mark.django_db

Kind = Transaction.Kind
NOW = timezone.now()
AT = NOW - timedelta(hours=5)
OUT = ("refund", "dispute")


def pay(order_id: str = "o", *, status: str = "succeeded", amount: int = 1000) -> Payment:
    return Payment.objects.create(
        order_id=order_id, method="gateway", gateway="fake", gateway_payment_id=f"pi_{order_id}", amount=amount,
        currency="USD", status=status,
    )  # fmt: skip


def booked(kind: str, amount: int, gateway_id: str = "", *, order_id: str = "o", refund_id: Any = None) -> Entry:
    cash, revenue = (system_account(name, currency="USD") for name in (CASH, REVENUE))
    source, target = (revenue, cash) if kind in OUT else (cash, revenue)
    return Entry.objects.create(
        kind=kind, source=source, target=target, amount=amount, currency="USD", order_id=order_id,
        gateway_id=gateway_id, refund_id=refund_id, at=AT,
    )  # fmt: skip


def told(kind: str, amount: int, source_id: str = "", *, order_id: str = "o") -> Transaction:
    return Transaction(
        transaction_id=f"t{uuid4().hex}", kind=Kind(kind), amount=amount, fee=0, currency="USD", at=AT,
        payment_id=f"pi_{order_id}", source_id=source_id or (f"pi_{order_id}" if kind == "charge" else ""),
    )  # fmt: skip


def compare(*transactions: Transaction) -> dict[str, int]:
    """How many there are of each outcome."""
    run = reconcile_told(
        gateway="fake", told=transactions, source="test", now=timezone.now(), since=NOW - timedelta(days=1), until=NOW
    )
    found: dict[str, int] = {}
    for one in run.found:
        found[one["outcome"]] = found.get(one["outcome"], 0) + one["count"]
    return found


@pytest.fixture
def paid() -> Payment:
    payment = pay()
    booked("charge", 1000)
    return payment


CHARGE = ("charge", 1000)


@pytest.mark.usefixtures("paid")
class TestRefunds:
    def test_are_known_by_their_ids_in_any_order(self) -> None:
        booked("refund", 300, "re_1", refund_id=uuid4())
        booked("refund", 300, "re_2", refund_id=uuid4())
        assert compare(told(*CHARGE), told("refund", 300, "re_2"), told("refund", 300, "re_1")) == {"matched": 3}

    def test_of_another_id_are_others_even_with_the_same_amount(self) -> None:
        booked("refund", 300, "re_1", refund_id=uuid4())
        assert compare(told(*CHARGE), told("refund", 300, "re_9")) == {
            "matched": 1, "missing_here": 1, "missing_there": 1,
        }  # fmt: skip

    def test_without_an_id_on_one_side_are_known_by_their_amounts(self) -> None:
        booked("refund", 300)
        booked("refund", 200, "re_2", refund_id=uuid4())
        assert compare(told(*CHARGE), told("refund", 200), told("refund", 300, "re_1")) == {"matched": 3}

    def test_without_an_id_and_of_another_amount_differ(self) -> None:
        booked("refund", 300)
        assert compare(told(*CHARGE), told("refund", 299, "re_1")) == {"matched": 1, "differing": 1}

    def test_are_known_by_the_id_of_the_refund_or_of_the_withdrawal(self, paid: Payment) -> None:
        refund = Refund.objects.create(
            payment=paid, amount=300, currency="USD", status="succeeded", gateway="fake", gateway_refund_id="re_1",
            created_at=NOW, updated_at=NOW,
        )  # fmt: skip
        booked("refund", 300, refund_id=refund.pk)
        Payment.objects.update(gateway_refund_id="re_2")
        booked("refund", 700)
        assert compare(told(*CHARGE), told("refund", 700, "re_2"), told("refund", 300, "re_1")) == {"matched": 3}

    def test_that_the_gateway_has_yet_to_carry_out_are_in_flight(self, paid: Payment) -> None:
        Refund.objects.create(
            payment=paid, amount=300, currency="USD", status="pending", gateway="fake", gateway_refund_id="re_1",
            created_at=NOW, updated_at=NOW,
        )  # fmt: skip
        assert compare(told(*CHARGE), told("refund", 300, "re_1")) == {"matched": 1, "in_flight": 1}

    def test_that_have_failed_before_they_were_booked_are_no_difference(self) -> None:
        failed = told("refund", 300, "re_1"), told("refund_failed", 300, "re_1")
        assert compare(told(*CHARGE), *failed) == {"matched": 1, "returned": 2}

    def test_that_have_failed_afterwards_are_two_entries(self) -> None:
        booked("refund", 300, "re_1", refund_id=uuid4())
        failed = told("refund", 300, "re_1"), told("refund_failed", 300, "re_1")
        assert compare(told(*CHARGE), *failed) == {"matched": 2, "missing_here": 1}
        booked("refund_failed", 300, "re_1", refund_id=uuid4())
        assert compare(told("dispute", 5, "du_1")) == {"matched": 3, "missing_here": 1}


class TestDisputes:
    def test_are_known_by_their_ids(self, paid: Payment) -> None:
        booked("dispute", 1000, "du_1")
        booked("dispute_won", 1000, "du_1")
        both = told("dispute", 1000, "du_1"), told("dispute_won", 1000, "du_1")
        assert compare(told(*CHARGE), *both) == {"matched": 3}


class TestMoneyThatNobodyWasToHave:
    def test_and_that_went_back_is_no_difference(self) -> None:
        pay(status="voided")
        charge, refund = told("charge", 999), told("refund", 999, "re_1")
        assert compare(charge) == {"missing_here": 1}
        assert compare(charge, refund) == {"returned": 2}
        assert Difference.objects.get().status == "repaired"

    def test_is_one_if_its_payment_has_succeeded(self) -> None:
        pay()
        assert compare(told("charge", 1000), told("refund", 1000, "re_1")) == {"missing_here": 2}


def test_payments_from_accounts_and_other_gateways_are_not_compared() -> None:
    for order_id, method, gateway in (("a", "account", ""), ("s", "gateway", "stripe")):
        Payment.objects.create(
            order_id=order_id, method=method, gateway=gateway, amount=1, currency="USD", status="succeeded"
        )
        booked("charge", 1, order_id=order_id)
    pay()
    booked("charge", 1000)
    assert compare(told(*CHARGE)) == {"matched": 1}


def test_an_entry_that_is_made_late_finds_its_old_transaction(paid: Payment) -> None:
    old = Transaction(
        transaction_id="old", kind=Kind.REFUND, amount=5, fee=0, currency="USD", at=AT - timedelta(days=60),
        payment_id="pi_o", source_id="re_1",
    )  # fmt: skip
    run = reconcile_told(gateway="fake", told=[old], source="test", now=timezone.now())
    assert [one["outcome"] for one in run.found] == ["missing_here"]
    booked("refund", 5, "re_1", refund_id=uuid4())
    charge = told(*CHARGE)
    assert compare(charge) == {"matched": 2}  # an open difference counts whatever the period is
    assert Difference.objects.get().status == "repaired"
    assert compare(charge) == {"matched": 1}


AMOUNTS = st.integers(min_value=1, max_value=3)
PARTS = st.lists(st.tuples(st.sampled_from(["refund", "refund_failed", "dispute"]), AMOUNTS, st.booleans()), max_size=6)


@given(parts=PARTS, lost=st.sets(st.integers(0, 5)), untold=st.sets(st.integers(0, 5)), turn=st.randoms())
@effort(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_sums_of_what_is_reported_explain_the_difference_of_both_sides(
    parts: Any, lost: Any, untold: Any, turn: Any
) -> None:
    """Whatever is missing where, in whatever order: there − here is what the differences say, and no pair is torn."""
    with transaction.atomic(using="payments"):
        pay()
        booked("charge", 1000)
        transactions = [told(*CHARGE)]
        for number, (kind, amount, has_id) in enumerate(parts):
            if number not in lost:
                booked(kind, amount, f"x{number}" if has_id else "", refund_id=uuid4())
            if number not in untold:
                transactions.append(told(kind, amount, f"x{number}"))
        turn.shuffle(transactions)
        found = compare(*transactions)
        assert sum(found.values()) - found.get("matched", 0) - found.get("differing", 0) <= len(parts)
        open_ = Difference.objects.filter(status="open").values_list("what", "amount_there", "amount_here")
        reported = sum(_sign(what) * ((there or 0) - (here or 0)) for what, there, here in open_)
        gateway = sum(_sign(one.kind) * one.amount for one in GatewayTransaction.objects.all())
        ledger = sum(_sign(entry.kind) * entry.amount for entry in Entry.objects.all())
        assert reported == gateway - ledger
        if not lost and not untold:
            assert set(found) <= {"matched"}
        transaction.set_rollback(True, using="payments")


def _sign(kind: str) -> int:
    return -1 if kind in OUT else 1


class TestWhoWatches:
    def test_sees_open_differences_everywhere(self, paid: Payment) -> None:
        found = {rule.name: rule for rule in CHECKS.values()}["gateway"]
        scope = Scope(now=NOW, window=timedelta(days=1), grace=timedelta(0))
        assert list(found.check(scope)) == []
        compare(told("charge", 999))
        (finding,) = found.check(scope)
        assert (finding.order_id, finding.subject) == ("o", str(Difference.objects.get().pk))
        assert "999 USD at fake, 1000 USD in the ledger" in finding.detail
        assert measured()["gateway_differences", "differing"] == 1
        looked = status.look()
        assert looked.gateway_differences["differing"] == 1
        assert any("Differences with the gateway: 1." in trouble for trouble in looked.troubles)

    def test_sees_how_old_the_last_comparison_is(self) -> None:
        assert ("reconciliation_age_seconds", "") not in measured()
        ended = {"gateway": "fake", "since": AT, "until": NOW, "started_at": timezone.now() - timedelta(hours=40)}
        Reconciliation.objects.create(**ended, status="failed", finished_at=NOW)
        Reconciliation.objects.create(**ended | {"gateway": "paypal"}, status="succeeded", source="a.csv")
        assert measured()["reconciliation_age_seconds", ""] >= 40 * 3600
        looked = status.look()
        assert any("40 hours ago" in trouble for trouble in looked.troubles)
        Reconciliation.objects.create(**ended, status="succeeded", finished_at=NOW)
        assert measured()["reconciliation_age_seconds", ""] < 3600


def measured() -> dict[tuple[str, str], float]:
    """The gauges, by name and kind."""
    names = {"gateway_differences", "reconciliation_age_seconds"}
    chosen = tuple(one for one in readings() if set(one.gauges) & names)
    return {
        (name, str(row.get("kind", ""))): float(row[name])
        for reading, rows in Stored(chosen).rows()
        for row in rows
        for name in reading.gauges
    }


def test_an_order_is_compared_with_all_that_is_stored_of_it_in_batches(
    paid: Payment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "BATCH", 1)
    for order_id in "abc":
        pay(order_id)
        booked("charge", 1000, order_id=order_id)
    assert compare(told(*CHARGE), *(told(*CHARGE, order_id=one) for one in "abc")) == {"matched": 4}


def test_a_payment_that_the_gateway_has_converted_is_compared_in_its_own_currency() -> None:
    """The balance of the account at Stripe is in dollars, and so is the fee; the payment was in euros."""
    Payment.objects.create(
        order_id="o", method="gateway", gateway="fake", gateway_payment_id="pi_o", amount=1000, currency="EUR",
        status="succeeded",
    )  # fmt: skip
    cash, revenue = (system_account(name, currency="EUR") for name in (CASH, REVENUE))
    Entry.objects.create(kind="charge", source=cash, target=revenue, amount=1000, currency="EUR", order_id="o", at=AT)
    charge = {
        "object": "charge", "id": "ch_1", "payment_intent": "pi_o", "currency": "eur", "amount": 1500,
        "amount_captured": 1000,
    }  # fmt: skip
    balance = {
        "id": "txn_1", "reporting_category": "charge", "amount": 1085, "fee": 61, "currency": "usd",
        "exchange_rate": 1.085, "created": int(AT.timestamp()), "source": charge,
    }  # fmt: skip
    assert compare(stripe_objects.transaction(balance)) == {"matched": 1}
    fee = Entry.objects.get(kind="fee")
    assert (fee.amount, fee.currency, fee.source.currency, fee.target.currency) == (61, "USD", "USD", "USD")


def test_nobody_can_book_a_fee_twice() -> None:
    payout = Transaction(transaction_id="po", kind=Kind.OTHER, amount=5, fee=3, currency="USD", at=AT)
    compare(payout)
    GatewayTransaction.objects.all().delete()
    compare(payout)
    entry = Entry.objects.get()
    with pytest.raises(IntegrityError), transaction.atomic(using="payments"):
        Entry.objects.create(
            kind="fee", source=entry.source, target=entry.target, amount=1, currency="USD", gateway_id="po", at=NOW
        )
