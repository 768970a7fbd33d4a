"""One load on the running system: what came through, how fast, and what it cost."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.load import CLIENTS
from orders_project.tests.running_system import PROJECT, RunningSystem

TICK = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1
SERVICES = ("orders", "payments", "processing")
ENDED = "status IN ('done', 'failed', 'canceled')"
SEED = """
from django.utils import timezone
from payments import ledger, services as money
from processing import services as stock
from processing.models import Product
now = timezone.now()
for n in range({users}):
    money.open_account(user_id=f"bench-{{n}}")
    money.deposit(user_id=f"bench-{{n}}", amount=10**12, now=now)
ledger.system_account(ledger.REVENUE, currency="USD")
for n in range({products}):
    product = Product.objects.create(sku=f"bench-{{n}}", name="bench", price=10_00, currency="USD")
    stock.receive_stock(product_id=product.product_id, quantity=10**9, reason="bench", actor="bench", now=now)
"""


def cpu_by_group(system: RunningSystem) -> dict[str, float]:
    """CPU-seconds so far of each process with its children, the servers included."""
    parents: dict[int, int] = {}
    spent: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[pid], spent[pid] = int(rest[1]), sum(map(int, rest[11:15])) / TICK
    postgres, rabbitmq = system.services.postgres, system.services.rabbitmq
    assert postgres is not None
    assert postgres.process is not None
    assert rabbitmq is not None
    assert rabbitmq.process is not None
    roots = {process.pid: name for name, process in system.running.items()}
    roots |= {postgres.process.pid: "PostgreSQL", rabbitmq.process.pid: "RabbitMQ"}
    totals = dict.fromkeys(roots.values(), 0.0)
    for pid, seconds in spent.items():
        ancestor = pid
        while ancestor not in roots and ancestor in parents:
            ancestor = parents[ancestor]
        if ancestor in roots:
            totals[roots[ancestor]] += seconds
    return totals


def load(
    system: RunningSystem,
    *,
    rate: float,
    seconds: float,
    longest_wait: float = math.inf,
    clients: int = CLIENTS,
    obedient: float = 0,
) -> dict[str, Any]:
    """Place orders at this rate, by a process of its own (see load.py); what it says of them."""
    how = map(str, (rate, seconds, longest_wait, clients, obedient))
    command = [sys.executable, "-m", "benchmarks.load", system.url(""), *how]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    sent = dict(json.loads(done.stdout))
    # Of all processors of this machine, which the load generator shares with what it measures.
    return sent | {"share_of_machine": sent["cpu"] / (CORES * sent["seconds"])}


def count_orders(system: RunningSystem, condition: str) -> int:
    ((count,),) = system.query("orders", f"SELECT count(*) FROM orders_order WHERE {condition}")  # noqa: S608
    return int(count)


def finish(system: RunningSystem, *, timeout: float = 300) -> None:
    """Wait until no order is open."""
    system.until(lambda: count_orders(system, f"NOT {ENDED}") == 0, timeout=timeout)


def latency(system: RunningSystem, *, last: int) -> tuple[float, ...]:
    """Seconds from accepted to done: p50, p95, p99 of so many last orders."""
    ((values,),) = system.query(
        "orders",
        "SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY took)::float8[]"
        " FROM (SELECT extract(epoch FROM updated_at - created_at) AS took FROM orders_order WHERE status = 'done'"
        " ORDER BY created_at DESC LIMIT %s) AS orders",
        last,
    )
    return tuple(values)


def measure(system: RunningSystem, *, rate: float, seconds: float) -> dict[str, Any]:
    """One load: what came through, how fast, and what it cost."""
    before = count_orders(system, "status = 'done'")
    cpu, began = cpu_by_group(system), time.perf_counter()
    sent = load(system, rate=rate, seconds=seconds)
    finish(system)
    took = time.perf_counter() - began
    finished = count_orders(system, "status = 'done'") - before
    spent = {name: value - cpu[name] for name, value in cpu_by_group(system).items()}
    return {
        **sent,
        "finished": finished,
        "accepted_per_second": sent["accepted"] / sent["seconds"],
        "finished_per_second": finished / took,
        "cpu_per_order": {name: value / finished for name, value in spent.items()},
    }
