"""What every long-lived process does when it starts: the logging of its errors, its metrics, its traces, its memory."""

import gc

from django.conf import settings

from outbox import tracing

from . import logs, metrics


def begin(name: str, *, forks: bool = False) -> None:
    """Call this once when a process starts. If it `forks`, its children trace instead of it."""
    logs.take_over()
    if settings.METRICS_PORT:
        metrics.serve(host=settings.METRICS_HOST, port=settings.METRICS_PORT, databases=name == "relay")
    if not forks:
        tracing.begin(name)
        settle()


def settle() -> None:
    """
    Call this when a process has loaded what it stays with, or is about to fork.

    # Note [Out of the collector's sight]: modules, classes and settings are never garbage, but each full collection
    # looks through all of them, which took a tenth of what a web process does. In a child it would also copy the memory
    # that the child shares with its parent.
    """
    gc.collect()
    gc.freeze()
