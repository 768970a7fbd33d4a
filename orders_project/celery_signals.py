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

from outbox import heartbeat, tracing

from .observability import logs, process

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
