"""Concurrent calls on a real database: nothing is sold twice, and there is no deadlock."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest
from django.db import OperationalError, connections, transaction
from django.db.models import Sum
from django.utils import timezone

from common import locks
from common.locks import LongWaits
from outbox.errors import Undeliverable
from processing import holds, services
from processing.models import Hold, Product, StockMovement

from .factories import counters, hold, hold_at, product, status, when_expired

pytestmark = pytest.mark.django_db(transaction=True, databases=["processing"])


def released(done: bool) -> str:
    return "withdrawn" if done else "accepted"


def at_once(*calls: Callable[[], str], threads: int) -> Counter[str]:
    """Run these calls in threads that start together, and return how often each answer was given."""
    start = threading.Barrier(threads)

    def work(mine: list[Callable[[], str]]) -> list[str]:
        try:
            connections["processing"].ensure_connection()
            start.wait(timeout=60)
            return [call() for call in mine]
        finally:
            connections["processing"].close()

    shares = [list(calls[number::threads]) for number in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return Counter(answer for answers in pool.map(work, shares) for answer in answers)


def buy(order_id: str, **quantities: int) -> str:
    try:
        hold(order_id, **quantities)
    except services.InsufficientStock as refusal:
        return refusal.code
    return "held"


def test_two_hundred_buyers_of_fifty_items_get_exactly_fifty() -> None:
    product("lamp", stock=50)
    calls = [lambda order_id=f"o{number}": buy(order_id, lamp=1) for number in range(200)]
    assert at_once(*calls, threads=50) == {"held": 50, "insufficient_stock": 150}
    assert counters("lamp") == (0, 50, 0)
    assert Hold.objects.filter(status="held").count() == 50


def test_a_hold_ends_once() -> None:
    """It is given back while it waits for its product, and is to be sold meanwhile."""
    lamp = product("lamp", stock=10)
    hold("other", lamp=5)
    held, now = hold("o1", lamp=1), timezone.now()

    def give_back() -> str:
        services.give_back(hold_id=held, now=now)
        return "given back"

    def process() -> str:
        return services.process(order_id="o1", hold_id=held, refusal=None, now=now).verdict

    assert one_after_the_other(lamp, give_back, process) == [{"given back": 1}, {"refused": 1}]
    assert (counters("lamp"), status(held)) == ((5, 5, 0), "released")


def test_no_more_comes_back_than_was_sold() -> None:
    lamp = product("lamp", stock=10)
    held, now = hold("o1", lamp=4), timezone.now()
    services.process(order_id="o1", hold_id=held, refusal=None, now=now)
    hold("other", lamp=5)
    services.process(order_id="other", hold_id=str(Hold.objects.get(order_id="other").pk), refusal=None, now=now)

    def take_back(request_id: str) -> str:
        try:
            services.take_back(hold_id=held, request_id=request_id, quantities={str(lamp.pk): 3}, now=now)
        except Undeliverable as refusal:
            return refusal.code
        return "back"

    answers = one_after_the_other(lamp, lambda: take_back("r1"), lambda: take_back("r2"))
    assert answers == [{"back": 1}, {"more_than_sold": 1}]
    assert counters("lamp") == (4, 0, 6)


def one_after_the_other(locked: Product, *calls: Callable[[], str]) -> list[Counter[str]]:
    """Begin these calls, each of which waits for the product or for one before it; return what they answer then."""
    with ThreadPoolExecutor(len(calls)) as pool:
        with transaction.atomic(using="processing"):
            Product.objects.select_for_update().get(pk=locked.pk)
            begun = []
            for number, call in enumerate(calls, start=1):
                begun.append(pool.submit(at_once, call, threads=1))
                while waiting() < number:
                    pass
        return [call.result() for call in begun]


def waiting() -> int:
    """How many sessions wait for a lock in the database."""
    with connections["processing"].cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])


def test_two_buyers_of_the_last_item() -> None:
    for attempt in range(20):
        product(f"last{attempt}", stock=1)
        answers = at_once(*[lambda n=n, sku=f"last{attempt}": buy(f"{sku}-{n}", **{sku: 1}) for n in (1, 2)], threads=2)
        assert answers == {"held": 1, "insufficient_stock": 1}


def test_mixed_baskets_never_deadlock() -> None:
    """Sixteen writers hold, replace, sell, release and correct overlapping baskets. A deadlock would raise."""
    skus = [f"p{number}" for number in range(8)]
    for sku in skus:
        product(sku, stock=1000)
    ids = {one.sku: one.pk for one in Product.objects.all()}

    def run_order(number: int) -> str:
        chance = random.Random(number)

        def basket() -> dict[str, int]:
            return {sku: chance.randint(1, 3) for sku in chance.sample(skus, 3)}

        order_id = f"o{number}"
        held = hold(order_id, **basket())
        if chance.random() < 0.5:
            held = hold_at(when_expired(), order_id, **basket())  # an attempt after a crash
        if chance.random() < 0.2:
            services.receive_stock(
                product_id=ids[chance.choice(skus)],
                quantity=1,
                reason="",
                actor="",
                now=timezone.now(),
                correction=True,
            )
        if chance.random() < 0.5:
            return services.process(order_id=order_id, hold_id=held, refusal=None, now=timezone.now()).verdict
        return released(services.release(order_id=order_id, hold_id=held, now=timezone.now()))

    answers = at_once(*[lambda n=number: run_order(n) for number in range(160)], threads=16)
    assert set(answers) == {"accepted", "withdrawn"}
    assert answers.total() == 160
    for sku in skus:
        moved = dict(
            StockMovement.objects.filter(product=UUID(str(ids[sku])))
            .values_list("kind")
            .annotate(total=Sum("quantity"))
            .order_by()
        )
        available, held, sold = counters(sku)
        assert held == 0 == moved["held"] - moved["released"] - moved["sold"]
        assert sold == moved["sold"]
        assert available == moved["received"] + moved.get("corrected", 0) - sold


@pytest.mark.parametrize("attempt", range(5))
def test_either_selling_or_releasing_wins(attempt: int) -> None:
    product("lamp", stock=100)
    held = [hold(f"o{number}", lamp=1) for number in range(20)]

    def process(order_id: str, hold_id: str) -> str:
        return services.process(order_id=order_id, hold_id=hold_id, refusal=None, now=timezone.now()).verdict

    def release(order_id: str, hold_id: str) -> str:
        return released(services.release(order_id=order_id, hold_id=hold_id, now=timezone.now()))

    calls = [
        lambda ask=ask, o=f"o{number}", h=hold_id: ask(o, h)
        for number, hold_id in enumerate(held)
        for ask in (process, release)
    ]
    answers = at_once(*calls, threads=8)
    assert answers.total() == 40
    assert counters("lamp")[1] == 0
    assert counters("lamp")[2] * 2 == answers["accepted"]
    assert (100 - counters("lamp")[0]) * 2 == answers["accepted"]


def test_attempts_at_one_order_get_one_hold() -> None:
    product("lamp", stock=50)
    calls = [lambda: hold("o1", lamp=2)] * 16
    ((held, answers),) = at_once(*calls, threads=8).items()
    assert (answers, status(held), counters("lamp")) == (16, "held", (48, 2, 0))


def test_while_one_thread_waits_long_for_a_product_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "_waits", LongWaits(1))
    monkeypatch.setattr(locks, "BRIEFLY", "10ms")
    product("lamp", stock=5)
    parameters = connections["processing"].get_connection_params()
    known = ("host", "port", "user", "password", "dbname")
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(**{name: parameters[name] for name in known if parameters.get(name)}) as frozen,
    ):
        frozen.execute("SELECT 1 FROM processing_product FOR UPDATE")
        waiting = pool.submit(at_once, lambda: buy("patient", lamp=1), threads=1)
        waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while frozen.execute(waits).fetchone() is None:
            frozen.execute("SELECT pg_stat_clear_snapshot()")
        with pytest.raises(OperationalError, match="lock timeout"):
            buy("hasty", lamp=1)
        assert not waiting.done()
        frozen.rollback()
        assert waiting.result() == {"held": 1}
    assert counters("lamp") == (4, 1, 0)
    assert Hold.objects.get().order_id == "patient"
