"""The pages of the back office for people who keep books."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orders_project.models import Approval
from orders_project.tests.test_admin_actions import client_of, do
from orders_project.tests.test_reconcile_repairs import Bank, charge, found, work
from orders_project.tests.test_reconcile_repairs import bank as bank
from payments import services
from payments.gateways.base import GatewayUnavailable
from payments.models import Account, Difference, Entry, Payment, Reconciliation, WebhookReceipt

pytestmark = pytest.mark.django_db

MAY = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def manager() -> Client:
    return client_of("manager")


def page(client: Client, name: str, *args: Any, **query: str) -> str:
    answer = client.get(reverse(f"admin:payments_{name}", args=args), query)
    assert answer.status_code == 200
    return str(answer.content.decode())


class TestADifference:
    def test_is_repaired_by_an_operator(self, bank: type[Bank]) -> None:
        services.charge_gateway(order_id="o1", money=services.Money(2500, "USD"), now=timezone.now())
        bank.pay("o1", 2500)
        Payment.objects.update(ask_at=None)
        assert found() == {("missing_here", "charge", "o1")}
        operator, one = client_of("operator"), Difference.objects.get()
        shown = page(operator, "difference_changelist", waiting="yes")
        assert "25.00 USD" in shown
        assert "missing here" in shown
        assert do(operator, one, "repair").status_code == 302
        work()
        assert Entry.objects.get(kind="charge").amount == 2500
        assert found() == set()
        assert "repaired" in page(operator, "difference_change", one.pk)
        assert do(operator, one, "accept", reason="x").status_code == 403
        assert "Ask the gateway" in LogEntry.objects.get().change_message

    def test_of_no_payment_is_refunded_when_a_second_person_approves(self, bank: type[Bank], manager: Client) -> None:
        bank.pay("", 150_000)
        found()
        one = Difference.objects.get()
        assert do(manager, one, "refund", reason="nobody's").status_code == 302
        approval = Approval.objects.get()
        assert (approval.amount, approval.currency, approval.status) == (150_000, "USD", "waiting")
        work()
        assert not bank.returned
        assert do(client_of("manager", "second"), approval, "approve").status_code == 302
        work()
        assert [refund.amount for refund in bank.returned] == [150_000]
        assert WebhookReceipt.objects.get().status == "refunded"
        assert found() == set()

    def test_is_accepted_with_a_reason(self, bank: type[Bank], manager: Client) -> None:
        bank.pay("", 100)
        found()
        one = Difference.objects.get()
        assert do(manager, one, "accept", reason="").status_code == 422
        assert do(manager, one, "accept", reason="a test").status_code == 302
        one.refresh_from_db()
        assert (one.status, one.closed_by, one.closed_why) == ("accepted", "manager", "a test")

    def test_says_it_if_the_gateway_does_not_answer(
        self, bank: type[Bank], manager: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def silent(*args: Any, **kwargs: Any) -> None:
            raise GatewayUnavailable("no answer")

        bank.pay("o1")
        found()
        monkeypatch.setattr(Bank, "status", silent)
        answer = do(manager, Difference.objects.get(), "repair")
        assert answer.status_code == 422
        assert "gateway_cannot_be_asked" in answer.content.decode()


def test_a_comparison_shows_what_it_has_found(bank: type[Bank], manager: Client) -> None:
    charge("o1")
    found()
    shown = page(manager, "reconciliation_change", Reconciliation.objects.get().pk)
    assert "matched" in shown
    assert "50.00 USD" in shown
    assert "pi_o1" in page(manager, "gatewaytransaction_changelist", q="o1")


class TestStatements:
    def test_are_downloaded_from_the_page_of_an_account(self, manager: Client) -> None:
        account, _made = services.open_account(user_id="ann")
        services.deposit(user_id="ann", amount=700, now=MAY)
        where = reverse("admin:payments_statement", args=[account.pk])
        assert where in page(manager, "account_change", account.pk)
        assert "Until before" in page(manager, "statement", account.pk)
        answer = manager.get(where, {"since": "2026-05-01", "until": "2026-05-02", "format": "csv"})
        assert answer["Content-Disposition"] == 'attachment; filename="statement.csv"'
        rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
        assert [(row["kind"], row["balance"], row["other_account"]) for row in rows] == [
            ("opening balance", "0.00", ""), ("deposit", "7.00", "cash"), ("closing balance", "7.00", ""),
        ]  # fmt: skip
        assert manager.get(where, {"since": "2026-05-02", "until": "2026-05-01", "format": "csv"}).status_code == 422
        assert manager.get(where, {"since": "x"}).status_code == 422

    def test_are_for_those_who_may_see_accounts(self) -> None:
        account, _made = services.open_account(user_id="ann")
        nobody = client_of("viewer")
        nobody.logout()
        assert nobody.get(reverse("admin:payments_statement", args=[account.pk])).status_code == 302
        assert nobody.get(reverse("admin:payments_trial_balance")).status_code == 302


def test_the_trial_balance_is_a_page(manager: Client) -> None:
    services.open_account(user_id="ann")
    services.deposit(user_id="ann", amount=700, now=MAY)
    assert reverse("admin:payments_trial_balance") in page(manager, "account_changelist")
    assert "-7.00 USD" in page(manager, "trial_balance")
    assert "-7.00 USD" not in page(manager, "trial_balance", at="2026-05-01")
    euros = Account.objects.create(kind="system", user_id="cash", currency="EUR")
    ann = Account.objects.get(user_id="ann")
    Entry.objects.create(kind="deposit", source=euros, target=ann, amount=1, currency="EUR", at=MAY + timedelta(days=1))
    assert "Does not sum to zero: EUR, USD" in page(manager, "trial_balance")
