"""What orders knows of holds and verdicts that processing has forgotten."""

from collections import Counter
from datetime import datetime, timedelta
from uuid import UUID

from common.batches import in_batches
from common.errors import NotRebuilt
from orders.models import Order, Status
from outbox import clock
from processing import rebuilding
from processing.messages import PROCESSING_TIMEOUT
from processing.rebuilding import Goods, Told

from .known import Known, known
from .report import Decision, Missing, Report

SLOWEST = timedelta(hours=1)  # from when an order was begun to the commit of its hold, by far
HOLDS, VERDICTS, PRODUCTS = "holds made again", "verdicts recorded again", "products made again"


def settle(missing: Missing, *, since: datetime, dry_run: bool, report: Report) -> None:
    """Have the holds of the orders since then be what they were, and the verdicts of which it misses messages."""
    lost = _lost_holds(since - SLOWEST)
    for batch in known({*(one.subject for one in missing()), *lost}):
        undecided = rebuilding.lost_verdicts([one.order.order_id for one in batch])
        for one in batch:
            told = told_of(one)
            is_told = told.was_accepted or bool(told.refusal) or told.is_over
            try:
                if told.order_id in lost:
                    _make_hold(told, dry_run=dry_run, report=report)
                if told.order_id in undecided and is_told:
                    if not dry_run:
                        rebuilding.decide(told, now=clock.now("processing"))
                    report.done[VERDICTS] += 1
            except NotRebuilt as refusal:
                report.leave(told.order_id, refusal)


def _lost_holds(since: datetime) -> set[str]:
    """Return the orders placed since then whose hold is not there."""
    with_holds = Order.objects.filter(created_at__gte=since, hold_id__isnull=False).order_by("created_at", "order_id")
    lost: set[str] = set()
    for batch in in_batches(with_holds.values_list("hold_id", "order_id").iterator()):
        order_of = {hold_id: order_id for hold_id, order_id in batch if hold_id is not None}
        lost |= {order_of[hold_id] for hold_id in rebuilding.lost_holds(order_of.keys())}
    return lost


def _make_hold(told: Told, *, dry_run: bool, report: Report) -> None:
    if not dry_run:
        for goods in told.goods:
            if rebuilding.make_product(goods):
                report.done[PRODUCTS] += 1
                report.decisions.append(
                    Decision(f"product {goods.sku}", "made again from an order, not for sale: see its price and stock")
                )
        rebuilding.make_hold(told, now=clock.now("processing"))
    report.done[HOLDS] += 1


def told_of(one: Known) -> Told:
    """Return what is known of the stock of an order, and what orders was told of it."""
    order, quantities = one.order, Counter[UUID]()
    for product_id, line in one.goods:
        quantities[product_id] += line.quantity
    refusal = PROCESSING_TIMEOUT if order.fail_reason == PROCESSING_TIMEOUT else "processing_refused"
    return Told(
        order_id=order.order_id,
        hold_id=order.hold_id,
        goods=[
            Goods(
                product_id=product_id,
                sku=line.sku,
                name=line.name,
                quantity=quantities.pop(product_id),
                price=line.unit_price,
                currency=order.currency,
            )
            for product_id, line in one.goods
            if product_id in quantities  # the first one of a product
        ],
        placed_at=order.created_at,
        was_accepted="order.processed" in one.heard,
        refusal=refusal if "processing.refused" in one.heard else "",
        is_over=order.status in (Status.CANCELED, Status.FAILED),
        is_sold_early=order.capture == Order.Capture.AFTER_PROCESSING,
    )
