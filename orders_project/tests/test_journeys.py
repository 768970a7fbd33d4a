"""
Whole journeys of an order, each with every message delivered once, twice and in every order.

To add one, add a `Journey` to `JOURNEYS`: how it begins, what interrupts it (each interruption is tried between any two
messages), and how it may end.
"""

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import transaction
from django.utils import timezone

from orders import services, transitions
from orders.models import Order, OrderEvent
from orders_project.tests import efforts
from orders_project.tests.carrier import Carrier, Interruption
from orders_project.tests.invariants import broken, unfinished
from orders_project.tests.orderings import in_every_order
from outbox.envelope import Envelope
from payments import services as money
from payments.models import Account, Entry
from processing import services as stock
from processing.models import Product
from processing.tasks import expire_holds

pytestmark = pytest.mark.django_db

ORDER = "journey-1"
BEGIN = timezone.now().replace(microsecond=0)


# How journeys begin -------------------------------------------------------------------------------------------------


def buys_a_lamp(*, funds: int | None = 2000) -> None:
    """Ann orders a lamp for 12.00; her account holds `funds`, or she has no account."""
    now = timezone.now()
    lamp = stock.make_product(name="Lamp", sku="lamp", price=1200, stock=3, actor="test", now=now)
    if funds is not None:
        money.open_account(user_id="ann")
    if funds:
        money.deposit(user_id="ann", amount=funds, now=now)
    place(services.Line(quantity=1, product_id=str(lamp.pk)))


def orders_something_free_of_stock() -> None:
    """Ann pays an amount for a free line."""
    money.open_account(user_id="ann")
    money.deposit(user_id="ann", amount=2000, now=timezone.now())
    place(services.Line(quantity=1, price=1200))


def place(line: services.Line) -> Order:
    new = services.NewOrder(lines=(line,), order_id=ORDER, user_id="ann")
    return services.place_order(new=new, now=timezone.now())[0]


# What happens in between --------------------------------------------------------------------------------------------


def customer_cancels() -> None:
    """The customer cancels, which is refused when it is too late."""
    with suppress(transitions.OutOfTurn), transaction.atomic(using="orders"):
        services.cancel_order(order_id=ORDER, now=timezone.now())


CANCELS = Interruption(customer_cancels, services=("orders",))


@dataclass
class Clock:
    """The time of the journey."""

    travel: Any

    def passes(self, span: timedelta) -> Interruption:
        def interruption() -> None:
            self.travel.move_to(timezone.now() + span, tick=False)
            expire_holds()

        return Interruption(interruption)


# The journeys -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Journey:
    """How an order begins, what interrupts it, and how it may end, as (status, fail_reason)."""

    begin: Callable[[], object]
    ends: set[tuple[str, str]]
    interruptions: Callable[[Clock], list[Interruption]] = lambda clock: []
    loses: Callable[[Envelope], bool] = lambda envelope: False
    settings: Mapping[str, object] = field(default_factory=dict)
    orders: int = 200  # the most orders of messages that are tried; 0 if there are too many, and shuffles must do


DONE = ("done", "")
CANCELED = ("canceled", "canceled_by_customer")
REFUSED = ("failed", "processing_refused")
BY_NIGHT = 200 if efforts.NAME == "nightly" else 0  # what another journey shows too, but for how it ends
refusing = {"PROCESSING_SUCCESS_RATE": 0}


def loses(kind: str) -> Callable[[Envelope], bool]:
    return lambda envelope: envelope.type == kind


JOURNEYS = {
    "success": Journey(buys_a_lamp, {DONE}),
    "success of a free line": Journey(orders_something_free_of_stock, {DONE}),
    "not enough money": Journey(lambda: buys_a_lamp(funds=1199), {("failed", "insufficient_funds")}),
    "no account": Journey(lambda: buys_a_lamp(funds=None), {("failed", "no_account")}),
    "the processor refuses": Journey(buys_a_lamp, {REFUSED}, settings=refusing),
    "the customer cancels": Journey(buys_a_lamp, {DONE, CANCELED}, lambda clock: [CANCELS]),
    "the customer cancels twice": Journey(
        buys_a_lamp, {DONE, CANCELED}, lambda clock: [CANCELS, CANCELS], orders=BY_NIGHT
    ),
    "the customer cancels a free line": Journey(
        orders_something_free_of_stock, {DONE, CANCELED}, lambda clock: [CANCELS], orders=BY_NIGHT
    ),
    "a cancellation without money": Journey(
        lambda: buys_a_lamp(funds=None), {("failed", "no_account"), CANCELED}, lambda clock: [CANCELS]
    ),
    "a cancellation meets a refusal": Journey(
        buys_a_lamp, {REFUSED, CANCELED}, lambda clock: [CANCELS], settings=refusing, orders=BY_NIGHT
    ),
    "payment overdue": Journey(
        buys_a_lamp,
        {("canceled", "payment_timeout")},
        lambda clock: [clock.passes(timedelta(minutes=16))],
        loses=loses("payments.charge"),
    ),
    "payment perhaps overdue": Journey(
        buys_a_lamp,
        {DONE, ("canceled", "payment_timeout"), ("failed", "processing_timeout")},
        lambda clock: [clock.passes(timedelta(minutes=16))],
    ),
    "processing overdue": Journey(
        buys_a_lamp, {("failed", "processing_timeout")}, loses=loses("processing.process")
    ),
    "the hold expires": Journey(
        buys_a_lamp, {DONE, ("canceled", "hold_expired")}, lambda clock: [clock.passes(timedelta(minutes=11))],
        settings={"HOLD_TTL": timedelta(minutes=10), "PROCESSING_TIMEOUT": timedelta(minutes=15)},
    ),
    "the hold of a canceled order expires": Journey(
        buys_a_lamp,
        {DONE, CANCELED, ("canceled", "hold_expired")},
        lambda clock: [CANCELS, clock.passes(timedelta(minutes=11))],
        orders=0,
        settings={"HOLD_TTL": timedelta(minutes=10)},
    ),
}  # fmt: skip


@pytest.fixture(params=JOURNEYS, ids=lambda name: name.replace(" ", "-"))
def journey(request: Any, settings: Any) -> Journey:
    one: Journey = JOURNEYS[request.param]
    for name, value in one.settings.items():
        setattr(settings, name, value)
    return one


def travel(journey: Journey, carrier: Carrier) -> tuple[str, str]:
    """Run this journey from its beginning to its end."""
    with time_machine.travel(timezone.now(), tick=False):
        journey.begin()
        return go_on(journey, carrier)


def go_on(journey: Journey, carrier: Carrier) -> tuple[str, str]:
    """Run what has begun, check all that must be true at its end, and return how it ended."""
    with time_machine.travel(timezone.now(), tick=False) as clock:
        carrier.passes_over = journey.loses
        carrier.interruptions = [*carrier.interruptions, *journey.interruptions(Clock(clock))]
        carrier.run()
        for _ in range(3):  # for messages that are due later
            clock.shift(timedelta(minutes=16))
            carrier.run()
    order = Order.objects.get()
    assert broken() + unfinished() == []
    assert (order.status, order.fail_reason) in journey.ends
    assert_all_is_back(order)
    return order.status, order.fail_reason


def assert_all_is_back(order: Order) -> None:
    """Check the exact counts of stock and money for how the order ended."""
    done = order.status == "done"
    for lamp in Product.objects.all():
        assert (lamp.available, lamp.held, lamp.sold) == ((2, 0, 1) if done else (3, 0, 0))
    for account in Account.objects.filter(kind="customer"):
        deposited = sum(entry.amount for entry in Entry.objects.filter(kind="deposit"))
        assert account.balance == deposited - (1200 if done else 0)
    versions = list(OrderEvent.objects.order_by("version").values_list("version", flat=True))
    assert versions == list(range(1, order.version + 1))


@pytest.mark.slow
@pytest.mark.parametrize("journey", [name for name in JOURNEYS if JOURNEYS[name].orders], indirect=True)
def test_in_every_order(journey: Journey) -> None:
    """Every message once, in every order that can make a difference."""
    with time_machine.travel(timezone.now(), tick=False):
        journey.begin()
        seen = in_every_order(lambda carrier: go_on(journey, carrier), most=journey.orders)
    assert set(seen) == journey.ends


@pytest.mark.parametrize("times", [1, 2, 3])
def test_with_copies(journey: Journey, times: int) -> None:
    """Every message this many times, one after the other."""
    travel(journey, Carrier(times=times))


@pytest.mark.parametrize("seed", range(4))
def test_with_copies_shuffled(journey: Journey, seed: int) -> None:
    """Every message twice, in a random order."""
    travel(journey, Carrier(times=2, shuffle=random.Random(seed)))
