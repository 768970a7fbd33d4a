"""
Metrics that are counted where something happens, in every process.

With `PROMETHEUS_MULTIPROC_DIR` the numbers are in files that all processes share, and each of them can export them all.
No label may hold an id: a label must have few values.
"""

import os
from collections.abc import Callable
from pathlib import Path

if _folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    Path(_folder).mkdir(parents=True, exist_ok=True)  # prometheus_client, which opens files here, does not

from django.db import transaction
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()
REGISTRY = CollectorRegistry()
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def counter(name: str, documentation: str, *labels: str) -> Counter:
    return Counter(name, documentation, labels, registry=REGISTRY)


def histogram(name: str, documentation: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
    return Histogram(name, documentation, labels, buckets=buckets, registry=REGISTRY)


def gauge(name: str, documentation: str, *labels: str, over_processes: str) -> Gauge:
    """Return a gauge; `over_processes` is how the values of living processes become one: livesum, livemax …"""
    return Gauge(name, documentation, labels, registry=REGISTRY, multiprocess_mode=over_processes)  # type: ignore[arg-type]


def after_commit(using: str, count: Callable[[], None]) -> None:
    """Count when the transaction in this database commits, and only if it does."""
    transaction.on_commit(count, using=using, robust=True)


class Few:
    """Limits the values of a label: the first ones stay as they are, all later ones become `other`."""

    def __init__(self, limit: int = 30) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= self._limit:
            return "other"
        self._seen.add(value)
        return value


EVENTS_PUBLISHED = counter("events_published_total", "Events that the broker has confirmed.")
EVENTS_FAILED = counter("events_failed_total", "Attempts to publish an event that failed.")
EVENTS_MOVED_TO_DLQ = counter("events_moved_to_dlq_total", "Events that have become dead letters.")
WORKER_ERRORS = counter("worker_errors_total", "Messages that a worker failed to handle, and losses of its database.")
DATABASE_ERRORS = counter(
    "database_errors_total", "Errors for which a database was to blame: it was waited for, or asked again.", "sqlstate"
)

RELAY_BATCH = histogram(
    "relay_batch_messages", "Messages sent in one batch.", "service", buckets=(1, 2, 5, 10, 20, 50, 100, 200)
)
RELAY_LAG = histogram(
    "relay_lag_seconds", "How long a batch's oldest message was due when the batch was sent.", "service"
)
UNKNOWN_FIELDS = counter(
    "message_unknown_fields_total", "Fields of messages that this release does not know, which were ignored.", "type"
)
PUT_BACK = counter(
    "messages_put_back_total", "Messages of another release that wait for a worker that knows them.", "service"
)
INBOX_DUPLICATES = counter("inbox_duplicates_total", "Copies of messages handled before, which did nothing.", "service")
BATCH_SIZE = histogram(
    "consumer_batch_messages", "Messages handled in one transaction.", "service", buckets=(1, 2, 5, 10, 25)
)
BATCHES_SPLIT = counter("consumer_batches_split_total", "Batches whose messages were handled one by one.", "service")
CONSUMER_SECONDS = histogram("consumer_seconds", "Time to handle a message.", "type")
LAST_TICK = gauge(
    "clock_last_tick_seconds", "When beat last ran its periodic tasks, in Unix time.", over_processes="max"
)
