"""Whoever gives back line by line gives back exactly the total, in whatever order and however it is split."""

import itertools
from collections import Counter
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders import shares
from orders.models import OrderLine

Kind = OrderLine.Kind
AMOUNTS = st.integers(0, 10**9) | st.integers(0, 20)


def order(*lines: tuple[Kind, int, int, int | None]) -> list[OrderLine]:
    """Lines of kind, quantity, price and what they belong to."""
    return [
        OrderLine(position=position, kind=kind, quantity=quantity, unit_price=price, of_position=of)
        for position, (kind, quantity, price, of) in enumerate(lines, start=1)
    ]


@st.composite
def orders(draw: st.DrawFn) -> list[OrderLine]:
    """Lines as an order may have: no discount takes off more than there is, and something is left to pay."""
    goods = draw(st.lists(st.tuples(st.integers(1, 7) | st.integers(1, 10**4), AMOUNTS), min_size=1, max_size=5))
    lines: list[tuple[Kind, int, int, int | None]] = [(Kind.ITEM, quantity, price, None) for quantity, price in goods]
    for position, (quantity, price) in enumerate(goods, start=1):
        if draw(st.booleans()) and quantity * price:
            lines.append((Kind.DISCOUNT, 1, -draw(st.integers(1, quantity * price)), position))
        if draw(st.booleans()):
            lines.append((draw(st.sampled_from([Kind.TAX, Kind.SHIPPING])), 1, draw(AMOUNTS), position))
    for kind in draw(st.lists(st.sampled_from([Kind.TAX, Kind.SHIPPING]), max_size=3)):
        lines.append((kind, 1, draw(AMOUNTS), None))
    left = sum(quantity * price for _kind, quantity, price, _of in lines)
    if not left:
        lines.append((Kind.SHIPPING, 1, 1, None))
    elif left > 1 and draw(st.booleans()):
        lines.append((Kind.DISCOUNT, 1, -draw(st.integers(1, left - 1)), None))
    return order(*lines)


@given(orders(), st.randoms(use_true_random=False))
def test_all_pieces_together_are_what_was_paid(lines: list[OrderLine], random: Random) -> None:
    """In whatever order they come back, also if less was captured, or some refunds fail and are made again."""
    ordered = {line.position: line.quantity for line in lines if line.kind == Kind.ITEM}
    total = sum(line.amount for line in lines)
    total = random.choice([total, random.randint(1, total)])
    refunds: list[tuple[dict[int, int], dict[int, int]]] = []  # quantities and amounts, by position
    for may_fail in (True, False):
        returned, given_back = summed(one for one, _amounts in refunds), summed(one for _quantities, one in refunds)
        while left := +(Counter(ordered) - returned):
            picked = random.sample(sorted(left), random.randint(1, len(left)))
            wanted = {position: random.randint(1, left[position]) for position in picked}
            amounts = shares.of_pieces(lines, paid=total, wanted=wanted, returned=returned, given_back=given_back)
            refunds.append((wanted, amounts))
            returned.update(wanted)
            given_back.update(amounts)
            assert min(amounts.values()) >= 0
            assert given_back.total() <= total
        if may_fail:
            refunds = [refund for refund in refunds if random.random() < 0.5]
    assert given_back.total() == total


def summed(parts: Iterable[dict[int, int]]) -> Counter[int]:
    return sum((Counter(part) for part in parts), Counter())


@given(st.integers(0, 10**14), st.lists(AMOUNTS, min_size=1, max_size=8).filter(any))
def test_a_part_differs_from_the_exact_one_by_less_than_a_minor_unit(amount: int, weights: list[int]) -> None:
    parts = shares.divide(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * sum(weights) - amount * weight) < sum(weights)


def test_a_line_has_its_own_taxes_and_discounts() -> None:
    lines = order(
        (Kind.ITEM, 1, 1000, None),
        (Kind.ITEM, 2, 1000, None),
        (Kind.TAX, 1, 190, 1),
        (Kind.DISCOUNT, 1, -500, 2),
    )
    assert shares.of_goods(lines) == {1: 1190, 2: 1500}
    assert shares.of_pieces(lines, wanted={2: 1}, returned={}, given_back={}) == {2: 750}


@pytest.mark.parametrize("first", list(itertools.permutations([1, 2, 3])))
def test_what_does_not_divide_goes_to_the_lines_that_lose_most(first: tuple[int, ...]) -> None:
    lines = order(*[(Kind.ITEM, 1, 333, None)] * 3, (Kind.SHIPPING, 1, 2, None))
    assert shares.of_goods(lines) == {1: 334, 2: 334, 3: 333}
    back = [
        shares.of_pieces(lines, wanted={one: 1}, returned=dict.fromkeys(first[:number], 1), given_back={})[one]
        for number, one in enumerate(first)
    ]
    assert sum(back) == 1001


def test_a_refund_that_failed_is_made_again_without_a_rest() -> None:
    """The second of three failed, after the third, which had got the odd minor unit."""
    lines = order((Kind.ITEM, 3, 33, None), (Kind.TAX, 1, 1, None))
    assert shares.of_pieces(lines, wanted={1: 1}, returned={1: 2}, given_back={1: 33 + 34}) == {1: 33}


def test_shipping_alone_falls_to_the_pieces() -> None:
    lines = order(
        (Kind.ITEM, 1, 100, None), (Kind.ITEM, 3, 0, None), (Kind.DISCOUNT, 1, -100, 1), (Kind.SHIPPING, 1, 401, None)
    )
    assert shares.of_goods(lines) == {1: 100, 2: 301}
