"""The history tells the whole state of every order, and manage.py history proves it."""

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from orders import factories, history, saga
from orders.models import Order
from orders.saga import CancelRequested
from payments.messages import PaymentSucceeded, PaymentVoided

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def orders() -> None:
    """Seven orders, some of which have got on."""
    for number in range(7):
        factories.order(order_id=f"order-{number}")
    hear("order-1", PaymentSucceeded(order_id="order-1", payment_id="p-1"))
    hear("order-2", CancelRequested(), PaymentVoided(order_id="order-2"))


def hear(order_id: str, *events: Any) -> None:
    for event in events:
        saga.advance(order_id=order_id, event=event, now=timezone.now(), actor="ann")


@pytest.mark.parametrize("batch", [1, 3, 7, 1000])
def test_every_order_is_looked_at_in_batches(batch: int) -> None:
    found = list(history.check(batch=batch))
    assert sum(one for one in found if isinstance(one, int)) == 7
    assert all(isinstance(one, int) for one in found)


def test_all_is_as_told(capsys: Any) -> None:
    call_command("history", "--check")
    assert capsys.readouterr().out == "All 7 orders are as their histories say.\n"


@pytest.mark.parametrize(
    "change",
    [{"status": "done"}, {"total": 1}, {"payment_id": "other"}, {"version": 9}, {"updated_at": timezone.now()}],
)
def test_what_was_changed_behind_the_history_is_found(change: dict[str, Any], capsys: Any) -> None:
    Order.objects.filter(pk="order-1").update(**change)
    with pytest.raises(CommandError, match="1 of 7 orders"):
        call_command("history", "--check")
    told = capsys.readouterr().out
    assert told.startswith("order-1: ")
    assert next(iter(change)) in told


def test_one_order_s_story_is_shown(capsys: Any) -> None:
    call_command("history", "order-2")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[2], line[3]) for line in lines] == [
        ("1", "pending", "order.created"),
        ("2", "voiding", "order.cancel_requested"),
        ("3", "releasing", "payment.voided"),
    ]


@pytest.mark.parametrize(("arguments", "why"), [(["nothing"], "There is no order nothing"), ([], "Name an order")])
def test_asked_for_nothing_it_says_so(arguments: list[str], why: str) -> None:
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
