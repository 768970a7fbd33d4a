"""The periodic tasks of payments."""

from celery import shared_task

from outbox import clock
from outbox.sqlstates import skip_while_unavailable

from . import gateway_calls, receipts


@shared_task(name="payments.janitor")
@skip_while_unavailable
def janitor() -> None:
    """Call the gateway for payments that have waited long enough, and handle kept webhooks whose payment is known."""
    gateway_calls.post_due_calls(now=clock.now("payments"))
    receipts.sweep()
