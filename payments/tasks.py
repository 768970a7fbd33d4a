"""The periodic tasks of payments."""

from celery import shared_task

from outbox import clock
from outbox.sqlstates import skip_while_unavailable

from . import gateway_calls, receipts, refunds
from .books import reconcile


@shared_task(name="payments.janitor")
@skip_while_unavailable
def janitor() -> None:
    """Call the gateway for payments that have waited long enough, and handle kept webhooks whose payment is known."""
    gateway_calls.post_due_calls(now=clock.now("payments"))
    refunds.post_due_calls(now=clock.now("payments"))
    receipts.sweep()


@shared_task(name="payments.reconcile")
@skip_while_unavailable
def reconcile_nightly() -> None:
    """Compare what the gateway has booked with the ledger, once each night."""
    reconcile.reconcile_nightly(now=clock.now("payments"))
