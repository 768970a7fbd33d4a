"""The periodic tasks of processing."""

from celery import shared_task
from django.db import transaction

from outbox import clock
from outbox.sqlstates import skip_while_unavailable

from . import services
from .messages import HoldExpired
from .models import Outgoing


@shared_task(name="processing.expire_holds")
@skip_while_unavailable
def expire_holds() -> None:
    """Tell orders of each hold that has expired."""
    with transaction.atomic(using="processing"):
        for hold in services.expired_holds(now=clock.now("processing")):
            Outgoing.post(HoldExpired(order_id=hold.order_id, hold_id=str(hold.hold_id)))
