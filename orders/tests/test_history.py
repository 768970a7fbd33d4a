"""The history contains the whole state of every order, and manage.py history proves it."""

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from common.authority import Authority
from orders import factories, history, transitions
from orders.models import Order, OrderEvent
from orders.saga import CancelRequested
from payments.messages import PaymentSucceeded, PaymentVoided

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def orders() -> None:
    """Seven orders, two of which have made transitions."""
    for number in range(7):
        factories.order(order_id=f"order-{number}")
    advance("order-1", PaymentSucceeded(order_id="order-1", payment_id="p-1"))
    advance("order-2", CancelRequested(), PaymentVoided(order_id="order-2"))


def advance(order_id: str, *events: Any) -> None:
    for event in events:
        transitions.advance(order_id=order_id, event=event, now=timezone.now(), by=Authority("ann"))


@pytest.mark.parametrize("batch", [1, 3, 7, 1000])
def test_every_order_is_compared_in_batches(batch: int) -> None:
    found = list(history.check(batch=batch))
    assert sum(one for one in found if isinstance(one, int)) == 7
    assert all(isinstance(one, int) for one in found)


def test_all_orders_match(capsys: Any) -> None:
    call_command("history", "--check")
    assert capsys.readouterr().out == "All 7 orders match their histories.\n"


def test_the_first_event_names_only_what_has_a_value() -> None:
    order = factories.order(description="")
    assert {*OrderEvent.objects.get(order=order).data} == {"user_id", "status", "total", "currency", "payment_method"}
    assert all(isinstance(one, int) for one in history.check())


@pytest.mark.parametrize(
    "change",
    [
        {"status": "done"},
        {"total": 1},
        {"total": 0},
        {"user_email": "a@example.com"},
        {"user_id": ""},
        {"payment_id": "other"},
        {"version": 9},
        {"updated_at": timezone.now()},
    ],
)
def test_a_change_without_an_event_is_found(change: dict[str, Any], capsys: Any) -> None:
    Order.objects.filter(pk="order-1").update(**change)
    with pytest.raises(CommandError, match="1 of 7 orders"):
        call_command("history", "--check")
    output = capsys.readouterr().out
    assert output.startswith("order-1: ")
    assert next(iter(change)) in output


def test_the_history_of_one_order_is_shown(capsys: Any) -> None:
    call_command("history", "order-2")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[2], line[3]) for line in lines] == [
        ("1", "pending", "order.created"),
        ("2", "voiding", "order.cancel_requested"),
        ("3", "releasing", "payment.voided"),
    ]


@pytest.mark.parametrize(("arguments", "why"), [(["nothing"], "There is no order nothing"), ([], "Give an order id")])
def test_without_an_order_it_fails(arguments: list[str], why: str) -> None:
    with pytest.raises(CommandError, match=why):
        call_command("history", *arguments)


@pytest.mark.parametrize("table", ["orders_orderevent", "orders_orderline"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET order_id = order_id"])
def test_the_database_refuses_to_rewrite_it(table: str, statement: str) -> None:
    with (
        pytest.raises(DatabaseError, match=f"{table} is append-only"),
        transaction.atomic(using="orders"),
        connections["orders"].cursor() as cursor,
    ):
        cursor.execute(statement.format(table))
