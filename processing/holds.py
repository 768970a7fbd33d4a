"""Stock that is held for an order, and how its hold ends: sold, released or given back."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Greatest, Least
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _g

from common import locks, trial_outcomes
from common.errors import Refusal
from outbox.ids import uuid7, uuid_of
from outbox.store import Statement

from . import metrics, returns
from .models import ROWS, Hold, Processing, Product, StockMovement

HOLD_LOST = "hold_lost"
TEST_REFUSAL = "bad_luck"  # as the default processor refuses


class InsufficientStock(Refusal):
    """There is less stock than was asked for; `lacking` names the products."""

    code = "insufficient_stock"

    def __init__(self, lacking: Sequence["Lacking"]) -> None:
        left = (_g("%(sku)s (%(n)d left)") % {"sku": one.sku, "n": one.available} for one in lacking)
        super().__init__(
            _g("Not enough stock: %(products)s.") % {"products": ", ".join(left)},
            extra={"lacking": [asdict(one) for one in lacking]},
        )
        self.lacking = list(lacking)


class PlacedTooSlowly(Refusal):
    """Placing the order took so long that its hold may be given back before the order is stored."""

    code = "placed_too_slowly"

    def __init__(self) -> None:
        super().__init__(_g("Placing the order took too long. Try again."), extra={"retry_after": 1})


class HeldOtherwise(Refusal):
    """Stock is held for this order already, but not what is asked for now."""

    code = "held_otherwise"


@dataclass(frozen=True)
class Lacking:
    """A product of which there is less than was asked for."""

    product_id: str
    sku: str
    requested: int
    available: int


# Note [A hold in one statement]: all of it happens or nothing, without a transaction around it, which would keep a
# popular product locked for two more round trips, and for as long as whoever holds its stock is frozen between them.
# What is read of the products is read after they have been locked. Nothing is stored unless all of them are there.
HOLD = """
WITH wanted AS (
    SELECT product.product_id, asked.quantity, asked.movement_id,
           product.is_active AND product.available >= asked.quantity AS is_there
    FROM processing_product product
    JOIN unnest(%s::uuid[], %s::bigint[], %s::uuid[]) AS asked(product_id, quantity, movement_id) USING (product_id)
    ORDER BY product.product_id
    FOR NO KEY UPDATE OF product
), enough AS (
    SELECT FROM wanted HAVING count(*) FILTER (WHERE is_there) = %s
), stored AS (
    INSERT INTO processing_hold (hold_id, order_id, status, created_at, expires_at)
    SELECT %s, %s, 'held', %s, %s FROM enough
), line AS (
    INSERT INTO processing_holdline (hold_id, product_id, quantity) SELECT %s, product_id, quantity FROM wanted, enough
), moved AS (
    INSERT INTO processing_stockmovement (id, product_id, kind, quantity, hold_id, reason, actor, at)
    SELECT movement_id, product_id, 'held', quantity, %s, '', '', %s FROM wanted, enough
)
UPDATE processing_product product
SET available = product.available - wanted.quantity, held = product.held + wanted.quantity, updated_at = %s
FROM wanted, enough
WHERE product.product_id = wanted.product_id
"""


# Note [Half of the threads]: while somebody who has locked a popular product is frozen, all its buyers wait. They must
# not take all the threads, of which others need some for reading.
_waits = locks.LongWaits(settings.DATABASE_POOL // 2 or 1000)


def hold(*, order_id: str, quantities: dict[str, int], now: datetime) -> UUID:
    """
    Reserve stock for an order that is about to be stored, all or nothing, and return the id of the hold.

    A hold of the same stock that is there already is the answer, and lasts longer from now on: it was left by an
    attempt that crashed, or another attempt is placing the order at this moment, or has placed it. An expired one is
    replaced.

    :param now: the time before it was looked whether the order is stored
    :raises InsufficientStock: if a product lacks; the error names every such product
    :raises HeldOtherwise: if there is a hold for other quantities
    :raises PlacedTooSlowly: if the hold that is there has expired since `now`
    """
    # Note [Looked for when it is in the way]: nearly every order is new, and has no hold. So the first try does not
    # look for one, which would cost each order three round trips; where there is one, the constraint says so, or it
    # holds the stock that lacks.
    for is_known, is_last in ((False, False), (True, False), (True, True)):
        try:
            with _waits.one() as briefly:
                if not is_known:
                    return _hold_anew(order_id=order_id, quantities=quantities, now=now, first=briefly)
                with transaction.atomic(using="processing"):
                    ROWS.run(*briefly)
                    return _hold_again(order_id=order_id, quantities=quantities, now=now)
        except (IntegrityError, InsufficientStock) as error:
            if is_last or not Hold.objects.filter(order_id=order_id, status=Hold.Status.HELD).exists():
                if isinstance(error, InsufficientStock):
                    metrics.STOCK_HOLDS.labels("insufficient").inc()
                raise  # else there is one, or another attempt was faster
    raise AssertionError("unreachable")


def _hold_again(*, order_id: str, quantities: dict[str, int], now: datetime) -> UUID:
    """Hold stock for an order for which some may be held already."""
    known = _open_hold("order_id", order_id)
    if known is not None:
        # Note [Whose hold is ended here]: no stored order's. A stored order is one that was not there when the caller
        # looked, after `now`. Its hold was made or prolonged at most half of its time before (`orders.services`), so it
        # has not expired by `now`.
        if known.expires_at > now:
            if known.asked_at is not None:
                raise PlacedTooSlowly  # it has expired since, and is about to be given back
            if known.quantities != quantities:
                raise HeldOtherwise(
                    _g("Other stock is held for the order %(order)s.") % {"order": order_id},
                    extra={"retry_after": math.ceil((known.expires_at - now).total_seconds())},
                )
            known.expires_at = max(known.expires_at, now + settings.HOLD_TTL)
            ROWS.run(ROWS.update(known, "expires_at"))
            return known.hold_id
        lock_products({*map(UUID, quantities), *map(UUID, known.quantities)})
        _end(known, status=Hold.Status.RELEASED, now=now)
    return _hold_anew(order_id=order_id, quantities=quantities, now=now)


def _hold_anew(*, order_id: str, quantities: dict[str, int], now: datetime, first: Sequence[Statement] = ()) -> UUID:
    """Hold stock for an order for which none is held; run some other statements in the same transaction first."""
    hold_id, movement_ids = uuid7(), [uuid7() for _ in quantities]
    moved = [list(quantities), list(quantities.values()), movement_ids, len(quantities)]
    stored = [hold_id, order_id, now, now + settings.HOLD_TTL]
    hold = Statement(HOLD, [*moved, *stored, hold_id, hold_id, now, now])
    if not ROWS.run_alone(*first, hold)[-1]:
        raise InsufficientStock(_lacking(quantities))
    metrics.count_hold("held")
    return hold_id


def lock_products(product_ids: set[UUID]) -> None:
    """Lock the products of two baskets in the order in which everybody locks, so that there is no deadlock."""
    list(Product.objects.select_for_update(no_key=True).filter(pk__in=product_ids).order_by("product_id"))


def _lacking(quantities: dict[str, int]) -> list[Lacking]:
    products = {str(p.product_id): p for p in Product.objects.filter(product_id__in=list(quantities))}
    return [
        Lacking(product_id, products[product_id].sku, quantity, products[product_id].available)
        for product_id, quantity in sorted(quantities.items())
        if products[product_id].available < quantity or not products[product_id].is_active
    ]


QUANTITIES = """(
    SELECT json_object_agg(line.product_id, line.quantity) FROM processing_holdline line
    WHERE line.hold_id = processing_hold.hold_id
)"""

SETTLE = """
WITH line AS (
    SELECT product_id, sum(quantity)::bigint AS quantity FROM processing_holdline WHERE hold_id = ANY(%s)
    GROUP BY product_id
), settled AS (
    SELECT product.product_id, line.quantity
    FROM processing_product product
    JOIN line USING (product_id)
    ORDER BY product.product_id
    FOR NO KEY UPDATE OF product
)
UPDATE processing_product product
SET held = product.held - settled.quantity, {counter} = product.{counter} + settled.quantity, updated_at = %s
FROM settled
WHERE product.product_id = settled.product_id
"""
SELL, GIVE_BACK = SETTLE.format(counter="sold"), SETTLE.format(counter="available")  # where orders holds, none is sold


def _end(*holds: Hold, status: Hold.Status, now: datetime) -> None:
    """End open, locked holds: their stock is sold or available again."""
    sold = status == Hold.Status.SOLD
    kind = StockMovement.Kind.SOLD if sold else StockMovement.Kind.RELEASED
    keys = [held.hold_id for held in holds]
    ROWS.run(
        ROWS.update_all(Hold, keys, status=status.value, ended_at=now),
        ROWS.insert(*(moved for held in holds for moved in movements(held, held.quantities, kind=kind, now=now))),
        Statement(SELL if sold else GIVE_BACK, [keys, now]),
    )
    for held in holds:
        held.status, held.ended_at = status, now
        metrics.count_hold(status)


def movements(
    held: Hold, quantities: dict[str, int], *, kind: StockMovement.Kind, now: datetime
) -> Iterator[StockMovement]:
    for product_id, quantity in quantities.items():
        yield StockMovement(product_id=UUID(product_id), kind=kind, quantity=quantity, hold=held, at=now)


ANSWERED = """
SELECT asked.order_id, processing.verdict, processing.reason, EXISTS (
    SELECT FROM processing_hold hold
    JOIN processing_holdline line USING (hold_id)
    JOIN processing_product product USING (product_id)
    WHERE hold.order_id = asked.order_id AND product.sku = %s
)
FROM unnest(%s::text[]) AS asked(order_id) LEFT JOIN processing_processing processing USING (order_id)
"""


def answered(order_ids: Sequence[str]) -> dict[str, str | None]:
    """Return why each of these orders is refused, or None if it is not: those about which nobody need be asked."""
    known: dict[str, str | None] = {}
    refused_in_tests = trial_outcomes.REFUSED if settings.TEST_MODE else None
    for order_id, verdict, reason, is_refused_in_tests in ROWS.fetch(ANSWERED, refused_in_tests, list(order_ids)):
        if verdict is not None:
            known[order_id] = reason or (None if verdict == Processing.Verdict.ACCEPTED else verdict)
        elif is_refused_in_tests:
            known[order_id] = TEST_REFUSAL
    return known


def ask_processor(*, order_id: str, known: Mapping[str, str | None]) -> str | None:
    """
    Return why the processor refuses an order, or None if it accepts. Call it outside of transactions: it may take long.

    :param known: what `answered` has returned; whoever is in it is not asked about again
    """
    if order_id in known:
        return known[order_id]
    reason: str | None = import_string(settings.PROCESSOR)(order_id)
    return reason


@transaction.atomic(using="processing", savepoint=False)
def process(*, order_id: str, hold_id: str | None, refusal: str | None, now: datetime) -> Processing:
    """
    Store the verdict of the processor about an order, sell its stock unless it was refused, and return the verdict.

    The first verdict stands: if there is one, it is returned. An order whose hold is not open any more is refused.
    """
    return process_all([ToProcess(order_id=order_id, hold_id=hold_id, refusal=refusal)], now=now)[order_id]


@dataclass(frozen=True, kw_only=True)
class ToProcess:
    """An order with its hold, and why the processor has refused it."""

    order_id: str
    hold_id: str | None
    refusal: str | None


@transaction.atomic(using="processing", savepoint=False)
def process_all(orders: Sequence[ToProcess], *, now: datetime) -> dict[str, Processing]:
    """Do the same for several orders, each named once; return the verdicts by order."""
    asked = {one.order_id: one for one in orders}
    held = {str(one.hold_id): one for one in _open_holds("hold_id", [one.hold_id for one in orders if one.hold_id])}
    verdicts: dict[str, Processing] = {}
    for order_id, one in sorted(asked.items()):
        refusal = one.refusal or (HOLD_LOST if one.hold_id is not None and one.hold_id not in held else None)
        kind = Processing.Verdict.ACCEPTED if refusal is None else Processing.Verdict.REFUSED
        verdicts[order_id] = Processing(order_id=order_id, verdict=kind, reason=(refusal or "")[:50], at=now)
    new = set(ROWS.insert_new(*verdicts.values()))  # a second caller waits for the first
    sold = [
        held[hold_id]
        for order_id, one in asked.items()
        if order_id in new and verdicts[order_id].verdict == Processing.Verdict.ACCEPTED and (hold_id := one.hold_id)
    ]
    if sold:
        _end(*sold, status=Hold.Status.SOLD, now=now)
    if known := verdicts.keys() - new:
        verdicts |= {one.order_id: one for one in ROWS.select(Processing, "WHERE order_id = ANY(%s)", sorted(known))}
    return verdicts


@transaction.atomic(using="processing", savepoint=False)
def release(*, order_id: str, hold_id: str | None, now: datetime, even_if_sold: bool = False) -> bool:
    """
    Give held stock back, make sure that the order is never processed, and return whether that was possible.

    If it was accepted before, it is too late, and nothing is released, unless what was sold is to come back as well.
    """
    held = _open_hold("hold_id", hold_id)
    withdrawn = Processing(order_id=order_id, verdict=Processing.Verdict.WITHDRAWN, at=now)
    known = _first(withdrawn)
    if known is not None and known.verdict == Processing.Verdict.ACCEPTED:
        if even_if_sold:
            returns.take_all_back(hold_id=hold_id, now=now)
        return even_if_sold
    if held is not None:
        _end(held, status=Hold.Status.RELEASED, now=now)
    return True


@transaction.atomic(using="processing")
def keep_hold(*, hold_id: str, until: datetime, now: datetime) -> None:
    """
    Keep what is held until then, and for as long as a new hold lasts at least, if it is still held.

    An order asks for that while it waits: for its money to be captured, say, which is overdue after a minute.
    """
    until = max(until, now + settings.HOLD_TTL)
    open_hold = Hold.objects.select_for_update().filter(pk=uuid_of(hold_id), status=Hold.Status.HELD)
    held = open_hold.filter(expires_at__lt=until).first()
    if held is not None:
        held.expires_at, held.asked_at = until, None
        held.save(update_fields=["expires_at", "asked_at"])


@transaction.atomic(using="processing")
def give_back(*, hold_id: str, now: datetime) -> None:
    """
    Give back a hold that no order uses, if it is still open.

    No verdict is stored: an order may still be placed under the same id, with a hold of its own.
    """
    if (held := _open_hold("hold_id", hold_id)) is not None:
        _end(held, status=Hold.Status.RELEASED, now=now)


def _first(verdict: Processing) -> Processing | None:
    """Store this verdict and return None, or return the one that is there. A second caller waits for the first."""
    if ROWS.insert_new(verdict):
        return None
    return ROWS.first(Processing, "WHERE order_id = %s", verdict.order_id)


def open_holds_of(order_id: str) -> list[UUID]:
    """Return the ids of the open holds of an order, locked; there is at most one."""
    return [held.hold_id for held in _open_holds("order_id", [order_id])]


def _open_hold(by: Literal["hold_id", "order_id"], value: str | None) -> Hold | None:
    """Return the hold of this id or of this order if it is open, locked and with its quantities."""
    found = [] if value is None else _open_holds(by, [value])
    return found[0] if found else None


def _open_holds(by: Literal["hold_id", "order_id"], values: Sequence[str]) -> list[Hold]:
    """
    Return the holds of these ids or of these orders that are open, locked and with their quantities.

    :raises Undeliverable: if one of the ids is none
    """
    kind, asked = ("uuid", [uuid_of(value) for value in values]) if by == "hold_id" else ("text", list(values))
    where = f"WHERE {by} = ANY(%s::{kind}[]) AND status = '{Hold.Status.HELD}' ORDER BY hold_id FOR UPDATE"
    return ROWS.select(Hold, where, asked, quantities=QUANTITIES) if values else []


SHORTEST, LONGEST = timedelta(minutes=1), timedelta(hours=1)  # until an expired hold is told of again
PAUSE = Least(Greatest(F("asked_at") - F("expires_at"), SHORTEST), LONGEST)


@transaction.atomic(using="processing")
def expired_holds(*, now: datetime, limit: int = 500) -> list[Hold]:
    """
    Return open holds that have expired. While one stays open, it is returned again after as long as it has been expired
    already, at least a minute and at most an hour.
    """
    holds = list(
        Hold.objects.select_for_update(skip_locked=True)
        .filter(Q(asked_at=None) | Q(asked_at__lte=Value(now) - PAUSE), status=Hold.Status.HELD, expires_at__lte=now)
        .order_by("expires_at")[:limit]
    )
    Hold.objects.filter(pk__in=[held.pk for held in holds]).update(asked_at=now)
    return holds
