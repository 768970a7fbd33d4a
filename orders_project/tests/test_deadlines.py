"""Every status has its time, counted from when an order enters it; who is not answered asks less and less often."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.db.models.functions import Now
from django.utils import timezone

from orders import gauges, saga, services, transitions
from orders.messages import Overdue
from orders.models import Incoming, Order, OrderEvent, Outgoing
from orders_project.backoffice import timeline
from orders_project.tests.carrier import Carrier
from payments import services as money
from payments.models import Entry, Payment
from processing.models import Hold, Processing
from processing.models import Outgoing as OutgoingOfProcessing
from processing.tasks import expire_holds

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        yield clock


def place() -> Order:
    money.open_account(user_id="ann")
    money.deposit(user_id="ann", amount=2000, now=timezone.now())
    new = services.NewOrder(lines=(services.Line(quantity=1, price=500),), order_id="o", user_id="ann")
    return services.place_order(new=new, now=timezone.now())[0]


def losing(*types: str) -> Carrier:
    return Carrier(passes_over=lambda envelope: envelope.type in types)


def due() -> Any:
    return (
        Outgoing.objects.filter(published_at=None, type=Overdue.name)
        .order_by("due_at")
        .values_list("due_at", flat=True)
    )


def until(clock: Any, at: Any, post: Carrier) -> None:
    """Let time pass, with each timer at its time."""
    while (next_at := due().filter(due_at__lte=at).first()) is not None:
        clock.move_to(next_at, tick=False)
        post.run()
    clock.move_to(at, tick=False)
    post.run()


def test_the_timer_of_an_order_that_has_ended_is_withdrawn(post: Carrier) -> None:
    order = place()
    timer = Outgoing.objects.get(type=Overdue.name)
    assert order.timer_id == timer.message_id
    post.run()
    order.refresh_from_db()
    assert (order.status, order.timer_at, order.timer_id) == ("done", None, None)
    assert not Outgoing.objects.filter(type=Overdue.name).exists()
    with time_machine.travel(timezone.now() + timedelta(hours=1)):
        post.run()
    assert not Incoming.objects.filter(type=Overdue.name).exists()


def test_a_timer_that_an_earlier_one_replaces_is_withdrawn(clock: Any) -> None:
    post, order = losing("payments.charge", "payments.void"), place()
    post.run()
    first = order.timer_id
    clock.shift(3 * MINUTE)
    services.cancel_order(order_id="o", now=timezone.now())
    order.refresh_from_db()
    assert first != order.timer_id
    assert [row.message_id for row in Outgoing.objects.filter(type=Overdue.name)] == [order.timer_id]


def test_a_timer_that_does_not_count_does_nothing_unless_the_one_that_does_is_late(clock: Any) -> None:
    post, order = losing("payments.charge", "payments.void"), place()
    post.run()
    Order.objects.update(timer_at=timezone.now() + timedelta(hours=2))
    for hours, status in ((1, "pending"), (2, "voiding")):
        clock.shift(timedelta(hours=1))
        transitions.on_timeout(order_id=order.pk, now=timezone.now(), timer_id=str(uuid4()))
        found = Order.objects.get()
        assert (found.status, found.timer_id == order.timer_id) == (status, hours == 1)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"due_at": Now() + timedelta(seconds=50)}, id="is-due-soon"),
        pytest.param({"first_due_at": Now() - MINUTE, "due_at": Now() + 30 * MINUTE}, id="was-put-off"),
        pytest.param({"published_at": Now()}, id="was-sent"),
    ],
)
def test_a_timer_that_can_have_been_sent_stays(post: Carrier, change: dict[str, Any]) -> None:
    """As a message that was handled and that nobody has sent would be one that somebody made up."""
    place()
    Outgoing.objects.filter(type=Overdue.name).update(**change)
    post.passes_over = lambda envelope: envelope.type == Overdue.name
    post.run()
    assert Order.objects.get().status == "done"
    (timer,) = Outgoing.objects.filter(type=Overdue.name)
    post.deliver("orders", timer.envelope())
    assert Incoming.objects.filter(type=Overdue.name).exists()
    assert Order.objects.get().version == 4


def test_a_paid_order_that_nobody_processes_turns_back_after_five_minutes(clock: Any) -> None:
    post, order = losing("processing.process"), place()
    clock.shift(timedelta(seconds=40))
    post.run()
    paid_at = timezone.now()
    order.refresh_from_db()
    assert (order.status, transitions.times_out_at(order)) == ("paid", paid_at + 5 * MINUTE)
    waiting = timeline.of("o", now=timezone.now()).waiting
    assert waiting is not None
    assert (waiting.since, waiting.next_at) == (paid_at, paid_at + 5 * MINUTE)
    assert waiting.next_step == "The payment will be refunded automatically"
    until(clock, paid_at + 5 * MINUTE - timedelta(seconds=1), post)
    order.refresh_from_db()
    assert order.status == "paid"
    until(clock, paid_at + 5 * MINUTE, post)
    order.refresh_from_db()
    assert (order.status, order.fail_reason) == ("failed", "processing_timeout")


def test_a_void_that_is_lost_is_asked_for_again_after_a_minute(clock: Any) -> None:
    post, order = losing("payments.charge", "payments.void"), place()
    post.run()
    clock.shift(3 * MINUTE)
    services.cancel_order(order_id="o", now=timezone.now())
    post.run()
    canceled_at = timezone.now()
    post.passes_over = lambda envelope: False
    until(clock, canceled_at + MINUTE - timedelta(seconds=1), post)
    order.refresh_from_db()
    assert order.status == "voiding"
    until(clock, canceled_at + MINUTE, post)
    order.refresh_from_db()
    assert order.status == "canceled"


def test_a_service_that_is_away_for_six_hours_is_asked_few_times_and_the_order_is_seen(clock: Any) -> None:
    post, order = losing("payments.charge", "payments.void"), place()
    services.cancel_order(order_id="o", now=timezone.now())
    post.run()
    began, posted = timezone.now(), Outgoing.objects.filter(type="payments.void").count()
    history = OrderEvent.objects.count()
    until(clock, began + timedelta(hours=6), post)
    assert 8 <= Outgoing.objects.filter(type="payments.void").count() <= 15
    assert posted == 1
    assert Outgoing.objects.filter(type=Overdue.name).count() <= 16
    assert OrderEvent.objects.count() == history  # no repetition in it
    order.refresh_from_db()
    assert (order.status_since, order.version) == (began, 2)
    assert began + timedelta(hours=6) < transitions.times_out_at(order) <= began + timedelta(hours=7)
    rows = {row["status"]: row for row in gauges.READINGS[0].take()}
    assert rows["voiding"]["orders_stuck"] == 1


@pytest.mark.parametrize("method", ["account", "gateway"])
def test_a_charge_that_comes_after_its_deadline_takes_no_money(clock: Any, post: Carrier, method: str) -> None:
    """As after a backlog of a quarter of an hour in the queue of payments."""
    order = place()
    if method == "gateway":
        Order.objects.update(payment_method=method)
        Outgoing.objects.filter(type="payments.charge").update(
            data=saga.charge(Order.objects.get()).data  # the same request, for the gateway
        )
    clock.shift(16 * MINUTE)
    post.passes_over = lambda envelope: envelope.type == Overdue.name
    post.run()
    order.refresh_from_db()
    payment = Payment.objects.get()
    assert (payment.status, payment.fail_reason, payment.tried_at) == ("failed", "payment_timeout", None)
    assert (order.status, order.fail_reason) == ("canceled", "payment_timeout")
    assert not Entry.objects.exclude(kind="deposit").exists()


def test_the_processor_is_not_asked_after_the_deadline(clock: Any, settings: Any) -> None:
    settings.PROCESSOR = "orders_project.tests.test_deadlines.never"
    post, order = losing("processing.process", Overdue.name), place()
    post.run()
    late = Outgoing.objects.get(type="processing.process")
    clock.shift(6 * MINUTE)
    post.passes_over = lambda envelope: envelope.type == Overdue.name
    post.deliver("processing", late.envelope())
    post.run()
    order.refresh_from_db()
    assert (Processing.objects.get().verdict, Processing.objects.get().reason) == ("refused", "processing_timeout")
    assert (order.status, order.fail_reason) == ("failed", "processing_timeout")
    assert sorted(Entry.objects.values_list("kind", flat=True)) == ["charge", "deposit", "refund"]


def never(order_id: str) -> str | None:
    raise AssertionError("The processor was asked.")


def test_requests_of_an_older_version_have_no_deadline(post: Carrier) -> None:
    order = place()
    row = Outgoing.objects.get(type="payments.charge")
    del row.data["deadline"]
    row.save()
    post.run()
    order.refresh_from_db()
    assert order.status == "done"


def test_expired_holds_are_told_as_fast_as_they_come() -> None:
    past = timezone.now() - MINUTE
    Hold.objects.bulk_create(Hold(order_id=f"o{n}", created_at=past, expires_at=past) for n in range(1200))
    expire_holds()
    assert OutgoingOfProcessing.objects.filter(type="stock.hold_expired").count() == 1200
    expire_holds()
    assert OutgoingOfProcessing.objects.count() == 1200
