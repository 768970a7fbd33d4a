"""
The whole system under load, beside what its database alone could do: `make bench`.

Reports CPU-seconds an order by process, orders accepted and finished a second, the time from accepted to done at a
gentle rate and at half of what it can take, what an order leaves in the databases, and finished a second ÷ the limit:
the transactions of one order as prepared SQL under pgbench, on the same server, in the same run. Rates drift from
machine to machine; the ratios are what to compare.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import baseline, chart, footprint, growth, overload, peer
from benchmarks.limit import copy_tables, limit
from benchmarks.load import PRODUCTS, USERS
from benchmarks.measurement import SEED, finish, latency, load, measure
from orders_project.embedded.supervisor import stopping_on_signals
from orders_project.tests.running_system import RunningSystem

GENTLE = 10
THREADS = 8  # of the web, as in docker/compose.yaml


def main() -> None:
    arguments = parse()
    result: dict[str, Any] = {}
    for part in measure_parts(arguments):
        result |= part
        print("\n".join(lines(part)), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=2))
    if arguments.images:
        draw(result, arguments.images, seconds=arguments.seconds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="how long each part lasts")
    parser.add_argument("--rate", type=float, default=200, help="orders a second that are more than it can take")
    parser.add_argument("--baseline", metavar="REV", help="measure another revision in turn with this one")
    parser.add_argument("--turns", type=int, default=3, help="how often each of the two is measured")
    parser.add_argument("--peer", choices=peer.PEERS, help="measure another durable engine on the same server")
    parser.add_argument("--overload", type=float, metavar="MINUTES", help="place three times what it can take")
    parser.add_argument("--growth", type=int, metavar="N", help="measure once more with so many old orders")
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="draw the result: bench-*.svg")
    return parser.parse_args()


def measure_parts(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The parts of the result, each when it has been measured."""
    seconds, rate = arguments.seconds, arguments.rate
    if arguments.baseline:
        yield {"baseline": baseline.in_turn(arguments.baseline, turns=arguments.turns, seconds=seconds, rate=rate)}
    more = arguments.peer or arguments.overload or arguments.growth
    if arguments.baseline and not more:
        return
    with RunningSystem(for_tests=False, pooled=()) as system:
        result = measure_itself(system, seconds=seconds, rate=rate)
        yield result
        if arguments.peer:
            yield {"peer": peer.measure(system, arguments.peer, seconds=seconds)}
        if arguments.overload or arguments.growth:
            start(system)
        if arguments.overload:
            capacity = result["full"]["finished_per_second"]
            yield {"overload": overload.measure(system, capacity=capacity, minutes=arguments.overload)}
        if arguments.growth:
            yield {"growth": growth.measure(system, orders=arguments.growth, rate=rate, seconds=seconds)}


def measure_itself(system: RunningSystem, *, seconds: int, rate: float) -> dict[str, Any]:
    """What is measured of every revision."""
    system.manage("shell", "-c", SEED.format(users=USERS, products=PRODUCTS))
    # A machine shared with others drifts within minutes: the limit is taken before and after.
    tables, half = copy_tables(system), ("-T", str(max(1, seconds // 2)))
    bare = [limit(system, tables, how_long=half)]
    start(system)
    gentle = measure_latency(system, rate=GENTLE, seconds=seconds)
    before = footprint.measure(system)
    full = measure(system, rate=rate, seconds=seconds)
    left = footprint.per_order(before, footprint.measure(system), orders=full["finished"])
    capacity = full["finished_per_second"]
    result: dict[str, Any] = {"gentle": gentle, "full": full, "footprint": left}
    result["half"] = measure_latency(system, rate=capacity / 2, seconds=seconds)
    system.stop_all()
    bare.append(limit(system, tables, how_long=half))
    return result | {"limit": bare, "ratio": capacity / fmean(bare)}


def start(system: RunningSystem) -> None:
    """Start all processes, and give them some orders: the first ones of a process cost it more than those after."""
    system.commands["web"][-1] = str(THREADS)
    system.start_all()
    load(system, rate=GENTLE, seconds=3)
    finish(system)


def measure_latency(system: RunningSystem, *, rate: float, seconds: float) -> dict[str, Any]:
    """A load that the system can take, with the time from accepted to done."""
    found = measure(system, rate=rate, seconds=seconds)
    return found | {"rate": rate, "accepted_to_done": latency(system, last=found["finished"])}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    said = []
    if "baseline" in result:
        said += baseline.lines(result["baseline"])
    if "full" in result:
        said += lines_of_one(result)
        said += footprint.lines(result["footprint"])
    for name, part in (("peer", peer), ("overload", overload), ("growth", growth)):
        if name in result:
            said += part.lines(result[name])
    return said


def lines_of_one(result: dict[str, Any]) -> list[str]:
    bare, full = result["limit"], result["full"]
    said = [
        f"limit (pgbench)      {bare[0]:8.0f} orders/s before, {bare[1]:.0f} after",
        f"accepted             {full['accepted_per_second']:8.0f} orders/s"
        f" ({full['refused']} refused, {full['failed']} failed)",
        f"finished             {full['finished_per_second']:8.0f} orders/s = {result['ratio']:.3f} of the limit",
    ]
    for part in ("gentle", "half"):
        p50, p95, p99 = (1000 * value for value in result[part]["accepted_to_done"])
        rate = result[part]["rate"]
        said.append(f"accepted to done     p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms at {rate:.0f} orders/s")
    said.append(f"load generator       {100 * full['share_of_machine']:8.1f} % of the machine's processors")
    said.append(f"CPU an order         {1000 * sum(full['cpu_per_order'].values()):8.1f} ms:")
    for name, spent in sorted(full["cpu_per_order"].items(), key=lambda item: -item[1]):
        said.append(f"    {name:<12} {1000 * spent:6.1f} ms")
    return said


def draw(result: dict[str, Any], folder: Path, *, seconds: int) -> None:
    """Draw what was compared."""
    folder.mkdir(parents=True, exist_ok=True)
    if "baseline" in result:
        found = result["baseline"]
        bars = {
            found["revision"][:10]: baseline.cpu_by_process(found["before"]),
            "now": baseline.cpu_by_process(found["now"]),
        }
        how = f"Measured in turn, {len(found['now'])} × {seconds} s: medians"
        picture = chart.stacked_bars("CPU an order, by process", bars, unit="ms", how=how)
        (folder / "bench-baseline.svg").write_text(picture)
    if "peer" in result:
        bars = {
            "Orders": baseline.cpu_by_process([result]),
            result["peer"]["what"]: {n: 1000 * value for n, value in result["peer"]["cpu_per_order"].items()},
        }
        how = f"One PostgreSQL server, one after the other, {seconds} s each"
        (folder / "bench-peer.svg").write_text(chart.stacked_bars("CPU an order", bars, unit="ms", how=how))
    if "overload" in result:
        found = result["overload"]
        picture = chart.over_time(
            f"{overload.TIMES} × the capacity for {found['minutes']:g} min",
            found["timeline"],
            unit="orders/s",
            how=f"Means of {overload.STEP} s; the capacity was {found['capacity']:.0f} orders/s",
            marks={"the load ends": found["sent_until"]},
        )
        (folder / "bench-overload.svg").write_text(picture)


if __name__ == "__main__":
    with stopping_on_signals():
        main()
