"""The timeline of an order, as data and as text."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.utils import timezone

from orders import services
from orders.models import DeadLetter, Order
from orders_project.backoffice import timeline
from outbox.ids import uuid7
from payments import services as money
from payments.models import Incoming

pytestmark = pytest.mark.django_db


def place(user_id: str = "ann") -> Order:
    money.open_account(user_id="ann")
    money.deposit(user_id="ann", amount=2000, now=timezone.now())
    new = services.NewOrder(lines=(services.Line(quantity=1, price=500),), user_id=user_id)
    return services.place_order(new=new, now=timezone.now())[0]


def show(order: Order) -> str:
    out = StringIO()
    call_command("order", order.order_id, stdout=out, no_color=True)
    return out.getvalue()


class TestADoneOrder:
    def test_is_shown_in_causal_order(self, post: Any) -> None:
        order = place()
        post.run()
        found = timeline.of(order.order_id, now=timezone.now())
        assert (found.status, found.waiting) == ("done", None)
        steps = [moment.title for moment in found.moments if moment.kind in {"request", "step"}]
        assert steps == [
            "accepted → pending",
            "payment.succeeded → payment pending",
            "payment.succeeded → paid",
            "order.processed → done",
        ]
        depths = {moment.title: moment.depth for moment in found.moments if moment.kind == "message"}
        assert depths == {
            "payments.charge → payments": 0,
            "payment.succeeded → orders": 1,
            "processing.process → processing": 2,
            "order.processed → orders": 3,
        }
        services = {moment.title: moment.service for moment in found.moments if moment.kind == "message"}
        assert services["payment.succeeded → orders"] == "payments"

    def test_shows_the_stages_of_every_message(self, post: Any) -> None:
        order = place()
        post.run()
        for moment in timeline.of(order.order_id, now=timezone.now()).moments:
            if moment.kind == "message":
                assert [stage.name for stage in moment.stages] == ["outbox", "broker", "inbox"]
                assert all(stage.seconds >= 0 for stage in moment.stages)

    def test_is_printed_as_text_and_as_json(self, post: Any) -> None:
        order = place()
        post.run()
        text = show(order)
        assert f"Order {order.order_id}: done" in text
        assert "orders      accepted → pending  (v1)" in text
        assert "processing        order.processed → orders" in text  # three causes deep
        out = StringIO()
        call_command("order", order.order_id, "--json", stdout=out)
        assert json.loads(out.getvalue())["status"] == "done"


class TestAWaitingOrder:
    def test_shows_an_unsent_message_and_the_next_step(self) -> None:
        order = place()
        waiting = timeline.of(order.order_id, now=timezone.now()).waiting
        assert waiting is not None
        assert waiting.reasons == ("payments.charge is on its way to payments.",)
        assert waiting.next_at == order.status_since + timedelta(seconds=900)
        assert waiting.next_step == "The order will be canceled automatically"
        assert not waiting.overdue
        assert not waiting.stuck
        with time_machine.travel(timezone.now() + timedelta(minutes=2)):
            text = show(order)
        assert "payments.charge has been in the outbox of orders for 2 min: is the relay of orders running?" in text
        assert "The order will be canceled automatically in 13 min" in text

    def test_shows_an_unhandled_message(self, post: Any) -> None:
        post.passes_over = lambda envelope: envelope.type == "payments.charge"
        order = place()
        post.run()
        assert "payments.charge is on its way to payments." in show(order)
        with time_machine.travel(timezone.now() + timedelta(minutes=2)):
            text = show(order)
        assert "payments.charge has been in the queue payments for 2 min: is a worker of payments running?" in text

    def test_shows_a_dead_letter(self, post: Any) -> None:
        order = place()
        post.collect()
        dead = DeadLetter.objects.create(
            origin="consumer", queue="payments", message_id=uuid7(), type="payments.charge", subject=order.order_id,
            reason="failed", error="Boom: secret", fingerprint="f", body=b"{}", died_at=timezone.now(),
        )  # fmt: skip
        assert (
            "payments.charge is a dead letter of orders: Handling it failed again and again with an error."
            f" Correct the cause, then replay it ({dead.id})." in show(order)
        )

    def test_past_its_timeout_asks_for_the_relay_and_the_worker(self) -> None:
        order = place()
        with time_machine.travel(timezone.now() + timedelta(minutes=20)):
            text = show(order)
        assert "Why it is stuck (pending for 20 min):" in text
        assert "The next step is overdue: it was due 5 min ago" in text
        assert "Is the relay of orders running" in text


def test_an_order_that_does_not_exist_is_named() -> None:
    with pytest.raises(CommandError, match="There is no order nobody") as refusal:
        call_command("order", "nobody")
    assert refusal.value.returncode == 4
    assert not Incoming.objects.exists()
