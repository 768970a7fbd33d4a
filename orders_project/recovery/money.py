"""What orders and the gateway know of payments that payments itself has forgotten."""

from datetime import datetime

from common.errors import NotRebuilt
from common.money import Money
from orders.models import Order, Refund, Status
from outbox import clock
from payments import rebuilding
from payments.models import Payment
from payments.rebuilding import Told, ToldRefund

from .known import Known, known
from .report import Missing, Report

OVER = frozenset({Status.VOIDING, Status.RELEASING, Status.CANCELED, Status.FAILED})  # they take no money any more
STEPS: dict[rebuilding.Step, str] = {
    rebuilding.charge_again: "payments charged again",
    rebuilding.close: "payments closed without money",
    rebuilding.give_back: "payments given back again",
    rebuilding.ask_gateway: "payments asked about at the gateway",
}
REFUNDS = "refunds made again"


def settle(missing: Missing, *, since: datetime, dry_run: bool, report: Report) -> None:
    """
    Have payments be what they were: those of the orders of which payments misses messages, and those of which the
    gateway may know more.
    """
    ids = {one.subject for one in missing()}
    ids |= set(Payment.objects.filter(status__in=rebuilding.ASKED).values_list("pk", flat=True))
    ids |= set(Refund.objects.filter(updated_at__gte=since).values_list("order_id", flat=True))
    # Money that goes back comes first, so that an account which had enough for everything has it again.
    for goes_back in (True, False):
        for one in (one for batch in known(ids) for one in batch):
            if one.order.payment_method == Order.Method.INVOICE or told_of(one).went_back != goes_back:
                continue
            try:
                _settle(one, dry_run=dry_run, report=report)
            except NotRebuilt as refusal:
                report.leave(one.order.order_id, refusal)


def _settle(one: Known, *, dry_run: bool, report: Report) -> None:
    """Make the payment of an order again, then refunds of its parts, then have the rest go back if it did."""
    told = told_of(one)
    step = rebuilding.needed(told)
    if step is not None:
        if not dry_run and step is not rebuilding.give_back:
            step(told, clock.now("payments"))
        report.done[STEPS[step]] += 1
    for refund in lost_refunds(one):
        if not dry_run:
            rebuilding.rebuild_refund(refund, now=clock.now("payments"))
        report.done[REFUNDS] += 1
    if told.went_back and not dry_run:
        rebuilding.give_back(told, clock.now("payments"))


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


def lost_refunds(one: Known) -> list[ToldRefund]:
    """Return what orders was told of refunds that payments does not know. Pending ones are asked for again."""
    told = [
        ToldRefund(
            order_id=refund.order_id,
            refund_id=refund.refund_id,
            money=Money(refund.amount, refund.currency),
            reason=refund.reason,
            fail_code=refund.fail_code,
            is_foreign=one.order.payment_method == Order.Method.GATEWAY
            and refund.refund_id not in one.refunds_asked_for,
        )
        for refund in one.refunds
        if refund.status != Refund.Status.PENDING
    ]
    return [refund for refund in told if rebuilding.is_lost(refund)]
