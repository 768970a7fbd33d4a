"""The timeline of an order, as data and as text."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from common.authority import Authority
from orders import repair, services
from orders.models import DeadLetter, Order, Outgoing
from orders_project.backoffice import timeline
from outbox.attempts import backoff
from outbox.ids import uuid7
from payments import services as money
from payments.models import Incoming, Payment, WebhookReceipt

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
        ahead = timeline.of(order.order_id, now=order.created_at - timedelta(seconds=1)).waiting  # the database's clock
        assert ahead is not None
        assert ahead.reasons == waiting.reasons
        with time_machine.travel(timezone.now() + timedelta(minutes=2)):
            text = show(order)
        assert "Why it is stuck" in text
        assert "payments.charge has been in the outbox of orders for 2 min: is the relay of orders running?" in text
        assert "The order will be canceled automatically in 13 min" in text

    @pytest.mark.parametrize("attempt", [0, 1])
    def test_says_how_long_a_message_waits_that_a_relay_has_put_off(self, attempt: int) -> None:
        order = place()
        row = Outgoing.objects.get(type="payments.charge")
        row.attempt = attempt
        for n in range(12):
            row.postpone(row.due_at + backoff(n, spread=0), why="The broker can't be reached.")
        row.save()
        now = row.due_at
        waiting = timeline.of(order.order_id, now=now - timedelta(seconds=8)).waiting
        assert waiting is not None
        assert waiting.reasons == (
            "payments.charge has been in the outbox of orders for 2 min."
            " It could not be sent: The broker can't be reached.",
        )
        row.published_at = now
        row.save()
        (moment,) = [
            one for one in timeline.of(order.order_id, now=now).moments if one.title == "payments.charge → payments"
        ]
        (stage,) = moment.stages
        assert (stage.name, round(stage.seconds)) == ("outbox", 143)

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

    @pytest.mark.parametrize(
        ("payment", "webhook", "reason"),
        [
            (
                {"status": "requested", "ask_at": timezone.now(), "unanswered": 6}, {},
                "fake has not answered 6 times in a row. It will be asked again at ",
            ),
            (
                {"status": "refund_refused", "refusal": "charge_disputed"}, {},
                "fake refuses to return the money (charge_disputed): The payment is disputed: the bank decides about"
                " the money. Decide on the page of the payment.",
            ),
            (
                {"status": "pending"}, {"status": "quarantined", "reason": "amount_mismatch"},
                "A webhook of fake about it is in quarantine: The amount is another one. Decide on its page.",
            ),
        ],
    )  # fmt: skip
    def test_names_the_real_reason(
        self, admin_client: Any, post: Any, payment: dict[str, Any], webhook: dict[str, Any], reason: str
    ) -> None:
        order = place()
        Outgoing.objects.update(published_at=timezone.now())
        post.collect()
        Payment.objects.create(order_id=order.order_id, gateway="fake", gateway_payment_id="p1", **payment)
        if webhook:  # which tells its payment only
            fields = {"headers": {}, "body": b"{}", "payment_id": "p1", "received_at": timezone.now()}
            WebhookReceipt.objects.create(gateway="fake", webhook_id="w", **fields, **webhook)
        waiting = timeline.of(order.order_id, now=timezone.now()).waiting
        assert waiting is not None
        assert (waiting.stuck, waiting.overdue) == (True, False)
        assert waiting.reasons[0].startswith(reason)
        page = admin_client.get(reverse("admin:orders_order_change", args=[order.pk])).content.decode()
        assert "Why is it stuck?" in page
        assert reason in page
        assert f">Open the {'webhook' if webhook else 'payment'}</a>" in page

    def test_says_right_after_it_was_canceled_that_this_is_under_way_and_at_the_top_who_did_it_and_why(
        self, admin_client: Any
    ) -> None:
        order = place()
        repair.cancel(order_id=order.pk, now=timezone.now(), by=Authority("eve"), reason="by phone", if_version=1)
        page = admin_client.get(reverse("admin:orders_order_change", args=[order.pk])).content.decode()
        assert "payments.void is on its way to payments." in page
        assert "Why is it stuck?" not in page
        assert "running?" not in page
        top = [page.index(text) for text in ("An operator has canceled it.", "By eve.", "“by phone”")]
        assert top == sorted(top)
        places = [page.index(f">{title}</h2>") for title in ("Items", "Money", "Timeline", "Refunds", "More fields")]
        assert places == sorted(places)
        assert top[-1] < places[0]
        assert "An operator has canceled it. By eve. Reason given: by phone" in show(order)

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
