"""What a Celery process does besides its tasks."""

from typing import Any

from celery.signals import (
    beat_init,
    before_task_publish,
    celeryd_init,
    heartbeat_sent,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
)
from django.conf import settings
from django.db import connections

from outbox import heartbeat, tracing

from . import logs, process

_name = "worker"


@setup_logging.connect
def keep_our_logging(**kwargs: Any) -> None:
    """With a receiver here Celery leaves the logging as Django has set it up."""


@celeryd_init.connect
def in_the_worker(sender: str, **kwargs: Any) -> None:
    """In the parent of the pool: it shows what its children count."""
    global _name
    _name = sender.partition("@")[0]
    process.begin(_name, forks=True)


@worker_process_init.connect
def in_a_child(**kwargs: Any) -> None:
    """A child handles one message after the other on connections that it keeps: a pool would only cost it time."""
    for database in connections.settings.values():
        if database.get("OPTIONS", {}).pop("pool", None):
            database["CONN_MAX_AGE"] = settings.CONNECTION_AGE
    tracing.begin(_name)


@worker_process_shutdown.connect
def a_child_ends(**kwargs: Any) -> None:
    tracing.end()


@beat_init.connect
def in_beat(**kwargs: Any) -> None:
    logs.take_over()


@heartbeat_sent.connect
@before_task_publish.connect
def lives(**kwargs: Any) -> None:
    """A worker whose loop turns sends a heartbeat every two seconds; a clock publishes a tick every second."""
    heartbeat.beat()
