"""What orders and the gateway know of payments that payments itself has forgotten."""

from collections.abc import Collection
from datetime import datetime

from common.money import Money
from orders.models import Order, Refund, Status
from outbox import clock
from payments import rebuilding
from payments.models import Payment
from payments.rebuilding import NotRebuilt, Told, ToldRefund

from .known import Known, known
from .report import Report

OVER = frozenset({Status.VOIDING, Status.RELEASING, Status.CANCELED, Status.FAILED})  # they take no money any more
STEPS: dict[rebuilding.Step, str] = {
    rebuilding.charge_again: "payments charged again",
    rebuilding.close: "payments closed without money",
    rebuilding.give_back: "payments given back again",
    rebuilding.ask_gateway: "payments asked about at the gateway",
}
REFUNDS = "refunds made again"


def settle(order_ids: Collection[str], *, since: datetime, dry_run: bool, report: Report) -> None:
    """Have the payments of these orders, and of those that the gateway may know more of, be what they were."""
    ids = {*order_ids, *Payment.objects.filter(status__in=rebuilding.ASKED).values_list("pk", flat=True)}
    ids |= set(Refund.objects.filter(updated_at__gte=since).values_list("order_id", flat=True))
    # Money that goes back comes first, so that an account which had enough for everything has it again.
    found = [one for batch in known(ids) for one in batch if one.order.payment_method != Order.Method.INVOICE]
    orders = sorted(found, key=lambda one: "payment.refunded" not in one.heard)
    for one in orders:
        told = told_of(one)
        step = rebuilding.needed(told)
        if step is None:
            continue
        try:
            if not dry_run:
                step(told, clock.now("payments"))
        except NotRebuilt as refusal:
            report.leave(told.order_id, refusal)
        else:
            report.done[STEPS[step]] += 1
    for one in orders:
        if one.order.order_id not in report.held_back:
            _settle_refunds(one, dry_run=dry_run, report=report)


def told_of(one: Known) -> Told:
    """Return what orders was told of the payment of an order."""
    order, went_back = one.order, "payment.refunded" in one.heard
    return Told(
        order_id=order.order_id,
        method=order.payment_method,
        money=Money(order.total, order.currency),
        placed_at=order.created_at,
        user_id=order.user_id,
        principal=order.principal,
        is_manual=bool(order.capture),
        came_in=went_back or "payment.succeeded" in one.heard,
        went_back=went_back,
        is_over=order.status in OVER,
        reason=order.fail_reason if "payment.failed" in one.heard else "",
    )


def _settle_refunds(one: Known, *, dry_run: bool, report: Report) -> None:
    for refund in one.refunds:
        told = ToldRefund(
            order_id=refund.order_id,
            refund_id=refund.refund_id,
            money=Money(refund.amount, refund.currency),
            reason=refund.reason,
            fail_code=refund.fail_code,
            is_foreign=refund.refund_id not in one.refunds_asked_for,
        )
        if refund.status == Refund.Status.PENDING or not rebuilding.is_lost(told):
            continue  # it is asked for again, or known
        try:
            if not dry_run:
                rebuilding.rebuild_refund(told, now=clock.now("payments"))
        except NotRebuilt as refusal:
            report.leave(told.order_id, refusal)
        else:
            report.done[REFUNDS] += 1
