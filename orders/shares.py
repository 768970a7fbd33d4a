"""
What falls to each line of goods of an order: its price, its taxes and discounts, and its share of the order's own.

The shares sum exactly to the total of the order, and the shares of the pieces of a line to that of the line. So whoever
gives everything back, in whatever order and in however many parts, gives back the total.

# Note [Largest remainder]: what belongs to the order as a whole is divided in proportion to what the lines cost by
themselves. Each line first gets the whole minor units of its part; those that are left over go to the lines that have
lost most by that, and among equals to the first of them. All pieces of a line that are back have cost their part of it,
rounded down; so what falls to further pieces is that of all of them, minus what was given back before. A refund that
has failed is not among those, whether it was the first or the last.
"""

from collections.abc import Iterable, Mapping, Sequence

from .models import OrderLine


def of_goods(lines: Iterable[OrderLine], *, paid: int | None = None) -> dict[int, int]:
    """
    Return what falls to each line of goods, by its position, in minor units.

    :param paid: what is divided; the sum of the lines, if it is not given. Less may have been captured
    """
    lines = list(lines)
    goods = {line.position: line for line in lines if line.kind == OrderLine.Kind.ITEM}
    own = dict.fromkeys(goods, 0)
    for line in lines:
        belongs_to = line.position if line.position in goods else line.of_position
        if belongs_to is not None:
            own[belongs_to] += line.amount
    total = sum(line.amount for line in lines) if paid is None else paid
    # Where nothing is left of all prices, what there is to pay, such as the shipping, falls to the pieces.
    weights = own if any(own.values()) else {position: line.quantity for position, line in goods.items()}
    return dict(zip(weights, divide(total, list(weights.values())), strict=True))


def divide(amount: int, weights: Sequence[int]) -> list[int]:
    """Divide an amount in proportion to weights of which one is positive and none negative, without any rest."""
    whole = sum(weights)
    parts = [amount * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -(amount * weights[index] % whole))
    for index in by_remainder[: amount - sum(parts)]:
        parts[index] += 1
    return parts


def of_pieces(
    lines: Iterable[OrderLine],
    *,
    paid: int | None = None,
    wanted: Mapping[int, int],
    returned: Mapping[int, int],
    given_back: Mapping[int, int],
) -> dict[int, int]:
    """
    Return what falls to these pieces, by the position of their line, in minor units.

    :param paid: see `of_goods`
    :param wanted: how many of each line of goods, by its position: no more than are left of it
    :param returned: how many of each have been given back before
    :param given_back: how much was given back for them
    """
    lines = list(lines)
    shares, quantities = of_goods(lines, paid=paid), {line.position: line.quantity for line in lines}
    return {
        position: max(
            0,
            shares[position] * (returned.get(position, 0) + number) // quantities[position]
            - given_back.get(position, 0),
        )
        for position, number in wanted.items()
    }
