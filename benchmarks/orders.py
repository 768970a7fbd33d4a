"""
The whole system under load, beside what its database alone could do: `make bench`.

Reports CPU-seconds an order by process, orders accepted and finished a second, the time from accepted to done at a
gentle rate, and finished a second ÷ the limit: the transactions of one order as prepared SQL under pgbench, on the
same server, in the same run. Rates drift from machine to machine; the ratios are what to compare.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import psycopg

from benchmarks.load import PRODUCTS, USERS
from orders_project.tests.running_system import PROJECT, RunningSystem

TICK = os.sysconf("SC_CLK_TCK")
UUIDV7_SINCE = 18
UUIDV7 = """
CREATE FUNCTION uuidv7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_bit(set_bit(overlay(
        uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
    ), 52, 1), 53, 1), 'hex')::uuid
$$
"""
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


def load(system: RunningSystem, *, rate: float, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.load", system.url(""), str(rate), str(seconds)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def count_orders(system: RunningSystem, condition: str) -> int:
    ((count,),) = system.query("orders", f"SELECT count(*) FROM orders_order WHERE {condition}")  # noqa: S608
    return int(count)


def open_orders(system: RunningSystem) -> int:
    ((count,),) = system.query(
        "orders", "SELECT count(*) FROM orders_order WHERE status NOT IN ('done','failed','canceled')"
    )
    return int(count)


def finish(system: RunningSystem) -> None:
    system.until(lambda: open_orders(system) == 0, timeout=300)


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


def copy_tables(system: RunningSystem) -> str:
    """Copy the tables of all services into one database, for the bare transactions, and return its address."""
    postgres = system.services.postgres
    assert postgres is not None
    url = postgres.url("limit")
    postgres.create_database("limit")
    for service in ("orders", "payments", "processing"):
        dump = run_tool(system, "pg_dump", system.env[f"DATABASE_URL_{service.upper()}"])
        # The outbox tables are the same in every service: the second and third time they exist already.
        run_tool(system, "psql", "-q", url, given=dump)
    with psycopg.connect(url, autocommit=True) as connection:
        if postgres.installation.version < UUIDV7_SINCE:
            connection.execute(UUIDV7)
        connection.execute("VACUUM ANALYZE")
    return url


def run_tool(system: RunningSystem, name: str, *arguments: str | Path, given: str = "") -> str:
    """What a program of PostgreSQL prints; of the server's own version."""
    assert system.services.postgres is not None
    tools = system.services.postgres.installation
    done = subprocess.run(
        [tools.programs / name, *arguments],
        env=os.environ | tools.env, input=given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def limit(system: RunningSystem, url: str, *, how_long: tuple[str, str]) -> float:
    """Orders a second of the bare transactions: 16 clients, prepared.

    `how_long` is pgbench's own: ("-T", seconds) or ("-t", transactions of each client).
    """
    script = PROJECT / "benchmarks" / "limit.sql"
    said = run_tool(system, "pgbench", "-n", "-M", "prepared", "-c", "16", "-j", "2", *how_long, "-f", script, url)
    found = re.search(r"tps = ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="how long each part lasts")
    parser.add_argument("--rate", type=float, default=150, help="orders a second that are more than it can take")
    parser.add_argument("--json", type=Path, help="write the result here too")
    arguments = parser.parse_args()
    with RunningSystem(for_tests=False) as system:
        system.manage("shell", "-c", SEED.format(users=USERS, products=PRODUCTS))
        # A machine shared with others drifts within minutes: the limit is taken before and after.
        tables, half = copy_tables(system), ("-T", str(max(1, arguments.seconds // 2)))
        bare = [limit(system, tables, how_long=half)]
        system.start_all()
        load(system, rate=10, seconds=3)
        finish(system)
        gentle = measure(system, rate=10, seconds=arguments.seconds)
        gentle["accepted_to_done"] = latency(system, last=gentle["finished"])
        full = measure(system, rate=arguments.rate, seconds=arguments.seconds)
        system.stop_all()
        bare.append(limit(system, tables, how_long=half))
    result = {"limit": bare, "gentle": gentle, "full": full, "ratio": full["finished_per_second"] / fmean(bare)}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))
    p50, p95, p99 = (1000 * value for value in gentle["accepted_to_done"])
    print(f"limit (pgbench)      {bare[0]:7.0f} orders/s before, {bare[1]:.0f} after")
    print(f"accepted             {full['accepted_per_second']:7.0f} orders/s ({full['refused']} refused)")
    print(f"finished             {full['finished_per_second']:7.0f} orders/s = {result['ratio']:.3f} of the limit")
    print(f"accepted to done     p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms at 10 orders/s")
    print(f"CPU an order         {1000 * sum(full['cpu_per_order'].values()):.1f} ms:")
    for name, seconds in sorted(full["cpu_per_order"].items(), key=lambda item: -item[1]):
        print(f"    {name:<12} {1000 * seconds:6.1f} ms")


if __name__ == "__main__":
    main()
