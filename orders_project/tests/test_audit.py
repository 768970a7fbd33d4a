"""The audit finds each thing that does not add up, and nothing else, whatever is in flight."""

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
from orders_project.tests.carrier import Carrier
from outbox.ids import uuid7
from outbox.services import model_of
from payments import services as money
from payments.messages import Void
from processing import services as stock

pytestmark = pytest.mark.django_db

NO_TIME = timedelta(0)


@pytest.fixture(autouse=True)
def lamp() -> str:
    """A lamp for 12.00, with ten in stock."""
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
    post.passes_over = lambda envelope: envelope.type == "processing.process"
    post.run()
    services.cancel_order(order_id="canceled", now=timezone.now())
    post.run()
    statuses = dict(Order.objects.values_list("order_id", "status"))
    assert statuses == {"done": "done", "poor": "failed", "canceled": "canceled"}
    # The message that was skipped is the one thing that is wrong so far: note it as handled.
    for (message_id,) in run("orders", "SELECT message_id FROM outbox_outgoingmessage WHERE type = 'processing.process'"
                             " AND subject = 'canceled'"):  # fmt: skip
        run("processing", f"INSERT INTO outbox_incomingmessage VALUES ('{message_id}', 'x', '', 0, now(), now())")


def run(service: str, sql: str) -> list[Any]:
    with connections[service].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def found(**times: timedelta) -> set[tuple[str, str]]:
    """The findings as (check, subject), where nothing counts as in flight."""
    asked: dict[str, Any] = {"grace": NO_TIME, "settle": NO_TIME} | times
    report = audit(**asked)
    assert set(report.seconds) == set(CHECKS)
    assert all(finding.repair and finding.detail for finding in report.findings)
    assert report.passed is not report.findings
    return {(finding.check, finding.subject) for finding in report.findings}


def test_empty_databases_pass() -> None:
    assert found() == set()


def test_correct_data_pass(history: None) -> None:
    assert found() == set()


def hold_of_the_done_order() -> str:
    order_id = "done"
    (hold_id,) = run("orders", f"SELECT hold_id FROM orders_order WHERE order_id = '{order_id}'")[0]
    return f"{order_id}: {hold_id}"


def write(service: str, *, sent: bool, due: timedelta = NO_TIME) -> str:
    """Store a message for payments in a service's outbox; return its id."""
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
    return {("held", hold_of_the_done_order()), ("holds", "lamp")}


def break_balance() -> set[tuple[str, str]]:
    run("payments", "UPDATE payments_account SET balance = balance + 5 WHERE user_id = 'poor'")
    return {("ledger", "poor USD: balance_is_sum_of_entries")}


def break_payment() -> set[tuple[str, str]]:
    run("payments", "UPDATE payments_payment SET status = 'refunded' WHERE order_id = 'done'")
    return {("ledger", "done: payment_is_its_entries")}


def break_capture() -> set[tuple[str, str]]:
    run("orders", "UPDATE orders_order SET total = 1300 WHERE order_id = 'done'")
    return {("captures", "done"), ("totals", "done")}


def break_end() -> set[tuple[str, str]]:
    run("orders", "UPDATE orders_order SET status = 'canceled' WHERE order_id = 'done'")
    return {("captures", "done"), ("history", "done"), ("held", hold_of_the_done_order())}


def charge_an_unknown_order() -> set[tuple[str, str]]:
    money.charge_account(order_id="nobody", user_id="canceled", money=money.Money(100, "USD"), now=timezone.now())
    run("payments", "DELETE FROM outbox_outgoingmessage WHERE subject = 'nobody'")  # its announcement is not under way
    return {("captures", "nobody")}


def lose_a_message() -> set[tuple[str, str]]:
    return {("messages", write("orders", sent=True))}


def forge_a_message() -> set[tuple[str, str]]:
    message_id = str(uuid7())
    run("payments", f"INSERT INTO outbox_incomingmessage VALUES ('{message_id}', 'x', '', 0, now(), now())")
    return {("messages", message_id)}


def leave_a_message() -> set[tuple[str, str]]:
    return {("unsent", write("orders", sent=False, due=-timedelta(seconds=1)))}


def leave_a_hold() -> set[tuple[str, str]]:
    (lamp,) = run("processing", "SELECT product_id FROM processing_product")[0]
    long_ago = timezone.now() - timedelta(days=1)
    hold_id = stock.hold(order_id="orphan", quantities={str(lamp): 1}, now=long_ago)
    return {("held", f"orphan: {hold_id}")}


@pytest.mark.parametrize(
    "break_it",
    [
        break_counters, break_holds, break_held, break_balance, break_payment, break_capture, break_end,
        charge_an_unknown_order, lose_a_message, forge_a_message, leave_a_message, leave_a_hold,
    ],
    ids=lambda break_it: break_it.__name__,
)  # fmt: skip
def test_each_thing_that_is_wrong_is_found(history: None, break_it: Callable[[], set[tuple[str, str]]]) -> None:
    expected = break_it()
    assert found() == expected


class TestInFlight:
    def test_nothing_is_found_between_any_two_messages(self, lamp: str, post: Carrier) -> None:
        """Nothing at all within the grace; and nothing about orders, stock and money even without any grace."""
        for order_id, funds in (("rich", 1200), ("poor", 0), ("waverer", 1200)):
            place(order_id, lamp, funds=funds)
        services.cancel_order(order_id="waverer", now=timezone.now())
        waiting = post.collect()
        while waiting:
            assert found(grace=timedelta(minutes=1)) == set()
            assert {check for check, _ in found()} <= {"messages", "unsent"}
            post.deliver(*waiting.pop(0))
            waiting += post.collect()
        assert found() == set()

    def test_a_hold_without_an_order_is_in_flight_until_it_expires(self, lamp: str) -> None:
        stock.hold(order_id="crashed", quantities={lamp: 1}, now=timezone.now())
        assert found() == set()

    def test_a_message_that_waits_for_a_retry_is_not_lost(self, history: None) -> None:
        message_id = write("orders", sent=True)
        again = write("payments", sent=False, due=timedelta(hours=1))
        run("payments", f"UPDATE outbox_outgoingmessage SET message_id = '{message_id}' WHERE id = '{again}'")
        assert found() == set()

    def test_a_message_before_the_window_is_not_looked_for(self) -> None:
        write("orders", sent=True)
        assert found(window=-timedelta(hours=1)) == set()


class TestTheCommand:
    def test_succeeds(self, history: None, capsys: Any) -> None:
        call_command("audit", grace=0, settle=0)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == list(CHECKS)
        assert all(line.endswith("ok") for line in lines)

    def test_fails_with_an_exit_status(self, history: None, capsys: Any) -> None:
        break_balance()
        with pytest.raises(SystemExit) as end:
            call_command("audit", grace=0, settle=0)
        assert end.value.code == 1
        output = capsys.readouterr().out
        assert "poor USD: balance_is_sum_of_entries: balance 5, entries 0" in output
        assert "repair: " in output

    def test_writes_json(self, history: None, capsys: Any) -> None:
        break_balance()
        with pytest.raises(SystemExit):
            call_command("audit", "--json", grace=0, settle=0)
        report = json.loads(capsys.readouterr().out)
        assert report["passed"] is False
        assert {finding["check"] for finding in report["findings"]} == {"ledger"}
        assert set(report["seconds"]) == set(CHECKS)
