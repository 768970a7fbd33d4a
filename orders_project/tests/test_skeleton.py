"""An order crosses every service and comes back done, without processes of its own."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from orders import services
from orders.models import Order, OrderEvent
from payments import services as money

pytestmark = pytest.mark.django_db


def place(user_id: str, *, amount: int = 500) -> Order:
    new = services.NewOrder(lines=(services.Line(quantity=1, price=amount),), user_id=user_id)
    return services.place_order(new=new, now=timezone.now())[0]


class TestAnAccountOrder:
    @pytest.mark.parametrize("times", [1, 2])
    def test_is_paid_processed_and_done(self, post: Any, times: int) -> None:
        money.open_account(user_id="ann")
        money.deposit(user_id="ann", amount=2000, now=timezone.now())
        order = place("ann")
        post.times = times
        post.run()
        order.refresh_from_db()
        assert order.status == "done"
        assert [e.status for e in OrderEvent.objects.all()] == ["pending", "payment_pending", "paid", "done"]
        assert money.open_account(user_id="ann")[0].balance == 1500

    def test_without_money_fails(self, post: Any) -> None:
        money.open_account(user_id="poor")
        order = place("poor")
        post.run()
        order.refresh_from_db()
        assert (order.status, order.fail_reason) == ("failed", "insufficient_funds")

    def test_that_waits_too_long_is_voided(self, post: Any) -> None:
        post.passes_over = lambda envelope: envelope.type == "payments.charge"
        order = place("nobody")
        post.run()
        with time_machine.travel(timezone.now() + timedelta(minutes=16)):
            post.run()
        order.refresh_from_db()
        assert (order.status, order.fail_reason) == ("canceled", "payment_timeout")
