"""
Payers' banks that want money back.

A dispute moves the disputed money aside; when it is won the money comes back, and when it is lost it is gone. What it
says is booked once, in whatever order its webhooks come.
"""

from datetime import datetime

from . import ledger, lifecycle, messages
from .gateways.base import DisputeAnswer
from .models import Dispute, Entry, Outgoing, Payment, WebhookReceipt

Status = WebhookReceipt.Status
OPENED, WON, LOST = Dispute.Status.OPENED, Dispute.Status.WON, Dispute.Status.LOST

# What is booked when a dispute that is in this status, or is not known yet, is said to be in that one.
BOOKED: dict[tuple[str, str], tuple[Entry.Kind, ...]] = {
    ("", OPENED): (Entry.Kind.DISPUTE,),
    ("", WON): (Entry.Kind.DISPUTE, Entry.Kind.DISPUTE_WON),
    ("", LOST): (Entry.Kind.DISPUTE, Entry.Kind.DISPUTE_LOST),
    (OPENED, OPENED): (),
    (OPENED, WON): (Entry.Kind.DISPUTE_WON,),
    (OPENED, LOST): (Entry.Kind.DISPUTE_LOST,),
}
OLD_NEWS = {(WON, OPENED), (WON, WON), (LOST, OPENED), (LOST, LOST)}  # and the other pairs contradict each other

SIDES = {
    Entry.Kind.DISPUTE: (ledger.REVENUE, ledger.DISPUTES),
    Entry.Kind.DISPUTE_WON: (ledger.DISPUTES, ledger.REVENUE),
    Entry.Kind.DISPUTE_LOST: (ledger.DISPUTES, ledger.CASH),
}


def apply_webhook(answer: DisputeAnswer, receipt: WebhookReceipt, *, now: datetime) -> tuple[Status, str]:
    """
    Let what a webhook says of a dispute happen; return the new status of its receipt, and the reason.

    Its payment is locked.
    """
    payment = Payment.objects.get(pk=receipt.order_id)
    dispute = Dispute.objects.filter(gateway=payment.gateway, dispute_id=answer.dispute_id).first()
    if dispute is not None and (dispute.amount, dispute.payment_id) != (answer.amount, payment.pk):
        return Status.QUARANTINED, "amount_mismatch"
    before = dispute.status if dispute else ""
    if (before, answer.status) in OLD_NEWS:
        return Status.APPLIED, ""
    if (before, answer.status) not in BOOKED:
        return Status.QUARANTINED, lifecycle.Contradiction.code
    money = ledger.of_order(payment.order_id)
    free = money.kept - (money.disputed if dispute is None else 0)
    takes_money = answer.status == LOST or (dispute is None and answer.status == OPENED)
    if not money.captured or (takes_money and answer.amount > free):
        return receipt.early_or_wrong(now=now), "dispute_exceeds_captured" if money.captured else "not_captured"
    dispute = dispute or Dispute(
        payment=payment,
        gateway=payment.gateway,
        dispute_id=answer.dispute_id,
        amount=answer.amount,
        currency=answer.currency,
        created_at=now,
    )
    dispute.status, dispute.updated_at = answer.status, now
    dispute.reason = answer.reason[:100] or dispute.reason
    dispute.respond_by = answer.respond_by or dispute.respond_by
    dispute.save()
    _book(dispute, BOOKED[before, answer.status], now=now)
    return Status.APPLIED, ""


def _book(dispute: Dispute, kinds: tuple[Entry.Kind, ...], *, now: datetime) -> None:
    for kind in kinds:
        source, target = SIDES[kind]
        ledger.move(
            kind=kind,
            source=ledger.system_account(source, currency=dispute.currency),
            target=ledger.system_account(target, currency=dispute.currency),
            amount=dispute.amount,
            now=now,
            order_id=dispute.payment_id,
            gateway_id=dispute.dispute_id,
        )
    if not kinds:
        return
    Outgoing.post(
        messages.PaymentDisputed(
            order_id=dispute.payment_id,
            dispute_id=dispute.dispute_id,
            status=str(dispute.status),
            amount=dispute.amount,
            currency=dispute.currency,
            reason=dispute.reason,
        )
    )
    if dispute.status != OPENED:
        lifecycle.advance(dispute.payment, lifecycle.Event.PART_ENDED, now=now)
