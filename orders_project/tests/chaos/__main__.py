"""
Faults of every kind hit every part of the system while customers go on ordering; then it is checked: `make chaos`.

It prints the seed, the path of the timeline and what was found, and ends with 1 if anything was.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from orders_project.tests.chaos import planted, schedule
from orders_project.tests.chaos.run import Report, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, help="how long faults come: 5, or 1 for a planted bug; then all rests")
    parser.add_argument("--seed", type=int, help="of the schedule and the customers; without it, another one each time")
    parser.add_argument("--only", default="", help=f"kinds of faults, by commas: {', '.join(schedule.KINDS)}")
    parser.add_argument("--rate", type=float, default=5, help="orders a second")
    parser.add_argument(
        "--every", type=float, help="seconds between two faults on average: 3, or 1.5 for a planted bug"
    )
    parser.add_argument("--planted", metavar="NAME", help=f"'all', or a bug to plant: {', '.join(planted.BUGS)}")
    parser.add_argument("--timeline", type=Path, help="where to write it; by default a new file")
    given = parser.parse_args()
    only = [kind for kind in given.only.split(",") if kind]
    if unknown := set(only) - schedule.KINDS.keys():
        parser.error(f"there is no fault of the kind {', '.join(sorted(unknown))}")
    seed = random.randrange(10_000) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    if given.planted:
        names = list(planted.BUGS) if given.planted == "all" else [given.planted]
        if unknown := set(names) - planted.BUGS.keys():
            parser.error(f"there is no bug {', '.join(sorted(unknown))}")
        options = ["--minutes", f"{given.minutes or 1}", "--rate", f"{given.rate}", "--every", f"{given.every or 1.5}"]
        return planted.try_all(names, seed=seed, only=given.only, options=options)
    path = given.timeline or Path(tempfile.mkdtemp(prefix="chaos-")) / "timeline.txt"
    print(f"timeline: {path}", flush=True)
    seconds = (given.minutes or 5) * 60
    began = time.monotonic()
    faults = schedule.make(seed, seconds=seconds, only=only, every=given.every or 3)
    report = run(faults, seed=seed, seconds=seconds, rate=given.rate, path=path)
    tell(report, took=time.monotonic() - began)
    return 1 if report.findings else 0


def tell(report: Report, *, took: float) -> None:
    memory = report.memory
    print(f"{took:.0f} s; faults: {', '.join(f'{kind} {number}' for kind, number in report.faults.most_common())}")
    print(
        f"{memory.sent} customers, {len(memory.accepted)} orders accepted, {memory.refused} refused, "
        f"{memory.unanswered} not answered, {memory.left} went away; {dict(report.statuses)}"
    )
    print(f"the last accepted order ended {report.ended_after:.1f} s after the last repair")
    if report.ended_by_themselves:
        print(f"{report.ended_by_themselves} processes ended by themselves or of a message, and were started again")
    for check, number in Counter(finding.check for finding in report.findings).items():
        example = next(finding.what for finding in report.findings if finding.check == check)
        print(f"FOUND {check} ({number}): {example}")
    if not report.findings:
        print("nothing was found")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
