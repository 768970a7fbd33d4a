"""The audit: silent when all is well, loud about each thing that is not, patient with work in flight."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.utils import timezone

from orders import services
from orders.models import Order
from orders_project.audit import CHECKS, audit
from orders_project.audit.money import REPAIRS
from orders_project.tests.carrier import Carrier
from outbox.consumers import model_of
from outbox.ids import uuid7
from payments import services as money
from payments.audit import RULES
from payments.messages import Void
from processing import services as stock

pytestmark = pytest.mark.django_db

NO_TIME = timedelta(0)


@pytest.fixture(autouse=True)
def lamp() -> str:
    """A lamp for 12.00, of which there are ten."""
    made = stock.make_product(name="Lamp", sku="lamp", price=1200, stock=10, actor="test", now=timezone.now())
    return str(made.pk)


def place(order_id: str, lamp: str, *, funds: int = 1200) -> Order:
    money.open_account(user_id=order_id)
    if funds:
        money.deposit(user_id=order_id, amount=funds, now=timezone.now())
    new = services.NewOrder(lines=(services.Line(quantity=1, product_id=lamp),), order_id=order_id, user_id=order_id)
    return services.place_order(new=new, now=timezone.now())[0]


@pytest.fixture
def history(lamp: str, post: Carrier) -> None:
    """One order that is done, one that has failed and one that was canceled after it was paid."""
    place("done", lamp)
    place("poor", lamp, funds=0)
    post.run()
    place("canceled", lamp)
    post.passes_over = lambda letter: letter.type == "processing.process"
    post.run()
    services.cancel_order(order_id="canceled", now=timezone.now())
    post.run()
    statuses = dict(Order.objects.values_list("order_id", "status"))
    assert statuses == {"done": "done", "poor": "failed", "canceled": "canceled"}
    # The letter that was passed over is the one thing wrong so far: let it have been handled.
    for (message_id,) in run("orders", "SELECT message_id FROM outbox_outgoingmessage WHERE type = 'processing.process'"
                             " AND subject = 'canceled'"):  # fmt: skip
        run("processing", f"INSERT INTO outbox_incomingmessage VALUES ('{message_id}', 'x', '', 0, now(), now())")


def run(service: str, sql: str) -> list[Any]:
    with connections[service].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def found(**times: timedelta) -> set[tuple[str, str]]:
    """What the audit finds, as (check, subject), with nothing taken for being in flight."""
    report = audit(**{"grace": NO_TIME, "settle": NO_TIME} | times)
    assert set(report.seconds) == set(CHECKS)
    assert all(finding.repair and finding.detail for finding in report.findings)
    assert report.passed is not report.findings
    return {(finding.check, finding.subject) for finding in report.findings}


def test_nothing_adds_up_to_nothing() -> None:
    assert found() == set()


def test_what_is_well_is_passed(history: None) -> None:
    assert found() == set()


def sold_without_an_order() -> str:
    order_id = "done"
    (hold_id,) = run("orders", f"SELECT hold_id FROM orders_order WHERE order_id = '{order_id}'")[0]
    return f"{order_id}: {hold_id}"


def write(service: str, *, sent: bool, due: timedelta = NO_TIME) -> str:
    """A letter for payments in a service's outbox; its id."""
    now = timezone.now()
    with transaction.atomic(using=service):
        (row,) = model_of(service, "Outgoing").post(Void(order_id="x"), due_at=now + due)
    model_of(service, "Outgoing").objects.filter(pk=row.pk).update(published_at=now if sent else None)
    return str(row.pk)


def break_counters() -> set[tuple[str, str]]:
    run("processing", "UPDATE processing_product SET available = available + 1, received = received + 1")
    return {("counters", "lamp")}


def break_holds() -> set[tuple[str, str]]:
    run("processing", "UPDATE processing_product SET held = held + 1, available = available - 1")
    return {("counters", "lamp"), ("holds", "lamp")}


def break_held() -> set[tuple[str, str]]:
    run("processing", "UPDATE processing_hold SET status = 'released' WHERE order_id = 'done'")
    return {("held", sold_without_an_order()), ("holds", "lamp")}


def break_balance() -> set[tuple[str, str]]:
    run("payments", "UPDATE payments_account SET balance = balance + 5 WHERE user_id = 'poor'")
    return {("ledger", "poor: balance_is_sum_of_entries")}


def break_payment() -> set[tuple[str, str]]:
    run("payments", "UPDATE payments_payment SET status = 'refunded' WHERE order_id = 'done'")
    return {("ledger", "done: payment_is_its_entries")}


def break_capture() -> set[tuple[str, str]]:
    run("orders", "UPDATE orders_order SET total = 1300 WHERE order_id = 'done'")
    return {("captures", "done")}


def break_end() -> set[tuple[str, str]]:
    run("orders", "UPDATE orders_order SET status = 'canceled' WHERE order_id = 'done'")
    return {("captures", "done"), ("history", "done"), ("held", sold_without_an_order())}


def take_for_nobody() -> set[tuple[str, str]]:
    money.charge_account(order_id="nobody", user_id="canceled", money=money.Money(100, "USD"), now=timezone.now())
    return {("captures", "nobody")}


def lose_a_letter() -> set[tuple[str, str]]:
    return {("letters", write("orders", sent=True))}


def forge_a_letter() -> set[tuple[str, str]]:
    message_id = str(uuid7())
    run("payments", f"INSERT INTO outbox_incomingmessage VALUES ('{message_id}', 'x', '', 0, now(), now())")
    return {("letters", message_id)}


def leave_a_letter() -> set[tuple[str, str]]:
    return {("unsent", write("orders", sent=False, due=-timedelta(seconds=1)))}


def leave_a_hold() -> set[tuple[str, str]]:
    (lamp,) = run("processing", "SELECT product_id FROM processing_product")[0]
    long_ago = timezone.now() - timedelta(days=1)
    hold_id = stock.hold(order_id="orphan", quantities={str(lamp): 1}, now=long_ago)
    return {("held", f"orphan: {hold_id}")}


@pytest.mark.parametrize(
    "spoil",
    [
        break_counters, break_holds, break_held, break_balance, break_payment, break_capture, break_end,
        take_for_nobody, lose_a_letter, forge_a_letter, leave_a_letter, leave_a_hold,
    ],
    ids=lambda spoil: spoil.__name__,
)  # fmt: skip
def test_each_thing_that_is_wrong_is_found(history: None, spoil: Callable[[], set[tuple[str, str]]]) -> None:
    expected = spoil()
    assert found() == expected


class TestInFlight:
    def test_nothing_is_found_between_any_two_letters(self, lamp: str, post: Carrier) -> None:
        """With all letters fresh; and nothing of orders, stock and money even when nothing counts as fresh."""
        for order_id, funds in (("rich", 1200), ("poor", 0), ("waverer", 1200)):
            place(order_id, lamp, funds=funds)
        services.cancel_order(order_id="waverer", now=timezone.now())
        waiting = post.collect()
        while waiting:
            assert found(grace=timedelta(minutes=1)) == set()
            assert {check for check, _ in found()} <= {"letters", "unsent"}
            post.deliver(*waiting.pop(0))
            waiting += post.collect()
        assert found() == set()

    def test_a_hold_of_no_order_is_one_until_it_expires(self, lamp: str) -> None:
        stock.hold(order_id="crashed", quantities={lamp: 1}, now=timezone.now())
        assert found() == set()

    def test_a_letter_that_comes_again_is_not_lost(self, history: None) -> None:
        message_id = write("orders", sent=True)
        again = write("payments", sent=False, due=timedelta(hours=1))
        run("payments", f"UPDATE outbox_outgoingmessage SET message_id = '{message_id}' WHERE id = '{again}'")
        assert found() == set()

    def test_a_letter_before_the_window_is_not_looked_for(self) -> None:
        write("orders", sent=True)
        assert found(window=-timedelta(hours=1)) == set()


class TestTheCommand:
    def test_says_yes(self, history: None, capsys: Any) -> None:
        call_command("audit", grace=0, settle=0)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == list(CHECKS)
        assert all(line.endswith("ok") for line in lines)

    def test_says_no_by_its_exit_status(self, history: None, capsys: Any) -> None:
        break_balance()
        with pytest.raises(SystemExit) as end:
            call_command("audit", grace=0, settle=0)
        assert end.value.code == 1
        told = capsys.readouterr().out
        assert "poor: balance_is_sum_of_entries: balance 5, entries 0" in told
        assert "repair: " in told

    def test_speaks_json(self, history: None, capsys: Any) -> None:
        break_balance()
        with pytest.raises(SystemExit):
            call_command("audit", "--json", grace=0, settle=0)
        told = json.loads(capsys.readouterr().out)
        assert told["passed"] is False
        assert {finding["check"] for finding in told["findings"]} == {"ledger"}
        assert set(told["seconds"]) == set(CHECKS)


def test_every_rule_of_money_has_its_repair() -> None:
    assert set(REPAIRS) == set(RULES)
