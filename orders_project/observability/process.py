"""What every long-lived process starts: the logging of its errors, its metrics and its traces."""

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
