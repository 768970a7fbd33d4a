"""The periodic tasks of orders."""

import logging

from celery import shared_task
from django.conf import settings

from outbox import clock
from outbox.sqlstates import skip_while_unavailable

from . import archive

logger = logging.getLogger(__name__)


@shared_task(name="orders.archive")
@skip_while_unavailable
def archive_orders() -> None:
    """Move the histories of orders that have finished long enough ago into the archive, if that is switched on."""
    if settings.ARCHIVE_ORDERS_AFTER and not settings.UPGRADING:
        moved = archive.archive(now=clock.now("orders"), older_than=settings.ARCHIVE_ORDERS_AFTER)
        if moved:
            logger.info("archived the histories of %d orders", moved)
