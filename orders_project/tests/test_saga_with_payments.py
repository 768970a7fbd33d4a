"""
The tables of orders and of payments together, whatever the gateway says: all that payments announces has a meaning for
the order, and an order that has ended does not stay blocked once its money is settled.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from django.utils import timezone

from orders import transitions
from orders.diagram import becomes, command_of
from orders.messages import Overdue
from orders.models import ENDS, Order, Status
from orders.saga import CancelRequested, CaptureRequested, decide
from outbox.message import Message
from payments import effects, lifecycle
from payments.gateways.base import RefundAnswer, RefundStatus
from payments.ledger import MoneyOfOrder
from payments.lifecycle import Event
from payments.models import Payment
from processing.messages import OrderProcessed, ProcessingRefused, StockReleased

ORDERS: dict[str, dict[str, str]] = {
    "as a rule": {"payment_method": "gateway", "capture": "manual"},
    "captured after processing": {"payment_method": "gateway", "capture": "after_processing"},
}
COMMANDS = {"charge": Event.CHARGE_GATEWAY, "capture": Event.CAPTURE, "void": Event.WITHDRAW, "refund": Event.WITHDRAW}
OF_ORDERS = {*COMMANDS.values(), Event.CHARGE_ACCOUNT, Event.ACCOUNT_REFUSED, Event.NOTHING_TO_PAY, Event.WITHDRAW_HERE}
WITH_A_REFUND = (Payment.Status.REFUNDING, Payment.Status.REFUNDED, Payment.Status.REFUND_REFUSED)
TELLS = (effects.announce, effects.announce_refund, effects.announce_undone)
REFUND = RefundAnswer(gateway_refund_id="re", payment_id="pay", status=RefundStatus.FAILED, amount=1000, currency="USD")
DETAILS = effects.Details(now=timezone.now(), refusal="charge_disputed", refund=REFUND)
MOST_UNDER_WAY = 2  # at the same time


@dataclass(frozen=True)
class Paid:
    """A payment: its status, "" before there is one."""

    status: str = ""
    reason: str = ""
    was_undone: bool = False


@dataclass(frozen=True)
class World:
    """An order and its payment, with what is under way between them, and what processing has heard and decided."""

    status: str = Status.PENDING
    blocked: str = ""
    payment: Paid = Paid()
    asked: frozenset[str] = frozenset({"charge"})
    told: tuple[Message, ...] = ()
    stock: frozenset[str] = frozenset()

    @property
    def is_settled(self) -> bool:
        return self.status in ENDS and self.payment.status in lifecycle.SETTLED and not self.asked and not self.told


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> Callable[[Paid, Event], tuple[Paid, tuple[Message, ...]]]:
    """What an event makes of a payment, and what is announced."""
    posted: list[Message] = []
    monkeypatch.setattr(effects.Outgoing, "post", lambda message, **how: posted.append(message))
    monkeypatch.setattr(effects.ledger, "of_order", lambda order_id: MoneyOfOrder(captured=1000, refunded=1000))
    monkeypatch.setattr(effects, "_was_undone", lambda payment: payment.was_undone)

    @cache
    def pay(paid: Paid, event: Event) -> tuple[Paid, tuple[Message, ...]]:
        payment = Payment(order_id="o", status=paid.status, fail_reason=paid.reason, created_at=DETAILS.now)
        does: tuple[effects.Effect, ...] = ()
        step = lifecycle.STEPS.get((Payment.Status(paid.status) if paid.status else lifecycle.NEW, event))
        if step is not None:
            lifecycle._become(payment, step, DETAILS)
            does = step.does
        elif lifecycle.otherwise(Payment.Status(paid.status), event) == lifecycle.Otherwise.REPEAT:
            does = (effects.announce,)
        payment.was_undone = paid.was_undone or effects.take_return_back in does  # type: ignore[attr-defined]
        posted.clear()
        for effect in does:
            if effect in TELLS:
                effect(payment, DETAILS)
        return Paid(payment.status, payment.fail_reason, payment.was_undone), tuple(posted)  # type: ignore[attr-defined]

    return pay


@cache
def hears(status: str, blocked: str, event: Any, variant: str) -> str | tuple[tuple[str, str, str], ...]:
    """What an event makes of an order: the code of a refusal, or each status, what blocks it there, and a command."""
    order = Order(order_id="o", status=status, blocked=blocked, total=1000, fail_reason="x", **ORDERS[variant])
    step = decide(order, type(event))
    if isinstance(step, str):
        return step
    if step is None:
        return ((status, blocked, ""),)
    changes = [transitions._changes(event, order, becomes=Status(target)) for target in becomes(step)]
    blocks = [change.get("blocked", blocked) for change in changes]
    return tuple((target, by, command_of(step)) for target, by in zip(becomes(step), blocks, strict=True))


def onward(world: World, pays: Any, variant: str) -> Iterator[World]:
    paid = world.payment
    for command in world.asked:
        is_new = not paid.status and command != "charge"
        after, told = pays(paid, Event.WITHDRAW_HERE if is_new else COMMANDS[command])
        yield replace(world, payment=after, asked=world.asked - {command}, told=_also(world.told, told))
    for event in set(Event) - OF_ORDERS if paid.status else ():
        if event != Event.RETURN_UNDONE or paid.status in WITH_A_REFUND:
            after, told = pays(paid, event)
            yield replace(world, payment=after, told=_also(world.told, told))
    if world.told:
        yield from _hear(replace(world, told=world.told[1:]), world.told[0], variant, must=True)
    for asks in (Overdue(order_id="o"), CancelRequested(), CaptureRequested(1000)):
        yield from _hear(world, asks, variant)
    for answer, of, unless, notes in (
        (OrderProcessed(order_id="o"), "process", "stopped", "processed"),
        (ProcessingRefused(order_id="o", reason="x"), "process", "processed", "stopped"),
        (StockReleased(order_id="o"), "release", "" if "after" in variant else "processed", "stopped"),
    ):
        if of in world.stock and unless not in world.stock:
            yield from _hear(replace(world, stock=world.stock | {notes}), answer, variant)


def _also(told: tuple[Message, ...], more: tuple[Message, ...]) -> tuple[Message, ...]:
    return told if told[-1:] == more else told + more  # the same once more means no more


def _hear(world: World, event: Any, variant: str, *, must: bool = False) -> Iterator[World]:
    heard = hears(world.status, world.blocked, event, variant)
    if isinstance(heard, str):
        assert not must, f"{world.status} hears {event}: {heard}, while the payment is {world.payment}"
        return
    for status, blocked, command in heard:
        asked = world.asked | ({command} & COMMANDS.keys())
        stock = world.stock | ({command} & {"process", "release"})
        yield replace(world, status=status, blocked=blocked, asked=asked, stock=stock)


@pytest.mark.parametrize("variant", ORDERS)
def test_all_that_payments_announces_has_a_meaning_and_what_is_settled_is_not_blocked(pays: Any, variant: str) -> None:
    seen = {World()}
    waiting = list(seen)
    while waiting:
        new = {world for world in onward(waiting.pop(), pays, variant) if len(world.told) <= MOST_UNDER_WAY} - seen
        assert not [world for world in new if world.is_settled and world.blocked]
        seen |= new
        waiting += new
    assert {world.status for world in seen} >= set(Status) - {Status.RESERVED}
    assert {world.payment.status for world in seen} == {"", *Payment.Status}
