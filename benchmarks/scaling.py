"""
What an order costs each part of the system, and what other rates of orders would take: `make bench-scaling`.

Everything is counted, and nothing depends on how fast this machine is or who else uses it, but for CPU-seconds, which
depend on its processors. An order costs less the more of them come at a time, as messages travel together; so it is
measured at several rates. What the system costs while nothing happens is subtracted.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks import footprint
from benchmarks.load import PRODUCTS, USERS
from benchmarks.measurement import SEED, SERVICES, TICK, count_orders, cpu_by_group, finish, load
from orders_project.embedded.supervisor import stopping_on_signals
from orders_project.tests.running_system import RunningSystem

RATES = (100, 1_000, 10_000, 100_000)
DAY = 86_400
TOLD = 11.0  # seconds after which a session of PostgreSQL that does nothing has told what it has done
COUNTED = """
SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
       (SELECT coalesce(sum(n_tup_ins), 0)::bigint FROM pg_stat_user_tables),
       (SELECT coalesce(sum(n_tup_upd), 0)::bigint FROM pg_stat_user_tables),
       (SELECT coalesce(sum(n_tup_ins), 0)::bigint FROM pg_stat_user_tables
        WHERE coalesce(pg_partition_root(relid), relid)::regclass::text = ANY(%s))
"""
WHAT = ("commits", "inserted", "updated", "passing")  # passing: inserted rows that retention deletes


def counted(system: RunningSystem) -> dict[str, float]:
    """Everything that grows, by name: CPU-seconds by process and database, and what each database has done."""
    found: dict[str, float] = {f"cpu {name}": value for name, value in cpu_by_group(system).items()}
    found |= {f"cpu PostgreSQL {name}": value for name, value in cpu_by_database(system).items()}
    for service in SERVICES:
        (row,) = system.query(service, COUNTED, [*footprint.PASSING])
        found |= {f"{what} {service}": float(value) for what, value in zip(WHAT, row, strict=True)}
    found |= {what: float(value) for what, value in footprint.counted(system).items()}
    return found


def cpu_by_database(system: RunningSystem) -> dict[str, float]:
    """CPU-seconds so far of the sessions of each database; those of a session that has ended are the server's own."""
    assert system.services.postgres is not None
    assert system.services.postgres.process is not None
    server = system.services.postgres.process.pid
    spent = dict.fromkeys(SERVICES, 0.0)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = stat.read_text().rpartition(")")[2].split()
            title = (stat.parent / "cmdline").read_text().split()
        except OSError:
            continue
        if int(rest[1]) == server and len(title) > 2 and title[2] in spent:
            spent[title[2]] += sum(map(int, rest[11:13])) / TICK
    return spent


def at_rest(system: RunningSystem, *, seconds: float) -> dict[str, float]:
    """What a second costs while nothing happens."""
    time.sleep(TOLD)
    before, began = counted(system), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {name: (value - before[name]) / took for name, value in counted(system).items()}


def per_order(system: RunningSystem, *, rate: float, seconds: float, rest: dict[str, float]) -> dict[str, float]:
    """What each order of a load costs beyond what the system costs anyhow."""
    done, before, began = count_orders(system, "status = 'done'"), counted(system), time.monotonic()
    load(system, rate=rate, seconds=seconds)
    finish(system)
    time.sleep(TOLD)
    after, took = counted(system), time.monotonic() - began
    orders = count_orders(system, "status = 'done'") - done
    costs = {name: (after[name] - before[name] - rest[name] * took) / orders for name in after}
    return {name: round(value, 6) for name, value in costs.items()} | {"orders": orders}


def needed(costs: dict[str, float], *, rate: float) -> dict[str, float]:
    """What so many orders a second would take, if an order costs that much: processors, amounts a second or a day."""
    return {
        "cores of web": rate * costs["cpu web"],
        "cores of workers": rate * sum(costs[f"cpu {service}"] for service in SERVICES),
        "cores of relays": rate * costs["cpu relay"],
        "cores of RabbitMQ": rate * costs["cpu RabbitMQ"],
        "cores of PostgreSQL": rate * costs["cpu PostgreSQL"],
        **{f"commits/s of {service}": rate * costs[f"commits {service}"] for service in SERVICES},
        "messages/s": rate * costs["messages"],
        "WAL MB/s": rate * costs["wal_bytes"] / 1e6,
        "rows/s": rate * costs["rows"],
        "rows/s to purge, at most": rate * max(costs[f"passing {service}"] for service in SERVICES),
        "GB a day": rate * DAY * costs["bytes"] / 1e9,
        "GB a day that stay": rate * DAY * costs["lasting_bytes"] / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="how long each load lasts")
    parser.add_argument("--rates", type=float, nargs="+", default=[5, 20, 60], help="orders a second, gentle ones")
    parser.add_argument("--json", type=Path, help="write the result here too")
    arguments = parser.parse_args()
    with RunningSystem(for_tests=False, pooled=()) as system:
        system.manage("shell", "-c", SEED.format(users=USERS, products=PRODUCTS))
        system.start_all()
        load(system, rate=10, seconds=3)  # the first orders of a process cost it more than those after
        finish(system)
        rest = at_rest(system, seconds=arguments.seconds)
        result: dict[str, Any] = {"at rest, a second": rest}
        for rate in arguments.rates:
            before = footprint.measure(system)
            costs = per_order(system, rate=rate, seconds=arguments.seconds, rest=rest)
            left = footprint.per_order(before, footprint.measure(system), orders=int(costs["orders"]))
            costs |= {name: left[name] for name in ("bytes", "lasting_bytes")}
            result[f"an order at {rate:g} a second"] = costs
        result |= {f"needed for {rate} orders/s": needed(costs, rate=rate) for rate in RATES}
    for title, figures in result.items():
        print(f"{title}:", *(f"    {name:<24} {value:14,.4f}" for name, value in figures.items()), sep="\n", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    with stopping_on_signals():
        main()
