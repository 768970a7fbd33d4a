"""What the clock asks of payments."""

from celery import shared_task
from django.utils import timezone

from . import lifecycle as clearing
from . import receipts


@shared_task(name="payments.janitor")
def janitor() -> None:
    """Turn payments that wait too long to their gateway, and kept webhooks to the payment that has appeared."""
    clearing.look_after(now=timezone.now())
    receipts.sweep()
