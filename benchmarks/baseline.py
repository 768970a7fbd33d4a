"""Another revision, measured in turn with this one: each by its own `benchmarks.orders`, on servers of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import environments
from orders_project.tests.running_system import PROJECT

# What both revisions tell: its name, where it is in their JSON, and how to show it.
FIGURES: dict[str, tuple[Callable[[dict[str, Any]], float], str]] = {
    "limit (pgbench), orders/s": (lambda found: sum(found["limit"]) / len(found["limit"]), ".0f"),
    "finished, orders/s": (lambda found: found["full"]["finished_per_second"], ".1f"),
    "finished ÷ limit": (lambda found: found["ratio"], ".3f"),
    "CPU an order, ms": (lambda found: 1000 * sum(found["full"]["cpu_per_order"].values()), ".1f"),
    "accepted to done p50, ms": (lambda found: 1000 * found["gentle"]["accepted_to_done"][0], ".0f"),
    "accepted to done p95, ms": (lambda found: 1000 * found["gentle"]["accepted_to_done"][1], ".0f"),
}


def check_out(revision: str, folder: Path) -> Path:
    """Lay a revision into a folder, with an environment from its own locks; return that one's Python."""
    archive = subprocess.run(["git", "archive", revision], cwd=PROJECT, capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"--baseline {revision}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    python = environments.make(folder / ".venv")
    environments.install_locked(python, *(folder / "requirements" / name for name in ("base.txt", "dev.txt")))
    return python


def measure(python: Path | str, folder: Path, *, seconds: int, rate: float) -> dict[str, Any]:
    """What the benchmark of the code in this folder finds."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run(
            [python, "-m", "benchmarks.orders", "--seconds", str(seconds), "--rate", str(rate), "--json", file.name],
            cwd=folder, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        return dict(json.loads(Path(file.name).read_text()))


def in_turn(revision: str, *, turns: int, seconds: int, rate: float) -> dict[str, Any]:
    """Measure the other revision and this one, so many times each."""
    found: dict[str, Any] = {"revision": revision, "before": [], "now": []}
    with tempfile.TemporaryDirectory(prefix="orders-baseline-") as temporary:
        folder = Path(temporary)
        python = check_out(revision, folder)
        for turn in range(turns):
            found["before"].append(measure(python, folder, seconds=seconds, rate=rate))
            found["now"].append(measure(sys.executable, PROJECT, seconds=seconds, rate=rate))
            told = (f"{tell(found[when][-1]):.1f} ms" for when in ("before", "now"))
            print(f"turn {turn + 1} of {turns}: CPU an order {' → '.join(told)}", flush=True)
    return found | {"figures": compare(found["before"], found["now"])}


def tell(one: dict[str, Any]) -> float:
    """The CPU of an order, in milliseconds."""
    return FIGURES["CPU an order, ms"][0](one)


def compare(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The medians of each figure, and their ratio."""
    found = {}
    for name, (figure, _form) in FIGURES.items():
        old, new = median(map(figure, before)), median(map(figure, now))
        found[name] = {"before": old, "now": new, "ratio": new / old}
    return found


def cpu_by_process(results: list[dict[str, Any]]) -> dict[str, float]:
    """The median milliseconds that an order takes of each process."""
    names = {name for one in results for name in one["full"]["cpu_per_order"]}
    found = {name: median(1000 * one["full"]["cpu_per_order"].get(name, 0) for one in results) for name in names}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def lines(found: dict[str, Any]) -> list[str]:
    """These figures as text."""
    said = [f"{'':<26} {found['revision'][:10]:>10} {'now':>10} {'ratio':>7}"]
    for name, values in found["figures"].items():
        form = FIGURES[name][1]
        said.append(f"{name:<26} {values['before']:>10{form}} {values['now']:>10{form}} {values['ratio']:>7.2f}")
    return said
