"""What a Celery process does when it starts, forks, beats and ends."""

import logging
import random
from typing import Any

from celery.signals import (
    beat_init,
    before_task_publish,
    celeryd_init,
    heartbeat_sent,
    setup_logging,
    worker_before_create_process,
    worker_process_init,
    worker_process_shutdown,
)
from django.conf import settings
from django.db import connections

from outbox import heartbeat, tracing

from .observability import logs, process

logger = logging.getLogger(__name__)
_name = "worker"


@setup_logging.connect
def keep_our_logging(**kwargs: Any) -> None:
    """With a receiver for this signal, Celery keeps the logging as Django has configured it."""


@celeryd_init.connect
def on_worker_start(sender: str, **kwargs: Any) -> None:
    """In the parent of the pool, which serves the metrics of its children."""
    global _name
    _name = sender.partition("@")[0]
    process.begin(_name, forks=True)


@worker_before_create_process.connect
def on_fork(**kwargs: Any) -> None:
    process.settle()


@worker_process_init.connect
def on_child_start(**kwargs: Any) -> None:
    """Keep one connection per database in a child of the pool: it handles one message at a time."""
    for database in connections.settings.values():
        database.get("OPTIONS", {}).pop("pool", None)
        database["CONN_MAX_AGE"] = settings.CHILD_CONNECTION_AGE * random.uniform(0.5, 1)
    tracing.begin(_name)


@worker_process_shutdown.connect
def on_child_end(**kwargs: Any) -> None:
    tracing.end()


@beat_init.connect
def on_beat_start(**kwargs: Any) -> None:
    logs.take_over()
    logger.info("beat is starting")


@heartbeat_sent.connect
@before_task_publish.connect
def on_heartbeat(**kwargs: Any) -> None:
    """A running worker sends a heartbeat every two seconds, and beat publishes a task every second."""
    heartbeat.beat()
