"""The rules for people, attacked from every side: what a state allows, and what takes a second person."""

import threading
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connections, transaction
from django.test import Client
from django.utils import timezone

from common.authority import NeedsSecondPerson
from orders import repair
from orders.models import Order, Status
from orders.tests.conftest import client_named as client_named
from orders.tests.test_idempotency import another_connection, until_a_lock_is_awaited
from orders_project.backoffice import approvals
from orders_project.models import Approval
from orders_project.tests.test_admin_actions import client_of, do, place, url
from outbox import dead_letters
from outbox.services import model_of
from payments import gateways, receipts
from payments import services as money
from payments.gateways.base import Answer, Event, RefundAnswer, RefundStatus
from payments.gateways.base import Status as GatewayStatus
from payments.models import Account, Entry, Outgoing, Payment, WebhookReceipt
from processing import services as stock
from processing.messages import ProcessingRefused
from processing.models import Outgoing as ProcessingOutgoing
from processing.models import StockMovement

pytestmark = pytest.mark.django_db

LIMIT = 1000_00


@pytest.fixture
def ann() -> Account:
    account, _made = money.open_account(user_id="ann")
    money.deposit(user_id="ann", amount=10_000_00, now=timezone.now())
    return account


@pytest.fixture
def paid(ann: Account, post: Any) -> Order:
    """A paid order above the limit, which the processor has not handled yet."""
    order = place(amount=LIMIT + 1)
    post.passes_over = lambda envelope: envelope.type == "processing.process"
    post.run()
    post.passes_over = lambda envelope: False
    order.refresh_from_db()
    assert order.status == "paid"
    return order


def form_of(client: Client, row: Any, action: str, **values: Any) -> dict[str, Any]:
    """What the page of an action would send."""
    form = client.get(url(row, action)).context["form"]
    return {name: form[name].value() or "" for name in form.fields} | values


def is_still(order: Order, status: str) -> bool:
    version = order.version
    order.refresh_from_db()
    return (order.status, order.version) == (status, version)


class TestAPaidOrder:
    def test_is_not_canceled_with_the_form_of_another_action(self, paid: Order) -> None:
        operator = client_of("operator")
        form = form_of(operator, paid, "compensate", reason="quick")
        answer = operator.post(url(paid, "cancel"), form)
        assert (answer.status_code, "state_changed" in answer.content.decode()) == (422, True)
        assert is_still(paid, "paid")
        assert not LogEntry.objects.exists()

    def test_is_not_canceled_by_a_session_at_the_api(self, paid: Order) -> None:
        operator = client_of("operator")
        path = f"/orders/{paid.pk}/cancel"
        refused = [
            operator.post(path, body, "application/json").json()["code"]
            for body in ({}, {"reason": " "}, {"reason": "quick"})
        ]
        assert refused == ["reason_missing", "reason_missing", "second_person_needed"]
        assert is_still(paid, "paid")

    def test_is_canceled_by_one_person_if_no_more_than_the_limit_was_taken(self, paid: Order) -> None:
        Order.objects.update(captured=LIMIT)
        answer = client_of("operator").post(f"/orders/{paid.pk}/cancel", {"reason": "quick"}, "application/json")
        assert (answer.status_code, answer.json()["status"]) == (202, "refunding")
        assert answer.json()["fail_reason"] == repair.CANCELED_BY_OPERATOR

    def test_is_canceled_by_its_client_alone(self, paid: Order, client_named: Any) -> None:
        Order.objects.update(principal="shop")
        answer = client_named("shop").post(f"/orders/{paid.pk}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "refunding")

    @pytest.mark.parametrize("truth", ["processing.refused", "order.processed"])
    def test_is_not_resolved_by_a_manager_alone(self, paid: Order, truth: str) -> None:
        manager = client_of("manager")
        assert do(manager, paid, "resolve", truth=truth, reason="believe me").status_code == 302
        assert is_still(paid, "paid")
        (approval,) = Approval.objects.all()
        assert (approval.verb, approval.amount, approval.asked_by) == ("orders.order.resolve", LIMIT + 1, "manager")

    def test_is_not_refunded_by_replaying_a_dead_letter(self, paid: Order, post: Any) -> None:
        with transaction.atomic(using="processing"):
            ProcessingOutgoing.post(ProcessingRefused(order_id=paid.pk, reason="late"))
        Order.objects.update(status="pending")
        post.run()
        Order.objects.update(status="paid")
        dead = model_of("orders", "DeadLetter").objects.get(status="dead")
        assert do(client_of("manager"), dead, "replay").status_code == 302
        post.run()
        assert is_still(paid, "paid")
        again = model_of("orders", "DeadLetter").objects.get(status="dead")
        assert again.reason == "second_person_needed"
        preview = client_of("operator").get(f"/admin/orders/deadletter/{again.pk}/preview/")
        assert "second person" in preview.content.decode()

    def test_below_the_limit_is_refunded_by_a_replay(self, paid: Order, post: Any) -> None:
        Order.objects.update(total=LIMIT)
        with transaction.atomic(using="processing"):
            ProcessingOutgoing.post(ProcessingRefused(order_id=paid.pk, reason="late"))
        Order.objects.update(status="pending")
        post.run()
        Order.objects.update(status="paid")
        dead_letters.replay(model_of("orders", "DeadLetter").objects.get(), by="cli", now=timezone.now())
        post.run()
        paid.refresh_from_db()
        assert paid.status in ("refunding", "failed")


class TestApproving:
    def test_carries_it_out_in_both_names(self, paid: Order, ann: Account, post: Any) -> None:
        asker, other = client_of("operator", "eve"), client_of("manager", "bob")
        assert do(asker, paid, "compensate", reason="fraud").status_code == 302
        assert is_still(paid, "paid")
        approval = Approval.objects.get()
        page = other.get(f"/admin/orders_project/approval/{approval.pk}/do/approve/").content.decode()
        assert f"{approval.amount / 100:,.2f} USD, {paid.pk}" in page
        assert "Requested by eve with the reason “fraud”." in page
        assert do(client_of("operator"), approval, "approve").status_code == 403
        assert do(other, approval, "approve").status_code == 302
        post.run()
        paid.refresh_from_db()
        ann.refresh_from_db()
        assert (paid.status, ann.balance) == ("canceled", 10_000_00)
        asked = paid.events.get(type="order.cancel_requested")
        assert (asked.data["note"], asked.actor) == ("fraud", "bob for eve")
        approval.refresh_from_db()
        assert (approval.status, approval.asked_by, approval.decided_by) == ("approved", "eve", "bob")

    def test_takes_another_person(self, paid: Order) -> None:
        asker = client_of("manager", "eve")
        do(asker, paid, "compensate", reason="fraud")
        assert do(asker, Approval.objects.get(), "approve").status_code == 422
        assert do(asker, paid, "compensate", reason="fraud!").status_code == 422
        assert is_still(paid, "paid")
        assert Approval.objects.count() == 1

    def test_may_be_refused(self, paid: Order, post: Any) -> None:
        do(client_of("operator", "eve"), paid, "compensate", reason="fraud")
        assert do(client_of("manager", "bob"), Approval.objects.get(), "reject").status_code == 302
        post.run()
        paid.refresh_from_db()
        assert paid.status == "paid"

    @pytest.mark.parametrize("approve", [True, False])
    def test_happens_once(self, paid: Order, approve: bool) -> None:
        do(client_of("operator", "eve"), paid, "compensate", reason="fraud")
        approval = Approval.objects.get()
        approvals.decide(approval=approval, approve=approve, by="bob", now=timezone.now())
        for again in (approve, not approve):
            with pytest.raises(approvals.AlreadyDecided, match="is already"), transaction.atomic():
                approvals.decide(approval=approval, approve=again, by="carol", now=timezone.now())
        assert Approval.objects.get().decided_by == "bob"

    @pytest.mark.parametrize("change", [{"version": 9}, {"status": "refunding"}, {"total": LIMIT + 2}])
    def test_is_of_the_version_the_state_and_the_amount_that_were_seen(
        self, paid: Order, change: dict[str, Any]
    ) -> None:
        do(client_of("operator", "eve"), paid, "compensate", reason="fraud")
        Order.objects.update(**change)
        paid.refresh_from_db()
        assert do(client_of("manager", "bob"), Approval.objects.get(), "approve").status_code == 422
        assert is_still(paid, paid.status)
        assert Approval.objects.get().status == "waiting"

    def test_again_after_a_crash_does_nothing_more(self, paid: Order, ann: Account) -> None:
        eve, bob = client_of("manager", "eve"), client_of("manager", "bob")
        do(eve, ann, "deposit", amount="5000", reason="a prize")
        assert do(bob, Approval.objects.get(), "approve").status_code == 302
        Approval.objects.update(status="waiting", decided_by="")  # as if the second commit had been lost
        assert do(bob, Approval.objects.get(), "approve").status_code == 302
        assert Entry.objects.filter(amount=5000_00).count() == 1

    def test_what_was_done_before_a_crash_cannot_be_rejected(self, paid: Order, ann: Account) -> None:
        """Or else the same could be requested and approved once more."""
        eve, bob = client_of("manager", "eve"), client_of("manager", "bob")
        do(eve, ann, "deposit", amount="5000", reason="a prize")
        do(bob, Approval.objects.get(), "approve")
        Approval.objects.update(status="waiting", decided_by="")  # as if the second commit had been lost
        refused = do(bob, Approval.objects.get(), "reject")
        assert (refused.status_code, b"Approve it again" in refused.content) == (422, True)
        assert do(bob, Approval.objects.get(), "approve").status_code == 302
        assert Entry.objects.filter(amount=5000_00).count() == 1

    def test_what_was_rejected_before_a_crash_cannot_be_approved(self, paid: Order, ann: Account) -> None:
        eve, bob = client_of("manager", "eve"), client_of("manager", "bob")
        do(eve, ann, "deposit", amount="5000", reason="a prize")
        do(bob, Approval.objects.get(), "reject")
        Approval.objects.update(status="waiting", decided_by="")
        refused = do(bob, Approval.objects.get(), "approve")
        assert (refused.status_code, b"Reject it again" in refused.content) == (422, True)
        assert do(bob, Approval.objects.get(), "reject").status_code == 302
        assert not Entry.objects.filter(amount=5000_00).exists()

    def test_is_not_needed_below_the_limit(self, ann: Account, post: Any) -> None:
        order = place(amount=LIMIT)
        post.passes_over = lambda envelope: envelope.type == "processing.process"
        post.run()
        do(client_of("operator"), order, "compensate", reason="asked")
        post.run()
        order.refresh_from_db()
        assert order.status == "canceled"


class TestAccounts:
    @pytest.mark.parametrize(
        ("action", "amount"), [("deposit", "1000.01"), ("correct", "1000.01"), ("correct", "-5000")]
    )
    def test_take_two_persons_above_the_limit(self, ann: Account, action: str, amount: str) -> None:
        eve, bob = client_of("manager", "eve"), client_of("manager", "bob")
        before = Entry.objects.count()
        assert do(eve, ann, action, amount=amount, reason="trust me").status_code == 302
        assert Entry.objects.count() == before
        approval = Approval.objects.get()
        assert do(eve, approval, "approve").status_code == 422
        assert do(bob, approval, "approve").status_code == 302
        entry = Entry.objects.get(reason="trust me")
        assert (entry.amount, entry.actor) == (approval.amount, "bob for eve")

    def test_take_two_persons_at_the_api_too(self, ann: Account) -> None:
        manager = client_of("manager")
        answers = [
            manager.post("/accounts/ann/deposit", body, "application/json")
            for body in ({"amount": 1}, {"amount": 1000.01, "reason": "x"}, {"amount": 1000, "reason": "a present"})
        ]
        codes = [answer.json().get("code", answer.status_code) for answer in answers]
        assert codes == ["reason_missing", "second_person_needed", 200]
        entry = Entry.objects.get(reason="a present")
        assert entry.actor == "staff:manager"

    def test_of_the_system_take_no_deposits(self, ann: Account) -> None:
        money.open_account(user_id="cash")
        system = Account.objects.get(user_id="cash", kind="system")
        form = {"once": str(uuid4()), "amount": "1", "reason": "x"}
        assert client_of("manager").post(url(system, "deposit"), form).status_code == 422
        assert not Entry.objects.filter(reason="x").exists()


class FakeGateway:
    """A gateway that has this amount, whatever the webhook says."""

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.refunded: list[int] = []

    def status(self, **which: Any) -> Answer:
        succeeded = GatewayStatus.SUCCEEDED
        return Answer(payment_id="pay_1", order_id="x", status=succeeded, amount=self.amount, currency="USD")

    def refunds(self, **which: Any) -> list[RefundAnswer]:
        return []

    def refund(self, request: Any) -> RefundAnswer:
        self.refunded.append(request.amount)
        return RefundAnswer(
            gateway_refund_id="re_1", payment_id="pay_1", status=RefundStatus.SUCCEEDED, amount=request.amount,
            currency="USD",
        )  # fmt: skip

    def read_webhook(self, **which: Any) -> Event:
        return Event(webhook_id="w", type="payment.succeeded", about=self.status())


class TestAStrayPayment:
    @pytest.fixture
    def gateway(self, monkeypatch: pytest.MonkeyPatch) -> FakeGateway:
        gateway = FakeGateway(5000_00)
        monkeypatch.setattr(gateways, "get", lambda name: gateway)
        return gateway

    @pytest.fixture
    def receipt(self) -> WebhookReceipt:
        return WebhookReceipt.objects.create(
            gateway="fake", webhook_id="w", status="quarantined", says="succeeded", amount=10_00, currency="USD",
            payment_id="pay_1", order_id="x", body=b"{}", received_at=timezone.now(),
        )  # fmt: skip

    def test_is_refunded_by_the_amount_that_the_gateway_has(
        self, receipt: WebhookReceipt, gateway: FakeGateway, post: Any
    ) -> None:
        eve, bob = client_of("manager", "eve"), client_of("manager", "bob")
        assert do(eve, receipt, "refund", reason="stray").status_code == 302
        assert not Outgoing.objects.filter(type="payments.refund_receipt").exists()
        approval = Approval.objects.get()
        assert approval.amount == 5000_00
        assert do(bob, approval, "approve").status_code == 302
        post.run()
        receipt.refresh_from_db()
        assert (receipt.status, receipt.decided_by, gateway.refunded) == ("refunded", "bob for eve", [5000_00])

    def test_is_not_refunded_if_the_amount_has_changed_since(
        self, receipt: WebhookReceipt, gateway: FakeGateway, post: Any
    ) -> None:
        gateway.amount = 10_00
        manager = client_of("manager")
        assert do(manager, receipt, "refund", reason="stray").status_code == 302
        gateway.amount = 5000_00
        post.run()
        receipt.refresh_from_db()
        assert (receipt.status, receipt.reason, gateway.refunded) == ("quarantined", "amount_mismatch", [])
        do(manager, receipt, "refund", reason="stray")
        assert Approval.objects.get().amount == 5000_00

    def test_is_not_matched_by_one_person_above_the_limit(self, receipt: WebhookReceipt, gateway: FakeGateway) -> None:
        """Matched with an order that was turned back, the money would go to whoever paid it."""
        Payment.objects.create(
            order_id="o", method="gateway", gateway="fake", amount=5000_00, currency="USD", status="voided"
        )
        WebhookReceipt.objects.update(amount=5000_00)
        assert do(client_of("operator"), receipt, "match", order_id="o", reason="looks alike").status_code == 302
        assert Payment.objects.get().status == "voided"
        assert Approval.objects.get().verb == "payments.webhookreceipt.match"

    def test_is_not_forgotten_by_one_person_above_the_limit(self, receipt: WebhookReceipt) -> None:
        WebhookReceipt.objects.update(amount=5000_00)
        assert do(client_of("manager"), receipt, "discard", reason="never mind").status_code == 302
        assert WebhookReceipt.objects.get().status == "quarantined"
        assert Approval.objects.get().verb == "payments.webhookreceipt.discard"

    def test_in_a_foreign_currency_takes_two_persons(self, receipt: WebhookReceipt) -> None:
        WebhookReceipt.objects.update(currency="PLN", amount=1)
        assert do(client_of("manager"), receipt, "discard", reason="never mind").status_code == 302
        assert Approval.objects.get().currency == "PLN"

    def test_is_refunded_once(self, receipt: WebhookReceipt, gateway: FakeGateway) -> None:
        gateway.amount = 10_00
        manager = client_of("manager")
        forms = [form_of(manager, receipt, "refund", reason="stray") for _ in range(2)]
        assert [manager.post(url(receipt, "refund"), form).status_code for form in forms] == [302, 422]
        assert Outgoing.objects.filter(type="payments.refund_receipt").count() == 1

    def test_without_money_at_the_gateway_is_not_refunded(
        self, receipt: WebhookReceipt, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway, "status", lambda **which: None)
        assert do(client_of("manager"), receipt, "refund", reason="stray").status_code == 422
        assert receipts.WebhookReceipt.objects.get().decided_by == ""


UNPAID = {"pending", "reserved", "payment_pending", "authorized", "capturing"}
ON_THE_WAY_BACK = {"voiding", "refunding", "releasing"}
ALLOWED = {
    "retry": UNPAID - {"authorized"} | {"paid"} | ON_THE_WAY_BACK,
    "cancel": UNPAID,
    "compensate": {"paid"},
    "capture": {"authorized"},
    "refund": {"paid", "done"},
    "resolve": {"paid"},  # by processing.refused
    "api": UNPAID | {"paid"},
}


@pytest.mark.parametrize("action", ALLOWED)
def test_every_action_on_every_status(action: str) -> None:
    """Posted directly, whatever a page would have shown: what the state does not allow changes nothing."""
    manager, sent = client_of("manager"), model_of("orders", "Outgoing")
    order = place(amount=5)
    happened = set()
    for version, status in enumerate(Status.values, start=1):
        version *= 10  # a version of its own: the history of an order has each once
        Order.objects.update(status=status, version=version)
        before = sent.objects.count()
        if action == "api":
            manager.post(f"/orders/{order.pk}/cancel", {"reason": "x"}, "application/json")
        else:
            form = {"once": str(uuid4()), "version": version, "reason": "x", "truth": "processing.refused"}
            form |= {"amount": "0.01"}
            manager.post(url(order, action), form)
        after = Order.objects.get()
        if (after.status, after.version, sent.objects.count()) != (status, version, before):
            happened.add(status)
    assert happened == ALLOWED[action]


def test_the_service_itself_decides(paid: Order) -> None:
    """No page is between: what calls the service in the name of staff is limited too."""
    from common.authority import Authority

    by, now = Authority("cli", is_staff=True), timezone.now()
    values: Any = {"order_id": paid.pk, "now": now, "by": by, "if_version": paid.version}
    with pytest.raises(repair.NotPossible):
        repair.cancel(reason="x", **values)
    with pytest.raises(NeedsSecondPerson):
        repair.cancel_and_refund(reason="x", **values)
    with pytest.raises(NeedsSecondPerson):
        repair.resolve(event="processing.refused", evidence="x", **values)
    assert is_still(paid, "paid")


def test_a_form_is_not_sent_again_with_other_values(ann: Account) -> None:
    manager = client_of("manager")
    form = {"once": str(uuid4()), "amount": "5", "reason": "a present"}
    assert manager.post(url(ann, "deposit"), form).status_code == 302
    answers = [manager.post(url(ann, action), form | {"amount": "6"}) for action in ("deposit", "correct")]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert "request_id_reused" in answers[0].content.decode()
    assert Entry.objects.filter(reason="a present").count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_crash_between_the_commits_moves_nothing_twice() -> None:
    """
    The process dies after the movement has committed and before the back office has. Then the form is sent again.

    For the database a crash is a connection that breaks: here the one to `default`, before the log is written.
    """
    account, _made = money.open_account(user_id="ann")
    lamp = stock.make_product(name="Lamp", sku="lamp", price=5_00, stock=0, actor="x", now=timezone.now())
    manager = client_of("manager")
    for row, action, values in (
        (lamp, "receive", {"quantity": 5, "reason": "delivery"}),
        (account, "deposit", {"amount": "5", "reason": "present"}),
    ):
        form = {"once": str(uuid4())} | values
        answers: list[Any] = []

        def send(row: Any = row, action: str = action, form: Any = form, answers: Any = answers) -> None:
            browser = Client(raise_request_exception=False)
            browser.cookies = manager.cookies
            try:
                answers.append(browser.post(url(row, action), form).status_code)
            finally:
                connections.close_all()

        with another_connection("default") as blocker:
            blocker.execute("LOCK django_admin_log IN EXCLUSIVE MODE")
            thread = threading.Thread(target=send)
            thread.start()
            blocker.execute("SELECT pg_terminate_backend(%s)", [until_a_lock_is_awaited("default")])
            thread.join(300)
        assert answers in ([500], [503])
        assert not LogEntry.objects.filter(change_message__contains=str(values["reason"])).exists()
        again = [manager.post(url(row, action), form).status_code for _ in range(2)]
        assert again == [302, 302]
        assert LogEntry.objects.filter(change_message__contains=str(values["reason"])).count() == 1
    lamp.refresh_from_db()
    account.refresh_from_db()
    assert (lamp.available, account.balance) == (5, 5_00)
    assert StockMovement.objects.count() == Entry.objects.count() == 1
