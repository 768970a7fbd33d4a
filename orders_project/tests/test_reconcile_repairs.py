"""What differs from the gateway is repaired: what it says happens, stray money goes back, or a person accepts it."""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from common.authority import Authority, NeedsSecondPerson, ReasonMissing
from common.money import Money
from orders_project.tests.carrier import Carrier
from outbox.ids import uuid7
from payments import gateways, receipts, refunds, services
from payments.books import repairs
from payments.books.reconcile import reconcile, reconcile_nightly
from payments.gateways.base import (
    Answer,
    DisputeAnswer,
    DisputeStatus,
    GatewayRefused,
    GatewayUnavailable,
    PaymentRequest,
    RefundAnswer,
    RefundRequest,
    RefundStatus,
    Status,
    Transaction,
)
from payments.gateways.fake import FakeGateway
from payments.models import Difference, Entry, Payment, Reconciliation, WebhookReceipt

pytestmark = pytest.mark.django_db

Kind = Transaction.Kind
NOW = timezone.now()
LONG_AGO = timedelta(hours=5)  # what is younger is in flight


class Bank(FakeGateway):
    """A gateway that remembers what it was asked to do, and books it."""

    payments: ClassVar[dict[str, Answer]] = {}
    returned: ClassVar[list[RefundAnswer]] = []
    booked: ClassVar[list[Transaction]] = []

    @classmethod
    def book(cls, kind: Kind, answer: Answer, amount: int, *, source_id: str) -> None:
        cls.booked.append(
            Transaction(
                transaction_id=f"txn_{len(cls.booked)}", kind=kind, amount=amount, fee=7 if kind == Kind.CHARGE else 0,
                currency=answer.currency, at=timezone.now() - LONG_AGO, payment_id=answer.payment_id,
                source_id=source_id, order_id=answer.order_id,
            )
        )  # fmt: skip

    @classmethod
    def pay(cls, order_id: str, amount: int = 5000) -> Answer:
        answer = Answer(
            payment_id=f"pi_{order_id}", order_id=order_id, status=Status.SUCCEEDED, amount=amount, currency="USD"
        )
        if answer.payment_id not in cls.payments:
            cls.payments[answer.payment_id] = answer
            cls.book(Kind.CHARGE, answer, amount, source_id=answer.payment_id)
        return cls.payments[answer.payment_id]

    def create(self, payment: PaymentRequest) -> Answer:
        return self.pay(payment.order_id, payment.amount)

    def status(self, *, payment_id: str = "", order_id: str = "", since: datetime | None = None) -> Answer | None:
        return self.payments.get(payment_id or f"pi_{order_id}")

    def refund(self, refund: RefundRequest) -> RefundAnswer:
        returned = sum(one.amount for one in self.refunds(payment_id=refund.payment_id))
        if returned + refund.amount > self.payments[refund.payment_id].amount:
            raise GatewayRefused("refund_exceeds_captured")
        answer = RefundAnswer(
            gateway_refund_id=f"re_{len(self.returned)}", payment_id=refund.payment_id, order_id=refund.order_id,
            refund_id=refund.refund_id, status=RefundStatus.SUCCEEDED, amount=refund.amount, currency=refund.currency,
        )  # fmt: skip
        self.returned.append(answer)
        self.book(Kind.REFUND, self.payments[refund.payment_id], refund.amount, source_id=answer.gateway_refund_id)
        return answer

    def refunds(self, *, payment_id: str) -> list[RefundAnswer]:
        return [one for one in self.returned if one.payment_id == payment_id]

    def transactions(self, *, since: datetime, until: datetime) -> Iterator[Transaction]:
        return (one for one in self.booked if since <= one.at < until)


@pytest.fixture(autouse=True)
def bank(monkeypatch: pytest.MonkeyPatch) -> type[Bank]:
    monkeypatch.setitem(gateways.GATEWAYS, "fake", Bank)
    for name, empty in (("payments", {}), ("returned", []), ("booked", [])):
        monkeypatch.setattr(Bank, name, empty)
    return Bank


def work() -> None:
    """Handle the messages of payments."""
    Carrier(passes_over=lambda envelope: not envelope.type.startswith("payments.")).run()


def charge(order_id: str, amount: int = 5000) -> None:
    services.charge_gateway(order_id=order_id, money=Money(amount, "USD"), now=timezone.now())
    work()


def found(*, later: timedelta = timedelta(0)) -> set[tuple[str, str, str]]:
    """Compare, and return the open differences."""
    now = timezone.now() + later
    reconcile(gateway="fake", since=NOW - timedelta(days=1), until=NOW + timedelta(days=1), now=now)
    return {
        (one.kind, one.what, one.order_id or one.payment_id.removeprefix("pi_"))
        for one in Difference.objects.filter(status="open")
    }


def repair_all() -> None:
    for one in Difference.objects.filter(status="open").order_by("at", "pk"):
        repairs.repair(difference_id=one.pk, now=timezone.now())
    work()


def ledger() -> dict[tuple[str, str], int]:
    """What the ledger says of each order."""
    return {
        (order_id, kind): amount
        for order_id, kind, amount in Entry.objects.exclude(kind="fee").values_list("order_id", "kind", "amount")
    }


class Backup:
    """A copy of the database of payments as it is now, which can be restored as a whole."""

    def __init__(self) -> None:
        with connections["payments"].cursor() as cursor:
            cursor.execute(
                "SELECT quote_ident(relname) FROM pg_class"
                " WHERE relkind = 'r' AND relname ~ '^(payments|outbox)_' AND relname <> 'payments_account'"
            )
            self.tables = {table: self._copy(cursor, table) for (table,) in cursor.fetchall()}

    def _copy(self, cursor: Any, table: str) -> bytes:
        with cursor.copy(f"COPY {table} TO STDOUT") as copy:
            return b"".join(bytes(part) for part in copy)

    def restore(self) -> None:
        with connections["payments"].cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute(f"TRUNCATE {', '.join(self.tables)}")
            for table in sorted(self.tables, key=lambda name: name != "payments_payment"):  # which others refer to
                with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                    copy.write(io.BytesIO(self.tables[table]).read())


class TestAfterARestore:
    def test_what_the_gateway_did_meanwhile_is_found_and_repaired(self, bank: type[Bank]) -> None:
        for order_id in ("turned-back", "in-part", "by-hand", "disputed"):
            charge(order_id)
        services.charge_gateway(order_id="asked", money=Money(3000, "USD"), now=NOW)
        backup, before = Backup(), ledger()
        work()
        charge("later", 4000)
        services.give_back(order_id="turned-back", now=timezone.now())
        part = Money(1200, "USD")
        refunds.request(order_id="in-part", refund_id=str(uuid7()), money=part, reason="", now=timezone.now())
        by_hand = RefundRequest(
            payment_id="pi_by-hand", order_id="by-hand", amount=900, currency="USD", idempotency_key="dashboard"
        )
        tell(bank(gateways.BREAKERS["fake"]).refund(by_hand))
        disputed = bank.payments["pi_disputed"]
        bank.book(Kind.DISPUTE, disputed, 5000, source_id="du_1")
        tell(
            DisputeAnswer(
                dispute_id="du_1", payment_id="pi_disputed", status=DisputeStatus.OPENED, amount=5000, currency="USD"
            )
        )
        work()
        truth = ledger()
        missing = {
            ("asked", "charge"): 3000, ("later", "charge"): 4000, ("turned-back", "refund"): 5000,
            ("in-part", "refund"): 1200, ("by-hand", "refund"): 900, ("disputed", "dispute"): 5000,
        }  # fmt: skip
        assert truth == before | missing
        assert found() == set()

        backup.restore()
        assert ledger() == before
        Payment.objects.filter(pk="asked").update(ask_at=None)
        assert found() == {
            ("unknown" if order_id == "later" else "missing_here", kind, order_id) for order_id, kind in missing
        }
        repair_all()
        assert ledger() == truth
        assert Payment.objects.get(pk="later").status == "succeeded"
        assert Payment.objects.get(pk="turned-back").status == "refunded"
        assert found() == set()
        assert set(Difference.objects.values_list("status", flat=True)) == {"repaired"}
        assert Entry.objects.filter(kind="fee").count() == 6

    def test_all_goes_back_of_which_a_part_had_gone_back_before(self, bank: type[Bank]) -> None:
        charge("in-part")
        backup, part = Backup(), Money(1200, "USD")
        refunds.request(order_id="in-part", refund_id=str(uuid7()), money=part, reason="", now=timezone.now())
        work()
        backup.restore()
        services.give_back(order_id="in-part", now=timezone.now())
        work()
        refused = Payment.objects.get(pk="in-part")
        assert (refused.status, refused.refusal) == ("refund_refused", "refund_exceeds_captured")
        assert found() == {("missing_here", "refund", "in-part")}
        repair_all()
        services.try_return_again(order_id="in-part", now=timezone.now())
        work()
        assert Payment.objects.get(pk="in-part").status == "refunded"
        assert [one.amount for one in bank.returned] == [1200, 3800]
        assert found() == set()


DONE = st.sampled_from(["asked", "refund", "dispute", "win", "refund_here"])
STEPS = st.lists(st.tuples(st.integers(0, 2), DONE, st.integers(1, 1500)), max_size=10)


@given(steps=STEPS)
@effort(
    max_examples=6, deadline=None, database=None, phases=[Phase.generate],  # to shrink takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_whatever_the_gateway_did_unheard_the_ledger_is_brought_to_it(steps: Any) -> None:
    """Payments, refunds and disputes in any order, and not one webhook: after the repairs both say the same."""
    with transaction.atomic(using="payments"):
        for name in (Bank.payments, Bank.returned, Bank.booked):
            name.clear()
        for number in range(3):
            charge(f"o{number}")
        left = dict.fromkeys(range(3), 5000)
        disputes: dict[int, tuple[str, int]] = {}
        for number, done, amount in steps:
            answer = Bank.payments[f"pi_o{number}"]
            match done:
                case "asked":  # and paid, and nobody heard of it
                    services.charge_gateway(order_id=f"n{number}", money=Money(amount, "USD"), now=timezone.now())
                    Bank.pay(f"n{number}", amount)
                case "refund" if amount <= left[number]:
                    by_hand = RefundRequest(
                        payment_id=answer.payment_id, order_id=f"o{number}", amount=amount, currency="USD",
                        idempotency_key=f"{len(Bank.booked)}",
                    )  # fmt: skip
                    Bank(gateways.BREAKERS["fake"]).refund(by_hand)
                    left[number] -= amount
                case "refund_here" if amount <= left[number] and number not in disputes:
                    refunds.request(
                        order_id=f"o{number}", refund_id=str(uuid7()), money=Money(amount, "USD"), reason="",
                        now=timezone.now(),
                    )  # fmt: skip
                case "dispute" if number not in disputes and amount <= left[number]:
                    disputes[number] = (f"du_{number}", amount)
                    Bank.book(Kind.DISPUTE, answer, amount, source_id=f"du_{number}")
                    left[number] -= amount
                case "win" if number in disputes and disputes[number][0]:
                    dispute_id, disputed = disputes[number]
                    Bank.book(Kind.DISPUTE_WON, answer, disputed, source_id=dispute_id)
                    disputes[number] = ("", 0)
                    left[number] += disputed
        found()
        repair_all()
        found()
        repair_all()  # what was refused the first time, as more was under way, fits now
        open_ = found()
        gateway = Counter[tuple[str, str]]()
        for one in Bank.booked:
            gateway[one.order_id, one.kind.value] += one.amount
        here = Counter[tuple[str, str]]()
        for order_id, kind, amount in Entry.objects.exclude(kind="fee").values_list("order_id", "kind", "amount"):
            here[order_id, kind] += amount
        assert (here, open_) == (gateway, set())
        transaction.set_rollback(True, using="payments")


def tell(about: receipts.Content) -> None:
    """Let the gateway tell this by a webhook."""
    receipts.report(gateway="fake", about=about, now=timezone.now())


class TestMoneyOfNoPayment:
    """A charge that the gateway has made for a system that nobody knows any more."""

    @pytest.fixture(autouse=True)
    def one(self, bank: type[Bank]) -> Difference:
        bank.pay("", 150_000)
        assert found() == {("unknown", "charge", "")}
        return Difference.objects.get()

    def test_is_given_to_no_order_that_it_does_not_name(self, one: Difference) -> None:
        with pytest.raises(repairs.OrderIsPaidOtherwise):
            repairs.repair(difference_id=one.pk, now=NOW)
        assert not Payment.objects.exists()

    def test_ends_the_command_with_an_error_after_the_others_are_repaired(
        self, one: Difference, bank: type[Bank], capsys: Any
    ) -> None:
        with pytest.raises(CommandError, match=r"^1 of 1 could not be repaired") as error:
            call_command("reconcile", "--repair", str(one.pk))
        assert error.value.returncode == 1
        assert f"{one.pk}  No order here can have this payment" in capsys.readouterr().out
        bank.pay("lost")
        assert found() == {("unknown", "charge", ""), ("unknown", "charge", "lost")}
        with pytest.raises(CommandError, match=r"^1 of 2 could not be repaired"):
            call_command("reconcile", "--repair", "all")
        work()
        assert Payment.objects.get().order_id == "lost"
        lost = Difference.objects.get(payment_id="pi_lost")
        call_command("reconcile", "--repair", str(lost.pk))
        assert f"{lost.pk}  The gateway says that the payment" in capsys.readouterr().out

    def test_is_given_to_no_order_that_has_another_payment(self, bank: type[Bank]) -> None:
        charge("twice")
        other = bank.pay("twice")
        Bank.payments["pi_stray"] = stray = Answer(
            payment_id="pi_stray", order_id="twice", status=Status.SUCCEEDED, amount=other.amount, currency="USD"
        )
        bank.book(Kind.CHARGE, stray, stray.amount, source_id="pi_stray")
        assert ("unknown", "charge", "stray") in found()
        with pytest.raises(repairs.OrderIsPaidOtherwise):
            repairs.repair(difference_id=Difference.objects.get(payment_id="pi_stray").pk, now=NOW)
        assert Entry.objects.filter(kind="charge").count() == 1

    def test_is_refunded_once_by_two_persons(self, one: Difference, bank: type[Bank]) -> None:
        ann = Authority("ann", is_staff=True)
        with pytest.raises(ReasonMissing):
            repairs.refund(difference_id=one.pk, reason=" ", by=ann, now=NOW)
        with pytest.raises(NeedsSecondPerson):
            repairs.refund(difference_id=one.pk, reason="stray", by=ann, now=NOW)
        work()
        assert not bank.returned
        both = Authority("ann", is_staff=True, approved=Money(150_000, "USD"))
        repairs.refund(difference_id=one.pk, reason="stray", by=both, now=NOW)
        work()
        assert [refund.amount for refund in bank.returned] == [150_000]
        assert WebhookReceipt.objects.get().status == "refunded"
        # Now the gateway has booked both, and they are of no payment: nothing is left to do.
        assert found() == set()
        one.refresh_from_db()
        assert one.status == "repaired"
        assert ledger() == {}

    def test_is_accepted_with_a_reason_by_two_persons(self, one: Difference) -> None:
        ann = Authority("ann", is_staff=True)
        with pytest.raises(ReasonMissing):
            repairs.accept(difference_id=one.pk, reason="", by=ann, now=NOW)
        with pytest.raises(NeedsSecondPerson):
            repairs.accept(difference_id=one.pk, reason="of the old shop", by=ann, now=NOW)
        both = Authority("ann", is_staff=True, approved=Money(150_000, "USD"))
        repairs.accept(difference_id=one.pk, reason="of the old shop", by=both, now=NOW)
        assert found() == set()
        with pytest.raises(repairs.NotOpen):
            repairs.repair(difference_id=one.pk, now=NOW)
        one.refresh_from_db()
        assert (one.status, one.closed_by, one.closed_why) == ("accepted", "ann", "of the old shop")

    def test_is_opened_again_if_it_differs_in_another_way(self, one: Difference, bank: type[Bank]) -> None:
        Difference.objects.update(status="accepted", closed_by="ann")
        bank.booked[0] = replace(bank.booked[0], amount=150_001)
        assert found() == {("unknown", "charge", "")}
        one.refresh_from_db()
        assert (one.amount_there, one.closed_by) == (150_001, "")


class TestWhatIsMissingAtTheGateway:
    def test_is_asked_for(self, bank: type[Bank]) -> None:
        charge("o1")
        bank.booked.clear()
        assert found() == set()  # it is in flight
        assert found(later=timedelta(hours=2)) == {("missing_there", "charge", "o1")}
        one = Difference.objects.get(status="open")
        assert (one.kind, one.order_id, one.amount_here, one.payment_id) == ("missing_there", "o1", 5000, "pi_o1")
        assert "is succeeded" in repairs.repair(difference_id=one.pk, now=NOW)
        work()
        bank.payments.clear()
        with pytest.raises(repairs.CannotAsk):
            repairs.repair(difference_id=one.pk, now=NOW)
        # The gateway lists it after all, in a later period.
        bank.book(Kind.CHARGE, Answer(payment_id="pi_o1", order_id="o1", status=Status.SUCCEEDED, amount=5000,
                                      currency="USD"), 5000, source_id="pi_o1")  # fmt: skip
        assert found(later=timedelta(hours=3)) == set()
        one.refresh_from_db()
        assert one.status == "repaired"


class TestWhatIsNoDifference:
    def test_a_transaction_that_is_younger_than_an_hour(self, bank: type[Bank]) -> None:
        bank.pay("o1")
        bank.booked[0] = replace(bank.booked[0], at=NOW - timedelta(minutes=5))
        assert found() == set()
        assert Difference.objects.count() == 0

    def test_another_installation_at_the_same_account(self, bank: type[Bank], settings: Any) -> None:
        settings.INSTALLATION = "one"
        bank.pay("two:o1")
        bank.pay("o2")
        bank.pay("one:o3")
        assert found() == {("unknown", "charge", "one:o3")}
        assert [fee.amount for fee in Entry.objects.filter(kind="fee")] == [7]

    def test_payouts(self, bank: type[Bank]) -> None:
        payout = Transaction(
            transaction_id="po", kind=Kind.OTHER, amount=9900, fee=25, currency="EUR", at=NOW - LONG_AGO
        )
        bank.booked.append(payout)
        assert found() == set()
        fee = Entry.objects.get()
        assert (fee.kind, fee.source.user_id, fee.target.user_id) == ("fee", "fees", "cash")
        assert (fee.amount, fee.currency, fee.gateway_id, fee.at) == (25, "EUR", "po", payout.at)

    def test_a_fee_that_comes_back(self, bank: type[Bank]) -> None:
        bank.booked.append(
            Transaction(transaction_id="f", kind=Kind.OTHER, amount=0, fee=-25, currency="USD", at=NOW - LONG_AGO)
        )
        assert found() == set()
        fee = Entry.objects.get()
        assert (fee.source.user_id, fee.target.user_id, fee.amount) == ("cash", "fees", 25)


class TestEveryNight:
    def test_one_run_succeeds(self, bank: type[Bank], settings: Any) -> None:
        settings.RECONCILE_HOUR = 2
        night = NOW.replace(hour=2, minute=0, second=0, microsecond=0)
        charge("o1")
        first = reconcile_nightly(now=night + timedelta(minutes=10))
        assert first is not None
        assert (first.since, first.until) == (night - timedelta(days=3), night + timedelta(minutes=10))
        Reconciliation.objects.update(finished_at=night + timedelta(minutes=11))
        assert reconcile_nightly(now=night + timedelta(hours=23)) is None
        assert reconcile_nightly(now=night + timedelta(days=1, minutes=5)) is not None

    def test_a_gateway_that_is_silent_is_asked_again(self, bank: type[Bank], monkeypatch: pytest.MonkeyPatch) -> None:
        def silent(*args: Any, **kwargs: Any) -> Iterator[Transaction]:
            raise GatewayUnavailable("fake: no answer")

        with monkeypatch.context() as patch:
            patch.setattr(Bank, "transactions", silent)
            assert reconcile_nightly(now=NOW) is None
        failed = Reconciliation.objects.get()
        assert (failed.status, failed.error) == ("failed", "fake: no answer")
        assert reconcile_nightly(now=NOW) is not None
