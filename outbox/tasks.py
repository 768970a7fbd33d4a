"""Periodic work of every service: put these tasks into the schedule of Celery beat."""

import logging

from celery import shared_task

from . import clock, metrics, retention
from .broker import LOST
from .collector import collect as collect_dead_letters
from .relay import OVERDUE, Relay
from .services import database_of
from .sqlstates import skip_while_unavailable

logger = logging.getLogger(__name__)

_relays: dict[str, Relay] = {}


@shared_task(name="outbox.tick")
@skip_while_unavailable
def tick(service: str) -> None:
    """
    Send what a running relay would have sent by now.

    While a relay runs there is nothing to do; without one, this is the relay. Every second.
    """
    metrics.LAST_TICK.set_to_current_time()
    try:
        _relays.setdefault(service, Relay(service)).drain(overdue=OVERDUE)
    except LOST as error:
        logger.warning("%s: the broker can't be reached: %s", service, error)


@shared_task(name="outbox.collect")
@skip_while_unavailable
def collect(service: str) -> None:
    """Store what the broker has dead-lettered in the service's table. Every few seconds."""
    try:
        taken = collect_dead_letters(service)
    except LOST as error:
        logger.warning("%s: the broker can't be reached, or can't deliver now: %s", service, error)
        return
    if taken:
        logger.info("%s: took %d dead letters", service, taken)


@shared_task(name="outbox.purge")
@skip_while_unavailable
def purge(service: str) -> None:
    """Delete what the service need not keep any longer. Every ten seconds."""
    purged = retention.purge(service, now=clock.now(database_of(service)))
    if any(purged.values()):
        logger.info("%s: purged %s", service, ", ".join(f"{number} {kind}" for kind, number in purged.items()))
