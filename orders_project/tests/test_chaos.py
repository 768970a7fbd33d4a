"""
Anything may happen, in any order: orders and cancellations, messages late, doubled or torn, crashes, time passing.

Hypothesis makes it up. After every step every promise holds, and when all is quiet again nothing is left open.
"""

from contextlib import ExitStack, suppress
from datetime import timedelta

import pytest
import time_machine
from django.conf import settings as django_settings
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.errors import Refusal
from orders import services, transitions
from orders_project.audit import audit
from orders_project.tests import efforts
from orders_project.tests.carrier import Carrier
from orders_project.tests.invariants import broken, unfinished
from orders_project.tests.orderings import forgotten
from outbox.envelope import Envelope
from payments import services as money
from processing import services as stock
from processing.tasks import expire_holds

MOST_ORDERS = 5
MOST_COPIES = 20

CURRENCIES = ("USD", "JPY")
ADDED = (
    services.Line(kind="tax", name="VAT", quantity=1, price=190, of=1),
    services.Line(kind="discount", name="Regular", quantity=1, price=100, of=1),
    services.Line(kind="shipping", name="Parcel", quantity=1, price=49),
)

messages = strategies.integers(min_value=0, max_value=50)
order_numbers = strategies.integers(min_value=1, max_value=MOST_ORDERS)


class Chaos(RuleBasedStateMachine):
    """A small shop in which everything that can go wrong does."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.clock = self.stack.enter_context(time_machine.travel(timezone.now(), tick=False))
        settings = {"PROCESSING_SUCCESS_RATE": 1, "HOLD_TTL": timedelta(minutes=10), "CURRENCIES": CURRENCIES}
        self.stack.enter_context(override_settings(**settings))
        self.stack.enter_context(forgotten())
        self.carrier = Carrier()
        self.waiting: list[tuple[str, Envelope]] = []
        self.copies = 0

    @initialize()
    def open_shop(self) -> None:
        now = timezone.now()
        made = [
            stock.make_product(
                name=sku, sku=sku, price=price, prices={"JPY": price}, stock=count, actor="test", now=now
            )
            for sku, price, count in (("lamp", 1200, 3), ("chair", 500, 2))
        ]
        self.products = [str(product.pk) for product in made]
        for currency in CURRENCIES:
            money.open_account(user_id="ann", currency=currency)
            money.deposit(user_id="ann", currency=currency, amount=3000, now=now)

    def place(self, number: int, quantities: list[int]) -> None:
        """Each order number has one basket, so that the same number again is the same request."""
        catalogue = tuple(
            services.Line(quantity=quantity, product_id=product)
            for product, quantity in zip(self.products, quantities, strict=True)
            if quantity
        )
        lines = (*(catalogue or (services.Line(quantity=1, price=700),)), *ADDED[: number - 1])
        user = "ann" if number != MOST_ORDERS else "nobody"
        currency = CURRENCIES[number % len(CURRENCIES)]
        new = services.NewOrder(lines=lines, order_id=f"order-{number}", user_id=user, currency=currency)
        with suppress(Refusal), transaction.atomic(using="orders"), transaction.atomic(using="processing"):
            services.place_order(new=new, now=timezone.now())

    @rule(number=order_numbers)
    def places_an_order(self, number: int) -> None:
        self.place(number, [number % 3, number % 2])

    @rule(number=order_numbers)
    def dies_between_the_two_commits(self, number: int) -> None:
        """The hold is committed, the order is not."""
        with transaction.atomic(using="orders"):
            self.place(number, [number % 3, number % 2])
            transaction.set_rollback(True, using="orders")

    @rule(number=order_numbers)
    def cancels(self, number: int) -> None:
        with suppress(services.NoSuchOrder, transitions.OutOfTurn), transaction.atomic(using="orders"):
            services.cancel_order(order_id=f"order-{number}", now=timezone.now())

    @rule(amount=strategies.integers(min_value=1, max_value=2000), currency=strategies.sampled_from(CURRENCIES))
    def deposits(self, amount: int, currency: str) -> None:
        money.deposit(user_id="ann", currency=currency, amount=amount, now=timezone.now())

    @rule(rate=strategies.sampled_from([0, 1]))
    def processor_changes_its_mood(self, rate: int) -> None:
        django_settings.PROCESSING_SUCCESS_RATE = rate

    @rule(minutes=strategies.sampled_from([1, 6, 11, 16]))
    def time_passes(self, minutes: int) -> None:
        self.clock.shift(timedelta(minutes=minutes))
        expire_holds()

    @precondition(lambda self: self.waiting or self.fetch())
    @rule(pick=messages)
    def message_arrives(self, pick: int) -> None:
        self.fetch()
        self.carrier.deliver(*self.waiting.pop(pick % len(self.waiting)))

    @precondition(lambda self: self.copies < MOST_COPIES and (self.waiting or self.fetch()))
    @rule(pick=messages)
    def message_arrives_and_will_again(self, pick: int) -> None:
        """The worker dies after its commit, before it acknowledges; or the relay before it stamps."""
        self.fetch()
        self.copies += 1
        self.carrier.deliver(*self.waiting[pick % len(self.waiting)])

    @precondition(lambda self: self.copies < MOST_COPIES and (self.waiting or self.fetch()))
    @rule(pick=messages)
    def worker_dies_before_its_commit(self, pick: int) -> None:
        """Whatever the handler did is gone; the message stays in the queue."""
        self.fetch()
        self.copies += 1
        service, envelope = self.waiting[pick % len(self.waiting)]
        with transaction.atomic(using=service):
            self.carrier.deliver(service, envelope)
            transaction.set_rollback(True, using=service)

    def fetch(self) -> bool:
        self.waiting += self.carrier.collect()
        return bool(self.waiting)

    @invariant()
    def every_promise_holds(self) -> None:
        assert broken() == []

    def teardown(self) -> None:
        try:
            if hasattr(self, "products"):
                self.all_comes_to_rest()
        finally:
            self.stack.close()

    def all_comes_to_rest(self) -> None:
        """When nobody asks for anything any more, everything ends, and nothing is kept."""
        for _ in range(5):
            while self.fetch():
                self.carrier.deliver(*self.waiting.pop(0))
            self.clock.shift(timedelta(minutes=16))
            expire_holds()
        assert broken() + unfinished() == []
        report = audit(grace=timedelta(0), settle=timedelta(0))
        assert {finding for finding in report.findings if finding.check != "unsent"} == set()


@pytest.mark.slow
@pytest.mark.django_db
def test_no_chaos_breaks_a_promise() -> None:
    """As many lives of the shop as the profile says: see efforts.py."""
    run_state_machine_as_test(Chaos, settings=efforts.OF_LIVES)
