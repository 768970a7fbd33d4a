"""Holding, selling and releasing stock, in every order of the calls."""

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise, permutations
from typing import Any
from uuid import UUID

import pytest
from celery import current_app
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from common import trial_outcomes
from outbox.errors import Undeliverable
from processing import services
from processing.messages import HoldExpired
from processing.models import Hold, HoldLine, Outgoing, Processing, Product, StockMovement
from processing.tasks import expire_holds

from .factories import counters, hold, hold_at, product, status, when_expired

pytestmark = pytest.mark.django_db


def process(order_id: str, hold_id: str | None, *, refusal: str | None = None) -> str:
    """Process the order and return the verdict."""
    return services.process(order_id=order_id, hold_id=hold_id, refusal=refusal, now=timezone.now()).verdict


def release(order_id: str, hold_id: str | None) -> str:
    """Release the hold and return the verdict that stands."""
    released = services.release(order_id=order_id, hold_id=hold_id, now=timezone.now())
    verdict = Processing.objects.get(pk=order_id).verdict
    assert released == (verdict != Processing.Verdict.ACCEPTED)
    return verdict


def movements() -> list[tuple[str, str, int]]:
    return list(StockMovement.objects.order_by("id").values_list("product__sku", "kind", "quantity"))


class TestHolding:
    def test_sets_stock_aside(self) -> None:
        product("lamp", stock=10)
        held = hold("o1", lamp=4)
        assert counters("lamp") == (6, 4, 0)
        assert movements() == [("lamp", "received", 10), ("lamp", "held", 4)]
        assert HoldLine.objects.get().hold_id == UUID(held)

    def test_the_last_item_is_possible_and_one_more_is_not(self) -> None:
        product("lamp", stock=3)
        hold("o1", lamp=3)
        with pytest.raises(services.InsufficientStock) as refusal:
            hold("o2", lamp=1)
        lamp = Product.objects.get()
        assert refusal.value.extra == {
            "lacking": [{"product_id": str(lamp.pk), "sku": "lamp", "requested": 1, "available": 0}]
        }
        assert counters("lamp") == (0, 3, 0)

    def test_is_all_or_nothing_and_names_what_lacks(self) -> None:
        product("lamp", stock=10)
        product("chair", stock=1)
        product("table", stock=10, is_active=False)
        with pytest.raises(services.InsufficientStock) as refusal:
            hold("o1", lamp=1, chair=2, table=1)
        assert sorted(one.sku for one in refusal.value.lacking) == ["chair", "table"]
        assert counters("lamp") == (10, 0, 0)
        assert not Hold.objects.exists()
        assert StockMovement.objects.filter(kind="held").count() == 0

    def test_of_what_is_not_sold_any_more_is_refused(self) -> None:
        product("table", stock=10, is_active=False)
        with pytest.raises(services.InsufficientStock):
            hold("o1", table=1)
        assert counters("table") == (10, 0, 0)

    def test_of_more_than_a_column_holds_is_refused(self) -> None:
        product("lamp", stock=10)
        with pytest.raises(services.InsufficientStock):
            hold("o1", lamp=2**38)

    def test_is_answered_by_the_hold_that_stands_which_lasts_longer_then(self, settings: Any) -> None:
        product("lamp", stock=5)
        first, later = hold("o1", lamp=3), timezone.now() + settings.HOLD_TTL / 2
        assert hold_at(later, "o1", lamp=3) == first
        assert hold("o1", lamp=3) == first  # whoever was frozen does not make it end earlier
        assert Hold.objects.get().expires_at == later + settings.HOLD_TTL
        assert counters("lamp") == (2, 3, 0)

    @pytest.mark.parametrize("other", [{"lamp": 2}, {"chair": 3}, {"lamp": 3, "chair": 1}])
    def test_of_other_stock_is_refused_while_there_is_a_hold(self, other: dict[str, int]) -> None:
        product("lamp", stock=5)
        product("chair", stock=5)
        first = hold("o1", lamp=3)
        with pytest.raises(services.HeldOtherwise) as refused:
            hold("o1", **other)
        assert 0 < int(str(refused.value.extra["retry_after"])) <= 1200
        assert (status(first), counters("lamp"), counters("chair")) == ("held", (2, 3, 0), (5, 0, 0))

    def test_by_an_attempt_that_was_frozen_until_the_hold_had_expired_is_refused(self) -> None:
        product("lamp", stock=5)
        first, before = hold("o1", lamp=3), timezone.now()
        assert len(services.expired_holds(now=when_expired())) == 1  # it may be given back from now on
        with pytest.raises(services.PlacedTooSlowly):
            hold_at(before, "o1", lamp=3)
        assert (status(first), counters("lamp")) == ("held", (2, 3, 0))
        assert hold_at(when_expired(), "o1", lamp=3) != first

    def test_replaces_what_a_crashed_attempt_left_behind_and_has_expired(self) -> None:
        product("lamp", stock=5)
        product("chair", stock=5)
        first = hold("o1", lamp=5)
        second = hold_at(when_expired(), "o1", lamp=2, chair=1)
        assert (status(first), status(second)) == ("released", "held")
        assert (counters("lamp"), counters("chair")) == ((3, 2, 0), (4, 1, 0))

    def test_costs_the_same_for_one_line_and_for_many(self, django_assert_num_queries: Any) -> None:
        basket = {f"p{number}": number % 3 + 1 for number in range(100)}
        for sku in basket:
            product(sku, stock=10)
        wanted = {str(one.pk): basket[one.sku] for one in Product.objects.all()}
        few = dict(list(wanted.items())[:1])
        with django_assert_num_queries(3, using="processing"):  # savepoint, write, release
            services.hold(order_id="few", quantities=few, now=timezone.now())
        with django_assert_num_queries(3, using="processing"):
            services.hold(order_id="many", quantities=wanted, now=timezone.now())


class TestProcessing:
    def test_sells_what_is_held(self) -> None:
        product("lamp", stock=10)
        held = hold("o1", lamp=4)
        assert process("o1", held) == "accepted"
        assert (counters("lamp"), status(held)) == ((6, 0, 4), "sold")
        assert movements()[-1] == ("lamp", "sold", 4)

    def test_refused_keeps_the_hold_until_it_is_released(self) -> None:
        product("lamp", stock=10)
        held = hold("o1", lamp=4)
        assert process("o1", held, refusal="bad_luck") == "refused"
        assert counters("lamp") == (6, 4, 0)
        assert release("o1", held) == "refused"
        assert (counters("lamp"), status(held)) == ((10, 0, 0), "released")

    def test_without_stock_needs_no_hold(self) -> None:
        assert process("o1", None) == "accepted"
        assert process("o2", None, refusal="x" * 80) == "refused"
        assert Processing.objects.get(pk="o2").reason == "x" * 50

    def test_of_a_lost_hold_is_refused(self) -> None:
        product("lamp", stock=10)
        lost = hold("o1", lamp=4)
        hold_at(when_expired(), "o1", lamp=1)
        assert process("o1", lost) == "refused"
        assert Processing.objects.get(pk="o1").reason == "hold_lost"
        assert counters("lamp") == (9, 1, 0)

    def test_does_not_ask_the_processor_once_there_is_a_verdict(self, settings: Any) -> None:
        settings.PROCESSOR = f"{__name__}.bad_mood"
        assert ask_processor("o1") == "bad_mood"
        process("o1", None)
        process("o2", None, refusal="late")
        release("o3", None)
        assert services.answered(["o1", "o2", "o3", "o4"]) == {"o1": None, "o2": "late", "o3": "withdrawn"}
        assert [ask_processor(order_id) for order_id in ("o1", "o2", "o3")] == [None, "late", "withdrawn"]

    @pytest.mark.parametrize(("is_on", "refusal"), [(True, "bad_luck"), (False, None)])
    def test_refuses_the_product_of_the_test_mode_where_it_is_on(
        self, settings: Any, is_on: bool, refusal: str | None
    ) -> None:
        settings.TEST_MODE = is_on
        product(trial_outcomes.REFUSED)
        product("lamp")
        hold("o1", **{trial_outcomes.REFUSED: 1, "lamp": 1})
        hold("o2", lamp=1)
        assert (ask_processor("o1"), ask_processor("o2")) == (refusal, None)


def ask_processor(order_id: str) -> str | None:
    return services.ask_processor(order_id=order_id, known=services.answered([order_id]))


def bad_mood(order_id: str) -> str | None:
    return "bad_mood"


class TestAnyOrderOfEvents:
    """The first call decides, whatever follows."""

    CALLS = ("process", "process again", "release", "release again", "expire")

    @pytest.mark.parametrize("calls", list(permutations(CALLS)), ids=">".join)
    def test_ends_the_same_way(self, calls: tuple[str, ...]) -> None:
        product("lamp", stock=10)
        held = hold("o1", lamp=4)
        functions: dict[str, Callable[[], Any]] = {
            "process": lambda: process("o1", held),
            "release": lambda: release("o1", held),
            "expire": lambda: services.expired_holds(now=timezone.now() + timedelta(days=1)),
        }
        answers = [functions[call.removesuffix(" again")]() for call in calls if call != "expire"]
        sold = next(call for call in calls if call != "expire").startswith("process")
        assert answers == (["accepted"] * 4 if sold else ["withdrawn"] * 4)
        assert (counters("lamp"), status(held)) == (((6, 0, 4), "sold") if sold else ((10, 0, 0), "released"))
        assert len(movements()) == 3

    def test_a_release_before_anything_else_is_a_tombstone(self) -> None:
        assert release("o1", None) == "withdrawn"
        assert process("o1", None) == "withdrawn"

    def test_giving_an_orphan_back_leaves_the_order_id_free(self) -> None:
        product("lamp", stock=10)
        orphan = hold("o1", lamp=4)
        for _ in range(2):
            services.give_back(hold_id=orphan, now=timezone.now())
        assert counters("lamp") == (10, 0, 0)
        held = hold("o1", lamp=1)
        services.give_back(hold_id=orphan, now=timezone.now())
        assert process("o1", held) == "accepted"
        services.give_back(hold_id=held, now=timezone.now())
        assert counters("lamp") == (9, 0, 1)


class TestTakingBack:
    @pytest.fixture
    def held(self) -> str:
        """Four lamps of ten are held."""
        product("lamp", stock=10)
        return hold("o1", lamp=4)

    def take_back(self, held: str, request_id: str, quantity: int) -> str:
        """Return the code of the refusal, or nothing."""
        quantities = {str(Product.objects.get().pk): quantity}
        try:
            with transaction.atomic(using="processing"):
                services.take_back(hold_id=held, request_id=request_id, quantities=quantities, now=timezone.now())
        except Undeliverable as refusal:
            return refusal.code
        return ""

    def test_happens_once_for_each_request_and_never_for_more_than_was_sold(self, held: str) -> None:
        process("o1", held)
        asked = [("r1", 1), ("r1", 1), ("r2", 4), ("r3", 3), ("r4", 1)]
        assert [self.take_back(held, *one) for one in asked] == ["", "", "more_than_sold", "", "more_than_sold"]
        assert counters("lamp") == (10, 0, 0)
        assert [quantity for _, kind, quantity in movements() if kind == "returned"] == [1, 3]

    def test_of_what_was_not_sold_is_refused(self, held: str) -> None:
        assert self.take_back(held, "r1", 1) == "not_sold"
        release("o1", held)
        assert self.take_back(held, "r1", 1) == "not_sold"
        assert counters("lamp") == (10, 0, 0)

    @pytest.mark.parametrize("before", [0, 1, 4])
    def test_of_all_takes_back_what_has_not_come_back_before(self, held: str, before: int) -> None:
        process("o1", held)
        if before:
            assert self.take_back(held, "r1", before) == ""
        assert services.release(order_id="o1", hold_id=held, even_if_sold=True, now=timezone.now())
        assert counters("lamp") == (10, 0, 0)


class TestAnIdThatIsNone:
    """Such a message is a dead letter at once: another attempt reads it no better."""

    @pytest.mark.parametrize(
        "handle",
        [
            lambda **at: services.process(order_id="o1", hold_id="None", refusal=None, **at),
            lambda **at: services.release(order_id="o1", hold_id="None", even_if_sold=True, **at),
            lambda **at: services.keep_hold(hold_id="None", until=timezone.now(), **at),
            lambda **at: services.take_back(hold_id="None", request_id="r", quantities={}, **at),
            lambda **at: services.give_back(hold_id="None", **at),
        ],
        ids=["process", "release", "keep_hold", "take_back", "give_back"],
    )
    def test_makes_a_message_undeliverable(self, handle: Callable[..., Any]) -> None:
        with pytest.raises(Undeliverable) as refusal:
            handle(now=timezone.now())
        assert refusal.value.code == "malformed"


@pytest.mark.parametrize("quantity", [0, -1, 5])
@pytest.mark.parametrize("is_known", [True, False])
def test_what_was_not_sold_is_not_taken_back(quantity: int, is_known: bool) -> None:
    lamp = product("lamp", stock=10)
    held = hold("o1", lamp=4)
    process("o1", held)
    quantities = {str(lamp.pk) if is_known else "no-id": quantity}
    with pytest.raises(Undeliverable, match="More would come back"), transaction.atomic(using="processing"):
        services.take_back(hold_id=held, request_id="r", quantities=quantities, now=timezone.now())
    assert counters("lamp") == (6, 0, 4)


class TestExpiry:
    def test_is_announced_once_a_minute_while_the_hold_stays_open(self, time_machine: Any, settings: Any) -> None:
        product("lamp", stock=10)
        held = hold("o1", lamp=4)
        expire_holds()
        assert not Outgoing.objects.exists()
        begin = timezone.now()
        for seconds, announced in ((0, 1), (30, 1), (61, 2)):
            time_machine.move_to(begin + settings.HOLD_TTL + timedelta(seconds=seconds + 1), tick=False)
            expire_holds()
            assert Outgoing.objects.count() == announced
        envelope = Outgoing.objects.earliest("id").envelope()
        assert envelope.message() == HoldExpired(order_id="o1", hold_id=held)
        assert counters("lamp") == (6, 4, 0)

    def test_is_announced_less_often_the_longer_it_is_in_vain(self, time_machine: Any) -> None:
        """A day in which orders cannot end it: thirty times, not 1,440."""
        product("lamp", stock=10)
        hold("o1", lamp=4)
        begin = when_expired()
        announced: list[int] = []
        for minute in range(24 * 60):
            time_machine.move_to(begin + timedelta(minutes=minute, seconds=minute / 10), tick=False)
            expire_holds()
            announced += [minute] * (Outgoing.objects.count() - len(announced))
        assert announced[:7] == [0, 1, 3, 7, 15, 31, 63]
        assert {later - earlier for earlier, later in pairwise(announced[6:])} <= {60, 61}

    def test_waits_as_long_as_a_new_hold_lasts_where_its_order_wants_it(self, time_machine: Any, settings: Any) -> None:
        """Also where what the order waits for is overdue: its money is captured."""
        product("lamp", stock=10)
        held = hold("o1", lamp=4)
        time_machine.move_to(when_expired(), tick=False)
        expire_holds()
        now = timezone.now()
        for until in (now - timedelta(minutes=1), now + timedelta(days=2), now):
            services.keep_hold(hold_id=held, until=until, now=now)
        assert Hold.objects.get().expires_at == now + timedelta(days=2)
        Hold.objects.update(expires_at=now, asked_at=now)
        services.keep_hold(hold_id=held, until=now - timedelta(minutes=1), now=now)
        kept = Hold.objects.get()
        assert (kept.expires_at, kept.asked_at) == (now + settings.HOLD_TTL, None)

    def test_of_an_ended_hold_is_never_announced(self, time_machine: Any) -> None:
        product("lamp", stock=10)
        release("o1", hold("o1", lamp=4))
        process("o2", hold("o2", lamp=4))
        time_machine.move_to(timezone.now() + timedelta(days=1))
        expire_holds()
        assert not Outgoing.objects.exists()

    def test_is_checked_periodically(self) -> None:
        entry = current_app.conf.beat_schedule["processing.expire_holds processing"]
        assert (entry["schedule"].seconds, entry["options"]["queue"]) == (10, "processing.beat")
        assert entry["task"] in current_app.tasks


class TestTheDatabase:
    """Refuses what no code may write."""

    @pytest.mark.parametrize(
        ("change", "constraint"),
        [
            ("available = available - 11, held = held + 11", "product_never_oversold"),
            ("held = held - 1, available = available + 1", "product_never_oversold"),
            ("sold = -1, available = available + 1", "product_never_oversold"),
            ("available = available + 1", "product_stock_conserved"),
            ("sold = sold + 1", "product_stock_conserved"),
            ("price = -1", "product_price_not_negative"),
        ],
    )
    def test_refuses_impossible_counters(self, change: str, constraint: str) -> None:
        product("lamp", stock=10)
        self.refuses(f"UPDATE processing_product SET {change}", constraint)

    @pytest.mark.parametrize("table", ["processing_stockmovement", "processing_holdline", "processing_processing"])
    @pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET {} = {}"])
    def test_refuses_to_rewrite_history(self, table: str, statement: str) -> None:
        product("lamp", stock=10)
        process("o1", hold("o1", lamp=4))
        column = "order_id" if table == "processing_processing" else "quantity"
        self.refuses(statement.format(table, column, column), "append-only")

    @pytest.mark.parametrize("quantity", [0, -1])
    def test_refuses_movements_of_nothing(self, quantity: int) -> None:
        lamp = product("lamp")
        with pytest.raises(DatabaseError, match="movement_moves_something"), transaction.atomic(using="processing"):
            StockMovement.objects.create(product=lamp, kind="received", quantity=quantity, at=timezone.now())

    def test_refuses_lines_of_nothing_and_holds_that_end_halfway(self) -> None:
        lamp = product("lamp")
        held = Hold.objects.get(pk=hold("o1", lamp=1))
        with pytest.raises(DatabaseError, match="hold_quantity_positive"), transaction.atomic(using="processing"):
            HoldLine.objects.create(hold=held, product=product("chair"), quantity=0)
        self.refuses("UPDATE processing_hold SET status = 'sold'", "hold_is_open_or_ended")
        self.refuses(f"DELETE FROM processing_product WHERE product_id = '{lamp.pk}'", "foreign key")

    def test_refuses_a_second_open_hold_of_an_order(self) -> None:
        product("lamp")
        hold("o1", lamp=1)
        with pytest.raises(DatabaseError, match="one_open_hold_per_order"), transaction.atomic(using="processing"):
            Hold.objects.create(order_id="o1", created_at=timezone.now(), expires_at=timezone.now())

    def refuses(self, statement: str, why: str) -> None:
        with pytest.raises(DatabaseError, match=why):
            self.run(statement)

    def run(self, statement: str) -> None:
        with transaction.atomic(using="processing"), connections["processing"].cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute(statement)


class TestCorrecting:
    def test_below_nothing_is_refused(self) -> None:
        lamp = product("lamp", stock=5)
        hold("o1", lamp=4)
        with pytest.raises(services.InsufficientStock):
            services.receive_stock(
                product_id=lamp.pk, quantity=-2, reason="broken", actor="ann", now=timezone.now(), correction=True
            )
        assert counters("lamp") == (1, 4, 0)
        assert [kind for _, kind, _ in movements()] == ["received", "held"]
