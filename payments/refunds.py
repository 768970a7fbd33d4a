"""A part of the money of a payment that goes back."""

from datetime import datetime

from . import ledger
from .gateways.base import RefundAnswer
from .models import Payment, WebhookReceipt

Status = WebhookReceipt.Status


def apply_webhook(refund: RefundAnswer, receipt: WebhookReceipt, *, now: datetime) -> tuple[Status, str]:
    """Let what a webhook says of a refund happen; return the new status of its receipt, and the reason."""
    return Status.QUARANTINED, "not_supported_yet"


def left(payment: Payment) -> int:
    """Return how much of what was captured can still go back: neither is it back, nor on its way, nor disputed."""
    money = ledger.of_order(payment.order_id)
    return money.kept - money.disputed
