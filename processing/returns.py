"""Stock that was sold and comes back: with a refund, or with an order that is turned back after it was sold."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Sum
from django.utils.translation import gettext as _g

from outbox.errors import Undeliverable
from outbox.ids import uuid_of
from outbox.store import Statement

from .models import ROWS, Hold, StockMovement

RETURN = """
WITH returned AS (
    SELECT product.product_id, asked.quantity
    FROM processing_product product
    JOIN unnest(%s::uuid[], %s::bigint[]) AS asked(product_id, quantity) USING (product_id)
    ORDER BY product.product_id
    FOR NO KEY UPDATE OF product
)
UPDATE processing_product product
SET sold = product.sold - returned.quantity, available = product.available + returned.quantity, updated_at = %s
FROM returned
WHERE product.product_id = returned.product_id
"""


@transaction.atomic(using="processing", savepoint=False)
def take_back(*, hold_id: str, request_id: str, quantities: Mapping[str, int], now: datetime) -> None:
    """
    Put a part of what was sold with a hold back into stock. The same `request_id` does it once.

    :raises Undeliverable: if the hold was not sold, less of it is left, nothing would come back, or its id is none
    """
    reason = f"refund {request_id}"
    hold = _sold(hold_id)
    if hold is None:
        raise Undeliverable("not_sold", _g("The stock of this hold was not sold."))
    if hold.movements.filter(kind=StockMovement.Kind.RETURNED, reason=reason).exists():
        return
    left = _left(hold)
    if any(not 0 < quantity <= left.get(product_id, 0) for product_id, quantity in quantities.items()):
        raise Undeliverable("more_than_sold", _g("More would come back than was sold."))
    _return(hold, quantities, reason=reason, now=now)


def take_all_back(*, hold_id: str | None, now: datetime) -> None:
    """Put all that is left of what was sold with a hold back into stock, if it was sold. Call it in a transaction."""
    if (hold := _sold(hold_id)) is not None:
        left = {product_id: quantity for product_id, quantity in _left(hold).items() if quantity}
        _return(hold, left, reason="order turned back", now=now)


def _sold(hold_id: str | None) -> Hold | None:
    """Return this hold, locked, if it was sold."""
    if hold_id is None:
        return None
    return Hold.objects.select_for_update().filter(pk=uuid_of(hold_id), status=Hold.Status.SOLD).first()


def _left(hold: Hold) -> dict[str, int]:
    """How much of each product was sold with a hold and has not come back."""
    returned = dict(
        hold.movements.filter(kind=StockMovement.Kind.RETURNED)
        .values_list("product_id")
        .annotate(quantity=Sum("quantity"))
    )
    sold = hold.lines.values_list("product_id", "quantity")
    return {str(product_id): quantity - returned.get(product_id, 0) for product_id, quantity in sold}


def _return(hold: Hold, quantities: Mapping[str, int], *, reason: str, now: datetime) -> None:
    if not quantities:
        return
    movements = [
        StockMovement(
            product_id=UUID(product_id),
            kind=StockMovement.Kind.RETURNED,
            quantity=quantity,
            hold=hold,
            reason=reason,
            at=now,
        )
        for product_id, quantity in quantities.items()
    ]
    ROWS.run(ROWS.insert(*movements), Statement(RETURN, [list(quantities), list(quantities.values()), now]))
