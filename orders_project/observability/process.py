"""What every long-lived process does besides its work: it logs its end, shows its metrics, and traces."""

from django.conf import settings

from outbox import tracing

from . import logs, metrics


def begin(name: str, *, forks: bool = False) -> None:
    """Call this once, at the start of a process. Where it forks, its children trace and not the parent."""
    logs.take_over()
    if settings.METRICS_PORT:
        metrics.serve(host=settings.METRICS_HOST, port=settings.METRICS_PORT, databases=name == "relay")
    if not forks:
        tracing.begin(name)
