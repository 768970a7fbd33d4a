"""
Health: three probes, and one page with everything.

    /health/live      Does the process answer at all? If not, restart it.
    /health/started   Are its databases migrated? If not, wait for it.
    /health/ready     Does it have what it needs to serve requests? If not, send it none. The broker is not needed: an
                      order can be accepted without it, as its messages wait in the outbox.
    /health           everything, for people and monitors: the databases, the broker, the lag of the relays
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

import grpc
from django.conf import settings
from django.db import Error, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orders_project import __version__
from orders_project.grpc import transport
from outbox import broker, gauges, heartbeat

TIMEOUT = 3.0  # seconds for all checks together
LATE = 30.0  # seconds that a message may be due before its relay counts as failed
MAX_AGE = 30.0  # seconds without a heartbeat before a process counts as hanging


class Unhealthy(Exception):
    """A part answers, but is not healthy."""


Check = Callable[[], None]
FAILURES = (Unhealthy, Error, *broker.LOST, broker.BrokerTooOld, grpc.RpcError)


@dataclass(frozen=True)
class Finding:
    """The result of one check; `trouble` is empty if the part is healthy."""

    part: str
    trouble: str


def examine(checks: Mapping[str, Check], *, timeout: float = TIMEOUT) -> list[Finding]:
    """Run all checks at once. One that has no result after `timeout` seconds counts as failed."""
    pool = ThreadPoolExecutor(max(1, len(checks)), thread_name_prefix="health")
    running = {part: pool.submit(_run, check) for part, check in checks.items()}
    wait(running.values(), timeout=timeout)
    pool.shutdown(wait=False, cancel_futures=True)
    late = f"no answer within {timeout:g} s"
    return [Finding(part, answer.result() if answer.done() else late) for part, answer in running.items()]


def _run(check: Check) -> str:
    try:
        check()
    except Unhealthy as trouble:
        return str(trouble)
    except FAILURES as error:
        return type(error).__name__  # its text may contain hosts and users
    finally:
        connections.close_all()  # those of this thread, which ends
    return ""


# The checks ---------------------------------------------------------------------------------------------------------


def _database(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")


def _migrated(alias: str) -> None:
    executor = MigrationExecutor(connections[alias])
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise Unhealthy("has migrations to run")


def _broker() -> None:
    broker.connect().close()


def _relay(service: str) -> None:
    (row,) = next(iter(gauges.readings_of(service))).take()
    if row["outbox_oldest_seconds"] > LATE:
        raise Unhealthy(f"{row['outbox_oldest_seconds']:.0f} s behind")


def _heartbeat() -> None:
    age = heartbeat.age()
    if age is None or age > MAX_AGE:
        raise Unhealthy("no heartbeat" if age is None else f"last heartbeat {age:.0f} s ago")


def _grpc() -> None:
    with transport.channel(f"127.0.0.1:{settings.GRPC_PORT}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unhealthy("not serving")


def ready() -> dict[str, Check]:
    """What this process needs to serve requests."""
    return {f"database {alias}": partial(_database, alias) for alias in settings.DATABASES_NEEDED}


def started() -> dict[str, Check]:
    return {f"database {alias}": partial(_migrated, alias) for alias in settings.DATABASES_NEEDED}


def before_start(*, migrated: bool) -> dict[str, Check]:
    """What a process waits for before it starts."""
    return (started() if migrated else ready()) | {"broker": _broker}


def relays() -> dict[str, Check]:
    return {f"relay {service}": partial(_relay, service) for service in settings.SERVICES_HERE}


def everything() -> dict[str, Check]:
    return ready() | {"broker": _broker} | relays()


def of_role(role: str) -> dict[str, Check]:
    """What `manage.py health` checks inside the container of a process."""
    heartbeats = {"heartbeat": _heartbeat} if settings.HEARTBEAT_FILE else {}
    return {
        "web": ready(),
        "grpc": {"grpc": _grpc} | ready(),
        "worker": heartbeats | ready() | {"broker": _broker},
        "relay": heartbeats | ready() | {"broker": _broker} | relays(),
        "beat": heartbeats | {"broker": _broker},
        "all": everything(),
    }[role]


ROLES = ("web", "grpc", "worker", "relay", "beat", "all")


# The pages ----------------------------------------------------------------------------------------------------------


def health(request: HttpRequest) -> JsonResponse:
    return _page(everything())


def live(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


def is_ready(request: HttpRequest) -> JsonResponse:
    return _page(ready())


def has_started(request: HttpRequest) -> JsonResponse:
    return _page(started())


def _page(checks: Mapping[str, Check]) -> JsonResponse:
    """Answer with the result of each check: 200 if all parts are healthy, else 503."""
    findings = examine(checks)
    healthy = not any(finding.trouble for finding in findings)
    parts = {f.part: f"failed: {f.trouble}" if f.trouble else "ok" for f in findings}
    answer = {"status": "ok" if healthy else "failed", "version": __version__, "parts": parts}
    return JsonResponse(answer, status=200 if healthy else 503)
