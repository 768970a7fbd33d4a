"""The periodic tasks of processing."""

from celery import shared_task
from django.db import transaction

from common.backlog import work_off
from outbox import clock
from outbox.sqlstates import skip_while_unavailable

from . import services
from .messages import HoldExpired
from .models import Outgoing

BATCH = 500  # holds in one transaction


@shared_task(name="processing.expire_holds")
@skip_while_unavailable
def expire_holds() -> None:
    """Tell orders of each hold that has expired."""
    work_off(_expire_some, batch=BATCH)


def _expire_some() -> int:
    with transaction.atomic(using="processing"):
        holds = services.expired_holds(now=clock.now("processing"), limit=BATCH)
        Outgoing.post(*(HoldExpired(order_id=hold.order_id, hold_id=str(hold.hold_id)) for hold in holds))
    return len(holds)
