"""The table: every pair is decided once, every route ends, and no end keeps stock or money."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone

from common.authority import Authority
from common.state_diagram import with_diagram
from orders import repair, transitions
from orders.diagram import becomes, command_of, decision, mermaid
from orders.history import initial_data, rebuild, state
from orders.messages import DeliverWebhook, Overdue
from orders.models import ENDS, Order, OrderEvent, Outgoing, Status
from orders.saga import (
    ALREADY,
    EVENTS,
    FAILURES,
    REASONS,
    REFUSALS,
    REFUSED,
    STEPS,
    TABLES,
    TIMEOUTS,
    CancelRequested,
    CaptureRequested,
    Event,
    Step,
    look_up,
)
from outbox.message import REGISTRY
from payments import messages as money
from processing import messages as stock

BEGINNINGS = (Status.PENDING, Status.RESERVED)
FORTH = {*BEGINNINGS, Status.PAYMENT_PENDING, Status.AUTHORIZED, Status.CAPTURING, Status.PAID}
WAY_BACK = (Status.VOIDING, Status.REFUNDING, Status.RELEASING)
CASES = [
    pytest.param(variant, status, event, id=f"{variant or 'as a rule'}-{status}-{event.__name__}")
    for variant in TABLES
    for status in Status
    for event in EVENTS
    if not variant or look_up(status, event, variant=variant) != look_up(status, event)
]
PAIRS = [pytest.param(status, event, id=f"{status}-{event.__name__}") for status in Status for event in EVENTS]
# The fields of an order of each variant.
FIELDS: dict[str, dict[str, str]] = {
    "": {"payment_method": "account"},
    "invoice": {"payment_method": "invoice"},
    "captured after processing": {"payment_method": "gateway", "capture": "after_processing"},
}
O = "o1"  # noqa: E741
EXAMPLES: dict[type[Event], Event] = {
    money.PaymentPending: money.PaymentPending(order_id=O, payment_id="pay-1"),
    money.PaymentAuthorized: money.PaymentAuthorized(order_id=O, payment_id="pay-1", amount=500),
    money.PaymentSucceeded: money.PaymentSucceeded(order_id=O, payment_id="pay-1"),
    money.PaymentFailed: money.PaymentFailed(order_id=O, reason="insufficient_funds"),
    money.PaymentVoided: money.PaymentVoided(order_id=O),
    money.PaymentRefunded: money.PaymentRefunded(order_id=O),
    money.PaymentReturnRefused: money.PaymentReturnRefused(order_id=O, reason="charge_disputed"),
    money.PaymentReturnUndone: money.PaymentReturnUndone(order_id=O, amount=500, reason="account_closed"),
    stock.OrderProcessed: stock.OrderProcessed(order_id=O),
    stock.ProcessingRefused: stock.ProcessingRefused(order_id=O, reason="bad_luck"),
    stock.StockReleased: stock.StockReleased(order_id=O),
    stock.HoldExpired: stock.HoldExpired(order_id=O, hold_id="00000000-0000-0000-0000-000000000000"),
    Overdue: Overdue(order_id=O),
    CancelRequested: CancelRequested(),
    CaptureRequested: CaptureRequested(500),
}


@pytest.mark.parametrize(("status", "event"), PAIRS)
def test_every_pair_is_decided_exactly_once(status: Status, event: type[Event]) -> None:
    decided = [(status, event) in STEPS, status in ALREADY[event], status in REFUSED.get(event, {})]
    assert decided.count(True) == 1, dict(zip(("step", "old news", "refused"), decided, strict=True))


def test_every_event_that_orders_handles_is_in_the_table() -> None:
    not_about_its_status = {DeliverWebhook, money.RefundSucceeded, money.RefundFailed, money.PaymentDisputed}
    messages = {kind for kind in REGISTRY.values() if kind.to == "orders"} - not_about_its_status
    assert set(EVENTS) == messages | {CancelRequested, CaptureRequested} == set(EXAMPLES)
    assert {event for _, event in STEPS} | set(REFUSED) <= set(EVENTS)


def steps_of(variant: str) -> dict[tuple[Status, type[Event]], Step]:
    decided = {(status, event): look_up(status, event, variant=variant) for status in Status for event in EVENTS}
    return {pair: step for pair, step in decided.items() if isinstance(step, Step)}


def steps_from(status: Status, *, variant: str = "") -> Iterator[tuple[type[Event], Step, Status]]:
    for (source, event), step in steps_of(variant).items():
        if source == status:
            yield from ((event, step, target) for target in becomes(step))


def reachable(*begin: Status, variant: str = "") -> set[Status]:
    seen, waiting = set(begin), list(begin)
    while waiting:
        status = waiting.pop()
        for _, step, target in steps_from(status, variant=variant):
            new = {target, *([step.through] if step.through else [])} - seen
            seen |= new
            waiting += new
    return seen


def test_every_status_can_be_reached() -> None:
    assert reachable(*BEGINNINGS) == set(Status)
    assert reachable(*BEGINNINGS, variant="captured after processing") == set(Status)
    assert reachable(*BEGINNINGS, variant="invoice") == {*BEGINNINGS, Status.RELEASING, *ENDS}


@pytest.mark.parametrize("status", sorted(set(Status) - ENDS))
def test_every_route_can_end(status: Status) -> None:
    assert reachable(status) & ENDS


@pytest.mark.parametrize("status", sorted(ENDS))
def test_an_end_is_never_left(status: Status) -> None:
    assert reachable(status) == {status}


@pytest.mark.parametrize("status", sorted(set(Status) - ENDS))
def test_no_order_waits_for_ever(status: Status) -> None:
    """Every open status has a timeout, after which the order sends a command."""
    assert TIMEOUTS[status]().total_seconds() > 0
    assert command_of(STEPS[status, Overdue])


def test_only_open_orders_wait() -> None:
    assert set(TIMEOUTS) == set(Status) - ENDS


def test_every_refusal_has_its_sentence() -> None:
    tables = {id(table): table for tables in TABLES.values() for table in tables}.values()
    assert {code for table in tables for codes in table.refused.values() for code in codes.values()} == set(REFUSALS)


def test_turning_back_has_a_reason() -> None:
    turns = {
        event
        for variant in TABLES
        for (status, event), step in steps_of(variant).items()
        if status in FORTH and not set(becomes(step)) <= {*FORTH, Status.DONE}
    }
    assert turns == set(REASONS)


# Events that come only after one of these commands.
ANSWERS: dict[type[Event], set[str]] = {
    money.PaymentRefunded: {"refund", "void", "capture"},
    money.PaymentReturnRefused: {"refund", "void", "capture"},
    stock.StockReleased: {"release"},
    stock.OrderProcessed: {"process"},
    stock.ProcessingRefused: {"process"},
}
RETURNS = {money.PaymentRefunded, money.PaymentVoided, money.PaymentFailed}


@dataclass(frozen=True)
class Situation:
    """What matters of the way that an order has come: what it has said and heard, and what became of its money."""

    status: Status
    said: frozenset[str] = frozenset()
    heard: frozenset[type[Event]] = frozenset()
    money_asked_back: bool = True  # since it came in, if it did
    money_is_back: bool = True

    def may_hear(self, event: type[Event]) -> bool:
        """Money that was to be captured goes back by itself only where the capture is refused."""
        asked = self.said if self.status == Status.CAPTURING else self.said - {"capture"}
        return event not in ANSWERS or bool(ANSWERS[event] & asked)

    def onward(self, variant: str) -> Iterator["Situation"]:
        for event, step, target in steps_from(self.status, variant=variant):
            if not self.may_hear(event):
                continue
            command = command_of(step)
            comes_in = event is money.PaymentSucceeded
            yield Situation(
                target,
                self.said | ({command} if command else set()),
                self.heard | {event},
                command in ("refund", "void") or (self.money_asked_back and not comes_in),
                event in RETURNS or (self.money_is_back and not comes_in),
            )


def situations(variant: str) -> set[Situation]:
    """All that an order can come into, up to its end."""
    seen = {Situation(status, frozenset({"process"} if variant == "invoice" else {"charge"})) for status in BEGINNINGS}
    waiting = list(seen)
    while waiting:
        situation = waiting.pop()
        new = set() if situation.status in ENDS else set(situation.onward(variant)) - seen
        seen |= new
        waiting += new
    return seen


@pytest.mark.parametrize("variant", TABLES)
def test_no_order_ends_with_stock_or_money_kept(variant: str) -> None:
    ends = [situation for situation in situations(variant) if situation.status in ENDS]
    assert {situation.status for situation in ends} == ENDS
    for end in ends:
        if end.status == Status.DONE:
            assert stock.OrderProcessed in end.heard
            assert variant == "invoice" or money.PaymentSucceeded in end.heard
            continue
        assert end.money_asked_back, end
        assert end.money_is_back, end
        nothing_held = variant == "invoice" and stock.ProcessingRefused in end.heard and "release" not in end.said
        assert nothing_held or {"release"} <= end.said, end
        assert nothing_held or stock.StockReleased in end.heard, end


@pytest.mark.parametrize("variant", TABLES)
def test_every_step_is_taken_by_some_order(variant: str) -> None:
    """Those of the rule that a variant replaces, or never comes to, are none of its own."""
    taken = {
        (situation.status, event)
        for situation in situations(variant)
        if situation.status not in ENDS
        for event, _, _ in steps_from(situation.status, variant=variant)
        if situation.may_hear(event)
    }
    own = TABLES[variant][0].steps
    assert {pair for pair in own if pair[0] not in ENDS} <= taken


# What carries the table out -------------------------------------------------------------------------------


def order_that_is(status: Status, **fields: Any) -> Order:
    now = timezone.now()
    order = Order(
        order_id=O, status=status, total=500, currency="USD", created_at=now, updated_at=now, status_since=now,
        fail_reason="payment_timeout" if status in WAY_BACK else "", **FIELDS[""] | fields,
    )  # fmt: skip
    order.save(force_insert=True)
    OrderEvent.objects.create(
        order=order, version=1, type="order.created", status=status, data=initial_data(order), at=now
    )
    return order


def posted() -> list[str]:
    """The commands that were posted: neither events nor timers."""
    rows = Outgoing.objects.exclude(to="events").exclude(type=Overdue.name).order_by("id")
    return [row.type.split(".")[-1] for row in rows]


@pytest.mark.django_db
@pytest.mark.parametrize(("variant", "status", "event"), CASES)
def test_an_order_does_as_the_table_says(variant: str, status: Status, event: type[Event]) -> None:
    before = order_that_is(status, **FIELDS[variant])
    now = timezone.now()
    step = look_up(status, event, variant=variant)
    if isinstance(step, str):
        with pytest.raises(transitions.OutOfTurn) as refused, transaction.atomic(using="orders"):
            transitions.advance(order_id=O, event=EXAMPLES[event], now=now)
        assert refused.value.code == step
        assert str(refused.value).startswith(f"Order {O} ")
        assert event.__name__ not in str(refused.value)
    else:
        transitions.advance(order_id=O, event=EXAMPLES[event], now=now, by=Authority("bob"))
    after, history = Order.objects.get(pk=O), list(OrderEvent.objects.order_by("version"))
    assert state(after) == rebuild(history)
    if not isinstance(step, Step):
        assert state(after) == state(before)
        assert not Outgoing.objects.exists()
        return
    assert after.status in becomes(step)
    passed = [*([step.through] if step.through else []), after.status]
    changed = ("status", "blocked", "payment_id", "refunded")
    if all(getattr(after, name) == getattr(before, name) for name in changed):
        passed = []  # a command that is sent again is no transition
    assert [one.status for one in history[1:]] == passed
    assert after.version == len(history) == 1 + len(passed)
    assert {one.actor for one in history[1:]} == ({"bob"} if passed else set())
    assert posted() == ([command_of(step)] if command_of(step) else [])
    timers = list(Outgoing.objects.filter(type=Overdue.name).values_list("message_id", "due_at"))
    if after.status != status and after.status not in ENDS:
        assert (after.status_since, after.timer_at) == (now, now + TIMEOUTS[Status(after.status)]())
        assert timers == [(after.timer_id, after.timer_at)]
    else:
        assert timers == []
    facts = [row.data["status"] for row in Outgoing.objects.filter(to="events").order_by("id")]
    assert facts == ([one.status for one in history[1:]] if after.status != status else [])


@pytest.mark.django_db
@pytest.mark.parametrize("reason", [*sorted(FAILURES), "canceled_by_customer", "declined", "payment_timeout"])
def test_where_it_ends_depends_on_why_it_turned_back(reason: str) -> None:
    order_that_is(Status.RESERVED)
    transitions.advance(order_id=O, event=money.PaymentFailed(order_id=O, reason=reason), now=timezone.now())
    transitions.advance(order_id=O, event=stock.StockReleased(order_id=O), now=timezone.now())
    order = Order.objects.get()
    assert (order.status, order.fail_reason) == ("failed" if reason in FAILURES else "canceled", reason)


@pytest.mark.django_db
def test_what_was_processed_before_it_turned_back_has_no_reason_any_more() -> None:
    assert order_that_is(Status.REFUNDING).fail_reason
    transitions.advance(order_id=O, event=EXAMPLES[stock.OrderProcessed], now=timezone.now())
    order = Order.objects.get()
    assert (order.status, order.fail_reason) == ("done", "")


@pytest.mark.django_db
@pytest.mark.parametrize(("amount", "refunded"), [(None, 300), (200, 200), (0, 0)])
def test_what_is_back_is_what_was_taken_unless_it_is_told(amount: int | None, refunded: int) -> None:
    order_that_is(Status.REFUNDING, captured=300)
    transitions.advance(order_id=O, event=money.PaymentRefunded(order_id=O, amount=amount), now=timezone.now())
    assert Order.objects.get().refunded == refunded


@pytest.mark.django_db
def test_what_has_come_again_is_not_back() -> None:
    order_that_is(Status.CANCELED, refunded=500)
    event = money.PaymentReturnUndone(order_id=O, amount=200, reason="account_closed")
    transitions.advance(order_id=O, event=event, now=timezone.now())
    order = Order.objects.get()
    assert (order.refunded, order.blocked) == (300, "account_closed")


@pytest.mark.django_db
def test_the_first_payment_stays() -> None:
    order_that_is(Status.PAYMENT_PENDING, payment_id="pay-0")
    transitions.advance(order_id=O, event=EXAMPLES[money.PaymentSucceeded], now=timezone.now())
    order = Order.objects.get()
    assert (order.status, order.payment_id) == ("paid", "pay-0")


@pytest.mark.django_db
def test_the_first_reason_stays() -> None:
    order_that_is(Status.PAYMENT_PENDING)
    for event in (CancelRequested("second_thoughts"), Overdue(order_id=O), EXAMPLES[money.PaymentFailed]):
        transitions.advance(order_id=O, event=event, now=timezone.now())
    assert Order.objects.get().fail_reason == "second_thoughts"


@pytest.mark.django_db
def test_a_reader_of_an_old_version_changes_nothing() -> None:
    order_that_is(Status.RESERVED)
    transitions.advance(order_id=O, event=EXAMPLES[money.PaymentPending], now=timezone.now())
    by = Authority("bob", is_staff=True)
    with pytest.raises(transitions.VersionConflict), transaction.atomic(using="orders"):
        repair.cancel(order_id=O, now=timezone.now(), by=by, reason="x", if_version=1)
    assert Order.objects.get().status == "payment_pending"
    repair.cancel(order_id=O, now=timezone.now(), by=by, reason="x", if_version=2)
    assert Order.objects.get().status == "voiding"


# Its diagram --------------------------------------------------------------------------------------------------------


def test_the_docs_show_the_table_as_it_is() -> None:
    text = Path(settings.BASE_DIR / "docs" / "architecture.md").read_text()
    assert with_diagram(text, mermaid(), command="saga") == text, "run manage.py saga"


def test_the_command_prints_every_pair_and_draws(tmp_path: Path, capsys: Any) -> None:
    docs = tmp_path / "page.md"
    docs.write_text("before\n<!-- saga: written by manage.py saga --><!-- end of saga -->\nafter\n")
    call_command("saga", docs=docs)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(CASES)
    assert any(line.split() == ["done", "cancel", "requested", "refused:", "already_done"] for line in printed)
    assert decision(Status.PENDING, money.PaymentSucceeded) == "payment_pending → paid, says process"
    drawn = docs.read_text()
    assert "    paid --> done: order.processed\n" in drawn
    assert drawn.startswith("before\n")
    assert drawn.endswith("\nafter\n")
