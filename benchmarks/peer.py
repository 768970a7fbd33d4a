"""The same business in another durable engine, on the same PostgreSQL server: `--peer dbos`."""

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import environments
from benchmarks.load import CLIENTS
from benchmarks.measurement import CORES, cpu_by_group
from orders_project.embedded import places
from orders_project.tests.running_system import PROJECT, RunningSystem

PEERS = {"dbos": "dbos==3.4.0"}


def measure(system: RunningSystem, peer: str, *, seconds: int) -> dict[str, Any]:
    """
    Orders that the peer finishes a second and the CPU of each, PostgreSQL's included.

    As many processes as the machine has cores share as many clients as the load generator has; they call in the
    process, without HTTP.
    """
    postgres = system.services.postgres
    assert postgres is not None
    python, url = _install(PEERS[peer]), postgres.url(peer)
    postgres.create_database(peer)
    run: list[str | Path] = [python, PROJECT / "benchmarks" / f"peer_{peer}.py", url]
    _run([*run, "1", "1", "first"])  # makes the tables
    before = cpu_by_group(system)["PostgreSQL"]
    each = str(CLIENTS // CORES)
    with ExitStack() as at_the_end:
        running = []
        for number in range(CORES):
            command = [*run, str(seconds), each, f"executor-{number}"]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            at_the_end.callback(running[-1].kill)
        said = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running), said
    answers = [json.loads(output.splitlines()[-1]) for output in said]
    finished = sum(one["finished"] for one in answers)
    spent = {
        peer: sum(one["cpu"] for one in answers) / finished,
        "PostgreSQL": (cpu_by_group(system)["PostgreSQL"] - before) / finished,
    }
    return {
        "what": PEERS[peer],
        "finished": finished,
        "finished_per_second": sum(one["finished"] / one["seconds"] for one in answers),
        "cpu_per_order": spent,
    }


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def _install(requirement: str) -> Path:
    """The Python of an environment that has this alone, made once."""
    folder = places.cache() / f"bench-{requirement}"
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        environments.make(folder)
        environments.uv("pip", "install", "--quiet", "--python", python, "--only-binary", ":all:", requirement)
        whole.touch()
    return python


def lines(found: dict[str, Any]) -> list[str]:
    """These figures as text."""
    spent = {name: 1000 * value for name, value in found["cpu_per_order"].items()}
    parts = ", ".join(f"{name} {value:.1f}" for name, value in spent.items())
    return [
        f"{found['what']:<20} {found['finished_per_second']:8.0f} orders/s",
        f"{'':<20} {sum(spent.values()):8.1f} ms of CPU an order: {parts}",
    ]
