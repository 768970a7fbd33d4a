"""Payers' banks that want money back."""

from datetime import datetime

from .gateways.base import DisputeAnswer
from .models import WebhookReceipt

Status = WebhookReceipt.Status


def apply_webhook(dispute: DisputeAnswer, receipt: WebhookReceipt, *, now: datetime) -> tuple[Status, str]:
    """Let what a webhook says of a dispute happen; return the new status of its receipt, and the reason."""
    return Status.QUARANTINED, "not_supported_yet"
