"""What the clock asks of every service: see the beat schedule in orders_project/celery.py."""

import logging

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from . import metrics, retention
from .broker import LOST
from .collector import collect as take_dead_letters
from .consumers import model_of
from .relay import OVERDUE, Relay

logger = logging.getLogger(__name__)

AT_ONCE, BATCHES = 1000, 20  # rows deleted in one statement, and statements a tick: no lock is held for long

_relays: dict[str, Relay] = {}


@shared_task(name="outbox.tick")
def tick(service: str) -> None:
    """
    Send what lies there though a running relay would have sent it.

    With a relay alive this finds nothing; without one it is the relay.
    """
    metrics.LAST_TICK.set_to_current_time()
    try:
        _relays.setdefault(service, Relay(service)).drain(overdue=OVERDUE)
    except LOST as error:
        logger.warning("%s: the broker can't be reached: %s", service, error)


@shared_task(name="outbox.collect")
def collect(service: str) -> None:
    """Take what the broker has dead-lettered into the service's table."""
    taken = take_dead_letters(service)
    if taken:
        logger.info("%s: took %d dead letters", service, taken)


@shared_task(name="outbox.purge")
def purge(service: str) -> None:
    """Forget what the service need not remember any longer."""
    purged = retention.purge(service, now=timezone.now())
    if any(purged.values()):
        logger.info("%s: purged %s", service, ", ".join(f"{number} {kind}" for kind, number in purged.items()))


@shared_task(name="outbox.forget_answers")
def forget_answers(service: str) -> None:
    """Delete the answers kept for idempotency keys that nobody will send again."""
    answers = model_of(service, "IdempotencyKey")
    before = timezone.now() - settings.IDEMPOTENCY_RETENTION
    for _ in range(BATCHES):
        if answers.forget(before=before, most=AT_ONCE) < AT_ONCE:
            return
