"""More orders than the system can take, for minutes: `--overload MINUTES`."""

from collections import Counter
from typing import Any

from benchmarks.measurement import ENDED, SERVICES, count_orders, cpu_by_group, finish, load
from benchmarks.measurement import measure as measure_load
from orders_project.tests.running_system import RunningSystem

TIMES = 3  # the capacity
MANY = 256  # that wait for an answer at the same time
OBEDIENT = 0.5  # of the clients try again when they are asked to, the others not at all
LONGEST_WAIT = 5  # seconds that an order waits for a free client
STEP = 5  # seconds; each of them is a point of the timeline
AFTERWARDS = 10  # seconds of half of the capacity, once all is done


def measure(system: RunningSystem, *, capacity: float, minutes: float) -> dict[str, Any]:
    """Place three times as many orders as can be finished, and see what becomes of those accepted."""
    ((began,),) = system.query("orders", "SELECT clock_timestamp()")
    cpu = cpu_by_group(system)
    sent = load(
        system,
        rate=TIMES * capacity,
        seconds=60 * minutes,
        longest_wait=LONGEST_WAIT,
        clients=MANY,
        obedient=OBEDIENT,
    )
    spent = {name: value - cpu[name] for name, value in cpu_by_group(system).items()}
    waiting = count_orders(system, f"NOT {ENDED}")
    ((sent_until,),) = system.query("orders", "SELECT extract(epoch FROM clock_timestamp() - %s)::float8", began)
    finish(system, timeout=600 + 60 * minutes * 2 * TIMES)
    ((newest, took, drained),) = system.query(
        "orders",
        "SELECT status, extract(epoch FROM updated_at - created_at)::float8,"
        " (SELECT extract(epoch FROM max(updated_at) - %s)::float8 FROM orders_order)"
        " FROM orders_order ORDER BY created_at DESC LIMIT 1",
        began,
    )
    ends = system.query("orders", "SELECT status, count(*) FROM orders_order WHERE created_at >= %s GROUP BY 1", began)
    done, accepted = _by_step(system, began, "updated_at", "AND status = 'done'"), _by_step(system, began, "created_at")
    afterwards = measure_load(system, rate=capacity / 2, seconds=AFTERWARDS)
    said, code = system.ask("audit", "--grace", "0")
    return {
        "capacity": capacity,
        "minutes": minutes,
        "sent": sent,
        "sent_until": sent_until,
        "cpu_per_accepted": {name: seconds / max(1, sent["accepted"]) for name, seconds in spent.items()},
        "ends": dict(ends),
        "open_at_the_end": waiting,
        "drained_after": max(0.0, drained - sent_until),
        "newest": {"status": newest, "seconds": took},
        "timeline": {
            "finished": done,
            "accepted": accepted,
            "refused": _steps(Counter(second // STEP for second in sent["refused_at"])),
        },
        "afterwards": afterwards,
        "dead_letters": sum(_dead_letters(system, service) for service in SERVICES),
        "audit": {"passed": code == 0, "said": said},
    }


def _dead_letters(system: RunningSystem, service: str) -> int:
    ((count,),) = system.query(service, "SELECT count(*) FROM outbox_deadletter")
    return int(count)


def _by_step(system: RunningSystem, began: object, column: str, condition: str = "") -> list[tuple[int, float]]:
    return _steps(
        dict(
            system.query(
                "orders",
                f"SELECT floor(extract(epoch FROM {column} - %s) / {STEP})::int, count(*) FROM orders_order"  # noqa: S608
                f" WHERE created_at >= %s {condition} GROUP BY 1",
                began,
                began,
            )
        )
    )


def _steps(counts: dict[int, int]) -> list[tuple[int, float]]:
    """Second and number a second, also where there were none."""
    return [(step * STEP, counts.get(step, 0) / STEP) for step in range(max(counts, default=0) + 1)]


def lines(found: dict[str, Any]) -> list[str]:
    """These figures as text."""
    sent, newest, capacity, afterwards = found["sent"], found["newest"], found["capacity"], found["afterwards"]
    during = [value for second, value in found["timeline"]["finished"] if second + STEP <= found["sent_until"]]
    goodput = sum(during) / max(1, len(during))
    ends = ", ".join(f"{count} {status}" for status, count in sorted(found["ends"].items()))
    cpu = {name: 1000 * seconds for name, seconds in found["cpu_per_accepted"].items()}
    return [
        f"{TIMES} × capacity for {found['minutes']:g} min: {sent['sent']} sent, {sent['accepted']} accepted,"
        f" {sent['refused']} refused (503, {sent['refusals']} times), {sent['given_up']} given up,"
        f" {sent['failed']} failed",
        f"    answers: p50 {sent['post_p50'] or 0:.2f} s, p95 {sent['post_p95'] or 0:.2f} s where accepted",
        f"    done a second: before {capacity:.0f}, meanwhile {goodput:.0f} = {goodput / capacity:.2f},"
        f" afterwards {afterwards['finished_per_second']:.0f} of {capacity / 2:.0f} ({afterwards['refused']} refused)",
        f"    CPU an accepted order: {sum(cpu.values()):.1f} ms, of which the web {cpu['web']:.1f} ms",
        f"    {found['open_at_the_end']} open when the load ended; drained {found['drained_after']:.0f} s after it",
        f"    the newest accepted order: {newest['status']} after {newest['seconds']:.1f} s; all: {ends}",
        f"    audit: {'clean' if found['audit']['passed'] else found['audit']['said']};"
        f" {found['dead_letters']} dead letters",
    ]
