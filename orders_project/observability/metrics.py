"""
`/metrics`: the counts of all processes that share `PROMETHEUS_MULTIPROC_DIR`, and gauges read from the databases.

A process without a web server serves the same on `METRICS_PORT`, a worker without the gauges of the databases.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import prometheus_client
from django.conf import settings
from django.db import Error, connections
from django.http import HttpRequest, HttpResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from psycopg.errors import QueryCanceled

import orders.gauges
import payments.gauges
import processing.gauges
from outbox.gauges import Reading, readings_of
from outbox.metrics import REGISTRY

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counted(Collector):
    """The counts of all processes that share the folder, or those of this process if there is none."""

    def collect(self) -> Iterator[Metric]:
        for metric in self._families():
            yield metric
            if metric.name == "orders_created":
                # A second name of the same count: prometheus_client cannot have both `orders` and `orders_created`.
                yield CounterMetricFamily("orders", "Orders created.", value=metric.samples[0].value)

    def _families(self) -> Iterable[Metric]:
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if not folder:
            return [*REGISTRY.collect(), *prometheus_client.REGISTRY.collect()]
        remove_dead(Path(folder))
        return MultiProcessCollector(None, path=folder).collect()


def remove_dead(folder: Path) -> None:
    """
    Remove the live gauges of processes that have ended, for whatever reason, from the folder.

    Their counters stay, because a counter must not decrease.
    """
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*_*.db")}:
        if not _is_alive(pid):
            with contextlib.suppress(FileNotFoundError):  # another process that is scraped was faster
                mark_process_dead(pid, str(folder))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@dataclass(eq=False)
class Stored(Collector):
    """Gauges read from the databases. A result that is a few seconds old is used again."""

    readings: tuple[Reading, ...]
    clock: Callable[[], float] = time.monotonic
    _taken: dict[Reading, tuple[float, list[dict[str, Any]]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def rows(
        self, *, gauges: Set[str] | None = None, without: Collection[str] = ()
    ) -> list[tuple[Reading, list[dict[str, Any]]]]:
        """
        All readings, or those with one of these gauges, with their rows, of the databases that answer.

        A database in `without` is not asked. A query that takes too long is left out alone.
        """
        found: list[tuple[Reading, list[dict[str, Any]]]] = []
        lost = set(without)
        with self._lock:
            for reading in self.readings:
                if reading.database in lost or (gauges is not None and not gauges & reading.gauges.keys()):
                    continue
                at, rows = self._taken.get(reading, (0.0, []))
                if reading not in self._taken or self.clock() - at >= reading.every:
                    try:
                        rows = reading.take()
                    except Error as error:
                        logger.warning("The gauges of %s could not be read: %s", reading.database, error)
                        connections[reading.database].close_if_unusable_or_obsolete()
                        if not isinstance(error.__cause__, QueryCanceled):
                            lost.add(reading.database)
                        continue
                    self._taken[reading] = (self.clock(), rows)
                found.append((reading, rows))
        return found

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families: dict[str, GaugeMetricFamily] = {}
        up = GaugeMetricFamily("database_up", "Whether a database answers.", labels=["database"])
        pending = 0
        found = self.rows()
        for reading, rows in found:
            for name, documentation in reading.gauges.items():
                labels = [column for column in (rows[0] if rows else ()) if column not in reading.gauges]
                family = families.setdefault(name, GaugeMetricFamily(name, documentation, labels=labels))
                for row in rows:
                    family.add_metric([str(row[label]) for label in labels], float(row[name]))
            pending += sum(row.get("outbox_service_pending", 0) for row in rows)
        answered = {reading.database for reading, _ in found}
        for database in dict.fromkeys(reading.database for reading in self.readings):
            up.add_metric([database], float(database in answered))
        yield from families.values()
        yield GaugeMetricFamily(
            "outbox_pending", "Messages that are due and not sent, of all services of this process.", pending
        )
        yield up


def readings() -> tuple[Reading, ...]:
    """The readings of the services that this process serves."""
    of_services = (*orders.gauges.READINGS, *payments.gauges.READINGS, *processing.gauges.READINGS)
    return (
        *(reading for service in settings.SERVICES_HERE for reading in readings_of(service)),
        *(reading for reading in of_services if reading.database in settings.SERVICES_HERE),
    )


STORED = Stored(readings())
ALL = CollectorRegistry()
ALL.register(Counted())
ALL.register(STORED)
COUNTED = CollectorRegistry()
COUNTED.register(Counted())


def view(request: HttpRequest) -> HttpResponse:
    """The page `/metrics` of a web process."""
    return HttpResponse(generate_latest(ALL), content_type=CONTENT_TYPE)


def serve(*, host: str, port: int, databases: bool) -> ThreadingWSGIServer:
    """Serve `/metrics` in a thread of this process, with or without the gauges of the databases."""
    shown = ALL if databases else COUNTED
    server = make_server(host, port, partial(_answer, shown), ThreadingWSGIServer, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _answer(shown: CollectorRegistry, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    known = environ["PATH_INFO"].rstrip("/") in {"", "/metrics"}
    try:
        body = generate_latest(shown) if known else b"/metrics is here\n"
    finally:
        connections.close_all()  # each request has a thread of its own
    start_response("200 OK" if known else "404 Not Found", [("Content-Type", CONTENT_TYPE)])
    return [body]


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Scrapes are not logged."""
