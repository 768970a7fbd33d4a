"""
Health: three questions kept apart, and one page with everything.

    /health/live      does the process answer at all? If not, restart it.
    /health/started   is its database at the version of its code? Until then, wait for it.
    /health/ready     has it what it needs to serve? Until then, send it no requests. An order can be accepted without
                      the broker (it waits in the outbox), so the broker is not among it.
    /health           all of it, for people and monitors: every database, the broker, how far the relays lag
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

from outbox import broker, gauges, heartbeat

PATIENCE = 3.0  # seconds for all checks together
LATE = 30.0  # seconds a letter may be due before its relay counts as failed
STILL = 30.0  # seconds without a heartbeat after which a process counts as hanging


class Unwell(Exception):
    """A part answers, and what it says is not good."""


Check = Callable[[], None]
FAILURES = (Unwell, Error, *broker.LOST, broker.BrokerTooOld, grpc.RpcError)


@dataclass(frozen=True)
class Finding:
    """What was found of one part; `trouble` is empty if it is well."""

    part: str
    trouble: str


def examine(checks: Mapping[str, Check], *, patience: float = PATIENCE) -> list[Finding]:
    """Make all checks at once, in bounded time: one that has no result by then counts as failed."""
    pool = ThreadPoolExecutor(max(1, len(checks)), thread_name_prefix="health")
    asked = {part: pool.submit(_ask, check) for part, check in checks.items()}
    wait(asked.values(), timeout=patience)
    pool.shutdown(wait=False, cancel_futures=True)
    late = f"no answer within {patience:g} s"
    return [Finding(part, answer.result() if answer.done() else late) for part, answer in asked.items()]


def _ask(check: Check) -> str:
    try:
        check()
    except Unwell as trouble:
        return str(trouble)
    except FAILURES as error:
        return type(error).__name__  # its text may name hosts and users: the log has it
    finally:
        connections.close_all()  # they belong to this thread, which ends
    return ""


# The checks ---------------------------------------------------------------------------------------------------------


def _database(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")


def _migrated(alias: str) -> None:
    executor = MigrationExecutor(connections[alias])
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise Unwell("has migrations to run")


def _broker() -> None:
    broker.connect().close()


def _relay(service: str) -> None:
    (row,) = next(iter(gauges.model_of(service))).take()
    if row["outbox_oldest_seconds"] > LATE:
        raise Unwell(f"{row['outbox_oldest_seconds']:.0f} s behind")


def _heartbeat() -> None:
    age = heartbeat.age()
    if age is None or age > STILL:
        raise Unwell("never beat" if age is None else f"last beat {age:.0f} s ago")


def _grpc() -> None:
    with grpc.insecure_channel(f"127.0.0.1:{settings.GRPC_PORT}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unwell("not serving")


def ready() -> dict[str, Check]:
    """What this process can't serve without."""
    return {f"database {alias}": partial(_database, alias) for alias in settings.DATABASES_HERE}


def started() -> dict[str, Check]:
    return {f"database {alias}": partial(_migrated, alias) for alias in settings.DATABASES_HERE}


def before_start(*, migrated: bool) -> dict[str, Check]:
    """What a process waits for before it begins."""
    return (started() if migrated else ready()) | {"broker": _broker}


def relays() -> dict[str, Check]:
    return {f"relay {service}": partial(_relay, service) for service in settings.SERVICES_HERE}


def everything() -> dict[str, Check]:
    return ready() | {"broker": _broker} | relays()


def of_role(role: str) -> dict[str, Check]:
    """What `manage.py health` checks, from inside the container of a process."""
    beats = {"heartbeat": _heartbeat} if settings.HEARTBEAT_FILE else {}
    return {
        "web": ready(),
        "grpc": {"grpc": _grpc} | ready(),
        "worker": beats | ready() | {"broker": _broker},
        "relay": beats | ready() | {"broker": _broker} | relays(),
        "beat": beats | {"broker": _broker},
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
    """200 if every part is well, else 503; each part by name."""
    findings = examine(checks)
    well = not any(finding.trouble for finding in findings)
    parts = {f.part: f"failed: {f.trouble}" if f.trouble else "ok" for f in findings}
    return JsonResponse({"status": "ok" if well else "failed", "parts": parts}, status=200 if well else 503)
