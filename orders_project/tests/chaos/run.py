"""One run: load and faults, then repair, rest and judgement; the timeline says what was when."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from orders_project.embedded.services import Services

from . import checker
from .checker import WITHIN, Finding
from .customers import Customers, Memory
from .faults import FaultySystem
from .records import Records
from .schedule import Fault

RESTS = 120.0  # seconds until nothing is on its way: stock that is held for nobody is given back after a minute or so
STEP = 0.05


@dataclass
class Report:
    """What came of a run."""

    faults: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    statuses: Counter[str] = field(default_factory=Counter)
    ended_after: float = 0.0  # seconds from the last repair until the last accepted order had ended
    ended_by_themselves: int = 0


class Timeline:
    """Lines with the seconds since the start, in a file."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._began, self._lock = file, time.monotonic(), threading.Lock()

    @property
    def now(self) -> float:
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        with self._lock:
            self._file.write(f"{self.now:8.2f}  {text}\n")
            self._file.flush()


def run(
    schedule: Sequence[Fault],
    *,
    seed: int,
    seconds: float,
    rate: float,
    path: Path,
    given: Services | None = None,
) -> Report:
    """Let the schedule happen to a system of its own, or one of given servers, and say what is found."""
    report = Report()
    with path.open("w") as file, FaultySystem(given=given) as faulty:
        customers = Customers(faulty.system, seed=seed, rate=rate)
        customers.prepare()
        timeline = Timeline(file)
        timeline.say(f"seed {seed}, {seconds:g} s, {rate:g} orders a second, {len(schedule)} faults")
        customers.start()
        try:
            _inject(faulty, schedule, timeline, report, seconds=seconds)
        finally:  # also when somebody has had enough of it
            faulty.repair()
            repaired_at = time.time()
            timeline.say("all is mended; no more customers come")
            customers.stop()
        log = faulty.servers.postgres.log if given is None and faulty.servers.postgres else None
        records = Records(faulty.urls, gateway=faulty.gateway_url, memory=customers.memory, log=log)
        _judge(faulty, records, timeline, report, repaired_at=repaired_at)
    return report


def _inject(
    faulty: FaultySystem, schedule: Sequence[Fault], timeline: Timeline, report: Report, *, seconds: float
) -> None:
    """Begin and mend each fault at its time."""
    coming, going = list(schedule), dict[Fault, float]()  # with the time when it is over
    while timeline.now < seconds or going:
        for fault in [one for one, until in going.items() if until <= timeline.now]:
            faulty.mend(fault)
            del going[fault]
            timeline.say(f"{fault} is over")
        while coming and coming[0].at <= timeline.now:
            fault = coming.pop(0)
            timeline.say(f"{fault} begins")
            faulty.begin(fault)
            report.faults[fault.kind] += 1
            going[fault] = timeline.now + fault.lasts
        for ended in faulty.tick():
            report.ended_by_themselves += 1
            timeline.say(ended)
        time.sleep(STEP)


def _judge(faulty: FaultySystem, records: Records, timeline: Timeline, report: Report, *, repaired_at: float) -> None:
    report.memory = records.memory
    last = max([repaired_at, *records.memory.accepted.values()])
    while (still_open := records.open_orders()) and time.time() < last + WITHIN:
        faulty.tick()
        time.sleep(0.25)
    report.findings += [
        Finding("ended_within_a_minute", f"order {order} is {status} {WITHIN:g} s after the last repair")
        for order, status in still_open
    ]
    timeline.say(f"{len(still_open)} accepted orders are open")
    until = time.monotonic() + (RESTS / 6 if still_open else RESTS)
    while not records.is_quiet() and time.monotonic() < until:
        faulty.tick()
        time.sleep(0.5)
    time.sleep(1)  # for a second effect, if there were one
    timeline.say("quiet" if records.is_quiet() else "not quiet")
    report.findings += checker.check(records)
    ((ended_at,),) = records.ask("orders", "SELECT max(extract(epoch FROM status_since))::float FROM orders_order")
    report.ended_after = max(0.0, (ended_at or 0.0) - repaired_at)
    report.statuses = Counter(dict(records.ask("orders", "SELECT status, count(*) FROM orders_order GROUP BY 1")))
    for finding in report.findings:
        timeline.say(f"FOUND {finding}")
    if report.findings:
        for name in faulty.system.running:
            kept = faulty.system.log(name)
            timeline.say(f"the log of {name}:\n{kept.read_text(errors='replace')[-20_000:]}")
