"""
How fast the mailbox is: ratios and times measured in one run on private servers.

    python -m benchmarks.relay            everything, a few minutes
    python -m benchmarks.relay latency    one part: pipeline, latency, idle, full, snapshot or purge
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from orders_project.embedded.supervisor import stopping_on_signals
from orders_project.tests.running_system import RunningSystem
from outbox import broker
from outbox.ids import uuid7
from outbox.tests.counted import CREATE

POST = """
    INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt,
        created_at, due_at, publish_attempts, refusals, last_error)
    VALUES (%(id)s, %(id)s, 'tests.count', 1, 'o', 'payments', %(data)s, 'c', 0, now(), now(), 0, 0, '')
"""
DATA = json.dumps({"padding": "x" * 200})
FULL = 1_000_000
AN_ID = (
    "(lpad(to_hex(1700000000000 + i), 12, '0') || '7' || substr(md5(i::text), 1, 3)"
    " || '8' || substr(md5(i::text), 4, 15))::uuid"
)
FILL_OUTBOX = f"""
    INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt,
        created_at, due_at, publish_attempts, refusals, last_error, published_at)
    SELECT {AN_ID}, {AN_ID}, 'tests.count', 1, i::text, 'payments', '{DATA}', 'c', 0, now(), now(), 0, 0, '', now()
    FROM generate_series(1, {FULL}) i
"""  # noqa: S608
FILL_INBOX = f"""
    INSERT INTO outbox_incomingmessage (message_id, type, subject, attempt, received_at, handled_at)
    SELECT {AN_ID}, 'tests.count', i::text, 0, now(), now() FROM generate_series(1, {FULL}) i
"""  # noqa: S608


class Bench(RunningSystem):
    """A system whose payments worker knows the tests' messages and notifies of each that it has handled."""

    def __init__(self) -> None:
        super().__init__({"LOG_LEVEL": "WARNING"}, for_tests=False)
        self.commands["payments"] = [
            "-m", "orders_project.tests.crash_points", "nowhere", *self.commands["payments"][1:-1], "WARNING",
        ]  # fmt: skip

    def __enter__(self) -> "Bench":
        super().__enter__()
        self.query("payments", CREATE)
        self.query(
            "payments",
            "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_notify('handled', NEW.message_id::text); RETURN NULL; END $$",
        )
        return self

    def connect(self, service: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.env[f"DATABASE_URL_{service.upper()}"], autocommit=True)

    def post(self, number: int) -> None:
        with self.connect("orders") as connection:
            connection.cursor().executemany(POST, [{"id": uuid7(), "data": DATA} for _ in range(number)])

    def drain(self, number: int, *, how: str) -> float:
        """Messages per second that a relay of its own sends."""
        self.post(number)
        said = self.manage("shell", "-v", "0", "-c", DRAIN.format(how=how))
        connection = broker.connect(self.env["AMQP_URL"])
        assert connection.channel().queue_purge("payments") == number
        connection.close()
        return number / float(said)


DRAIN = """
import time
from outbox.broker import Publisher
from outbox.relay import Relay

class OneByOne(Publisher):
    def publish(self, batch):
        whole = super().publish(batch[:1])
        for index, one in enumerate(batch[1:], start=1):
            if super().publish([one]).confirmed:
                whole.confirmed.add(index)
        return whole

relay = Relay("orders", {how}())
relay.publisher.open()
began = time.perf_counter()
relay.drain()
print(time.perf_counter() - began)
"""


def pipeline(bench: Bench) -> dict[str, Any]:
    """The relay against the same relay that waits for each confirm, in turns."""
    rates: dict[str, list[float]] = {"Publisher": [], "OneByOne": []}
    for _ in range(3):
        for how, found in rates.items():
            found.append(bench.drain(4000, how=how))
    ours, theirs = (statistics.median(found) for found in rates.values())
    return {"pipelined/s": round(ours), "one by one/s": round(theirs), "ratio": round(ours / theirs, 1)}


def latency(bench: Bench) -> dict[str, Any]:
    """From before the post to the commit of the handler, one message at a time on an idle system."""
    bench.query("payments", "CREATE TRIGGER told AFTER INSERT ON counted FOR EACH ROW EXECUTE FUNCTION told()")
    bench.start("relay", "payments")
    found = []
    with bench.connect("orders") as ours, bench.connect("payments") as theirs:
        theirs.execute("LISTEN handled")
        for number in range(330):
            began = time.perf_counter()
            ours.execute(POST, {"id": uuid7(), "data": DATA})
            ours.execute("NOTIFY outbox")
            for _ in theirs.notifies(timeout=20, stop_after=1):
                if number >= 30:  # warm by then
                    found.append((time.perf_counter() - began) * 1000)
            time.sleep(0.02)
    bench.stop("relay")
    bench.stop("payments")
    bench.query("payments", "DROP TRIGGER told ON counted")
    cuts = statistics.quantiles(found, n=100)
    return {"p50 ms": round(cuts[49], 1), "p95 ms": round(cuts[94], 1), "p99 ms": round(cuts[98], 1)}


def idle(bench: Bench) -> dict[str, Any]:
    """Statements a second a database while nothing happens: the relay alone, then with the clock and its worker."""
    log = bench.home / "postgres" / "postgres.log"
    for change in ("log_line_prefix = '%%d '", "log_statement = 'all'"):
        bench.query("payments", f"ALTER SYSTEM SET {change}")
    bench.query("payments", "SELECT pg_reload_conf()")

    def rate() -> float:
        began = log.stat().st_size
        time.sleep(30)
        with log.open() as lines:
            lines.seek(began)
            said = [line for line in lines if line.startswith("payments LOG:  ")]
        return round(len(said) / 30, 2)

    bench.start("relay")
    time.sleep(5)
    alone = rate()
    bench.start("beat", "payments")
    time.sleep(10)
    found = {"relay alone/s": alone, "with the clock/s": rate()}
    _stop(bench, "relay", "beat", "payments")
    for change in ("log_line_prefix", "log_statement"):
        bench.query("payments", f"ALTER SYSTEM RESET {change}")
    bench.query("payments", "SELECT pg_reload_conf()")
    return found


def _stop(bench: Bench, *names: str) -> None:
    for name in names:
        bench.stop(name)


def full(bench: Bench) -> dict[str, Any]:
    """Sent and handled a second, before and after a million published and a million handled rows lie there."""

    def handled() -> float:
        bench.post(3000)
        count = "SELECT count(*) FROM counted"
        before = bench.query("payments", count)[0][0]
        bench.start("relay", "payments")
        bench.until(lambda: bench.query("payments", count)[0][0] > before)
        began, first = time.perf_counter(), bench.query("payments", count)[0][0]
        bench.until(lambda: bench.query("payments", count)[0][0] == before + 3000, timeout=120)
        rate = (before + 3000 - first) / (time.perf_counter() - began)
        _stop(bench, "relay", "payments")
        return rate

    measured: list[Callable[[], float]] = [lambda: bench.drain(4000, how="Publisher"), handled]
    empty = [statistics.median(one() for _ in range(3)) for one in measured]
    bench.query("orders", FILL_OUTBOX)
    bench.query("payments", FILL_INBOX)
    for service in ("orders", "payments"):
        bench.query(service, "VACUUM ANALYZE")
    after = [statistics.median(one() for _ in range(3)) for one in measured]
    return {
        "sent/s empty": round(empty[0]), "sent/s full": round(after[0]), "sent ratio": round(after[0] / empty[0], 2),
        "handled/s empty": round(empty[1]), "handled/s full": round(after[1]),
        "handled ratio": round(after[1] / empty[1], 2),
    }  # fmt: skip


LOOK = """
import statistics, time
from datetime import timedelta
from django.db import transaction
from django.utils import timezone
from outbox import due_rows

def milliseconds(everywhere):
    found = []
    for _ in range(200):
        due._everywhere_at = 0.0 if everywhere else float("inf")
        with transaction.atomic(using="orders"):
            began = time.perf_counter()
            due.claim(now=timezone.now(), limit=200)
            found.append(time.perf_counter() - began)
    return 1000 * statistics.median(found)

due = due_rows.DueRows("orders")
print(milliseconds(True), milliseconds(False))
"""
PURGE = """
import time
from django.utils import timezone
from outbox import retention

began, purged = time.perf_counter(), 0
while number := sum(retention.purge("orders", now=timezone.now()).values()):
    purged += number
print(purged / (time.perf_counter() - began))
"""
STAMPED = 50_000
OLD = 200_000


def snapshot(bench: Bench) -> dict[str, Any]:
    """A look for due rows, everywhere and from where the last one ended, while a report keeps stamped ones alive."""
    fill = FILL_OUTBOX.replace(str(FULL), str(STAMPED))
    bench.query("orders", fill.replace("'', now()", "'', NULL"))
    with bench.connect("orders") as report:
        report.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM outbox_outgoingmessage")
        bench.query("orders", "UPDATE outbox_outgoingmessage SET published_at = now()")
        everywhere, here = bench.manage("shell", "-v", "0", "-c", LOOK).split()
    bench.query("orders", "TRUNCATE outbox_outgoingmessage")
    return {"stamped rows": STAMPED, "everywhere ms": round(float(everywhere), 2), "now ms": round(float(here), 2)}


def purge(bench: Bench) -> dict[str, Any]:
    """Old rows of outbox and inbox that a worker deletes a second, in the half of its time that it takes for that."""
    for fill in (FILL_OUTBOX, FILL_INBOX):
        bench.query("orders", fill.replace("now()", "now() - interval '30 days'").replace(str(FULL), str(OLD)))
    rate = float(bench.manage("shell", "-v", "0", "-c", PURGE))
    return {"rows": 2 * OLD, "rows/s": round(rate), "rows/s in its share": round(rate / 2)}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "pipeline": pipeline, "latency": latency, "idle": idle, "full": full, "snapshot": snapshot, "purge": purge,
}  # fmt: skip


def main(names: Sequence[str]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders_project.settings")
    with Bench() as bench:
        for name in names or PARTS:
            found = PARTS[name](bench)
            print(f"{name:<9} {'  '.join(f'{what}: {value}' for what, value in found.items())}", flush=True)


if __name__ == "__main__":
    with stopping_on_signals():
        main(sys.argv[1:])
