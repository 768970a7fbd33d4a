"""
Releases of this project as running processes, side by side: this one, and the one before.

The one before is checked out into the folder of downloads, and runs in an environment of its own, which its own script
makes from its own locks. Both are kept there for the next run of the tests.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Self

import pytest

from orders_project.embedded import places, processes
from orders_project.embedded.fork_server import ForkServer
from orders_project.tests.running_system import PROJECT, worker

RECORDED = PROJECT / ".ci" / "previous-release"  # the commit that is deployed before this one


def previous() -> Path:
    """The folder with the code of the previous release and its environment; without them the test is skipped."""
    revision = RECORDED.read_text().strip()
    if not _git("cat-file", "-e", f"{revision}^{{commit}}"):
        pytest.skip(f"this clone lacks the previous release, {revision[:12]}: git fetch --unshallow")
    folder = places.cache() / "releases" / revision[:12]
    with places.lock(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            rmtree(unfinished, ignore_errors=True)
            archive = _git("archive", revision)
            assert archive is not None
            unfinished.mkdir(parents=True)
            subprocess.run(["tar", "-x", "-C", unfinished], input=archive, check=True)
            unfinished.rename(folder)
        env = os.environ | {"ORDERS_CACHE": str(places.cache()), "PYTHON": os.path.realpath(sys.executable)}
        made = subprocess.run([folder / "requirements/bootstrap", "base"], env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


def _git(*arguments: str) -> bytes | None:
    """What git says about this clone; nothing if it says no."""
    done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True)
    return done.stdout or b"yes" if done.returncode == 0 else None


class Release:
    """The processes of one release. All of them find the same environment."""

    def __init__(self, name: str, project: Path, *, env: Mapping[str, str], home: Path, port: int) -> None:
        self.name, self.home = name, home / name
        self.home.mkdir()
        self.running: dict[str, processes.Process] = {}
        python = Path(sys.executable) if project == PROJECT else project / ".venv" / "bin" / "python"
        env = {**env, "PROMETHEUS_MULTIPROC_DIR": str(self.home / "metrics")}
        (self.home / "metrics").mkdir()
        self._libraries = ForkServer.bare(env=env, cwd=project, log=self.log("imports"), python=python)
        self._settings = self._libraries.with_settings(env=env)
        everything = worker("orders", "orders.webhooks", "payments", "processing")
        self.commands = {
            # All web processes listen at one port: the kernel deals the connections to them.
            "web": ["-m", "gunicorn", "-c", "python:orders_project.gunicorn", "orders_project.wsgi", "--reuse-port",
                    "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "4"],
            "relay": ["manage.py", "relay"],
            "worker": [*everything, "-n", f"{name}@%h"],
            "beat": ["-m", "celery", "-q", "-A", "orders_project", "beat", "-s", str(self.home / "schedule"),
                     "--pidfile", "", "-l", "INFO"],
        }  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._settings.stop()
        self._libraries.stop()

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text(errors="replace") if self.log(name).exists() else ""

    def tails(self) -> str:
        """The ends of the logs of what runs."""
        return "\n".join(f"--- {self.name} {name}\n{processes.tail(self.log(name))}" for name in self.running)

    def manage(self, *arguments: str) -> str:
        """Run a manage.py command to its end, which must be a good one; what it printed."""
        with self.log(arguments[0]).open("wb") as output:
            code = self._settings.spawn(["manage.py", *arguments], output=output).wait(timeout=300)
        assert code == 0, f"{self.name}: manage.py {' '.join(arguments)}: {self.said(arguments[0])}"
        return self.said(arguments[0])

    def start(self, **commands: list[str]) -> None:
        """Start processes by these names."""
        for name, command in commands.items():
            with self.log(name).open("wb") as output:
                self.running[name] = self._settings.spawn(command, output=output)

    def stop(self, *names: str) -> None:
        """End these processes, or all, as a deployment does: SIGTERM, and time to finish what they do."""
        ending = [self.running.pop(name) for name in names or list(self.running)]
        for process in ending:
            process.terminate()
        for process in ending:
            processes.end(process, grace=120)

    def check(self) -> None:
        """All processes that were started are running."""
        for name, process in self.running.items():
            assert process.poll() is None, f"{self.name} {name} ended: {processes.tail(self.log(name), lines=40)}"
