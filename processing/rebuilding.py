"""
Holds and verdicts that are lost because the database of processing was set back to an earlier moment, made again.

What was held for an order is what it consists of; what became of it is told by who was told of it then (orders).

# Note [Before its messages come again]: what orders has asked for since is sent again afterwards, and then finds the
hold and the verdict as they were. The processor is not asked a second time about what it has decided, and no deadline
counts that passed meanwhile.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction

from common.errors import NotRebuilt
from outbox.store import Statement

from . import holds
from .models import ROWS, Hold, HoldLine, Processing, Product, StockMovement

Kind, Verdict = StockMovement.Kind, Processing.Verdict
TAKE = """
UPDATE processing_product product
SET available = product.available - asked.quantity, held = product.held + asked.quantity, updated_at = %s
FROM unnest(%s::uuid[], %s::bigint[]) AS asked(product_id, quantity)
WHERE product.product_id = asked.product_id AND product.available >= asked.quantity
"""


@dataclass(frozen=True, kw_only=True)
class Goods:
    """What an order has of a product, and what is known of the product from it."""

    product_id: UUID
    sku: str
    name: str
    quantity: int
    price: int
    currency: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is known of the stock of an order, and what was told of it."""

    order_id: str
    hold_id: UUID | None
    goods: Sequence[Goods]
    placed_at: datetime
    was_accepted: bool = False
    refusal: str = ""  # why it was refused, if it was
    is_over: bool = False  # its stock went back, and it will never be processed
    is_sold_early: bool = False  # so that what goes back may have been sold

    @property
    def went_back_unsold(self) -> bool:
        return self.is_over and not self.was_accepted


def lost_holds(hold_ids: Collection[UUID]) -> set[UUID]:
    """Return those of these holds that are not there."""
    return set(hold_ids) - set(Hold.objects.filter(pk__in=hold_ids).values_list("pk", flat=True))


def lost_verdicts(order_ids: Collection[str]) -> set[str]:
    """Return those of these orders about which there is no verdict."""
    return set(order_ids) - set(Processing.objects.filter(pk__in=order_ids).values_list("pk", flat=True))


@transaction.atomic(using="processing")
def make_product(goods: Goods) -> bool:
    """Make a product again that is not there, without stock and not for sale; return whether it was missing."""
    taken = Product.objects.filter(sku=goods.sku).exists()
    _product, is_new = Product.objects.get_or_create(
        product_id=goods.product_id,
        defaults={
            "sku": f"product-{goods.product_id}" if taken else goods.sku,
            "name": goods.name[:200],
            "price": goods.price,
            "currency": goods.currency,
            "is_active": False,
        },
    )
    return is_new


@transaction.atomic(using="processing")
def make_hold(told: Told, *, now: datetime) -> None:
    """
    Hold the stock of an order again under the id that its hold had; what went back unsold has done so.

    :raises NotRebuilt: if there is less stock than that
    """
    assert told.hold_id is not None
    quantities = {str(one.product_id): one.quantity for one in told.goods}
    for other in holds.open_holds_of(told.order_id):
        holds.give_back(hold_id=str(other), now=now)  # of an attempt to place it that came to nothing
    hold = Hold(
        hold_id=told.hold_id,
        order_id=told.order_id,
        created_at=told.placed_at,
        expires_at=told.placed_at + settings.HOLD_TTL,
        status=Hold.Status.RELEASED if told.went_back_unsold else Hold.Status.HELD,
        ended_at=now if told.went_back_unsold else None,
    )
    if not ROWS.insert_new(hold):
        return
    lines = [HoldLine(hold=hold, product_id=one.product_id, quantity=one.quantity) for one in told.goods]
    kinds = (Kind.HELD, Kind.RELEASED) if told.went_back_unsold else (Kind.HELD,)
    moved = [one for kind in kinds for one in holds.movements(hold, quantities, kind=kind, now=now)]
    ROWS.run(ROWS.insert(*lines), ROWS.insert(*moved))
    if told.went_back_unsold:
        return
    holds.lock_products(set(map(UUID, quantities)))
    (taken,) = ROWS.run(Statement(TAKE, [now, list(quantities), list(quantities.values())]))
    if taken != len(quantities):
        found = {one.product_id: one for one in Product.objects.filter(pk__in=[one.product_id for one in told.goods])}
        lacking = [one for one in told.goods if found[one.product_id].available < one.quantity]
        raise NotRebuilt(
            "it had "
            + ", ".join(
                f"{one.quantity} of {found[one.product_id].sku} ({found[one.product_id].available} left)"
                for one in lacking
            )
            + ": receive again what came in since, and run this again"
        )


def decide(told: Told, *, now: datetime) -> None:
    """
    Store the verdict again that was told, with what it did to the stock.

    :raises NotRebuilt: if it was accepted, and its hold is not there to be sold
    """
    hold_id = str(told.hold_id) if told.hold_id else None
    with transaction.atomic(using="processing"):
        if told.was_accepted or told.refusal:
            refusal = None if told.was_accepted else told.refusal
            verdict = holds.process(order_id=told.order_id, hold_id=hold_id, refusal=refusal, now=now)
            if told.was_accepted and verdict.verdict != Verdict.ACCEPTED:
                raise NotRebuilt(
                    f"orders was told that it is accepted, and here it is {verdict.verdict} ({verdict.reason}): see its"
                    " hold in the admin, and cancel it or correct the stock"
                )
        if told.is_over:
            holds.release(order_id=told.order_id, hold_id=hold_id, now=now, even_if_sold=told.is_sold_early)
