"""
Releases of this project as running processes, side by side: this one, and the one before.

The one before is checked out into the folder of downloads, and runs in an environment of its own, which its own script
makes from its own locks. Both are kept there for the next run of the tests.
"""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree

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
            with tarfile.open(fileobj=io.BytesIO(archive)) as files:
                files.extractall(unfinished, filter="data")
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

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def manage(self, *arguments: str) -> str:
        """Run a manage.py command to its end, which must be a good one; what it printed."""
        log = self.log(arguments[0])
        with log.open("wb") as output:
            process = self._settings.spawn(["manage.py", *arguments], output=output)
            code = process.wait(timeout=300)
        assert code == 0, f"{self.name}: manage.py {' '.join(arguments)}: {log.read_text()}"
        return log.read_text()

    def start(self) -> None:
        """Start all processes that do not run."""
        for name in self.commands.keys() - self.running.keys():
            with self.log(name).open("ab") as output:
                self.running[name] = self._settings.spawn(self.commands[name], output=output)

    def stop(self) -> None:
        """End all processes as a deployment does: SIGTERM, and time to finish what they do."""
        for process in self.running.values():
            process.terminate()
        for name in list(self.running):
            processes.end(self.running.pop(name), grace=120)

    def check(self) -> None:
        """All processes that were started are running."""
        for name, process in self.running.items():
            assert process.poll() is None, f"{self.name} {name} ended: {processes.tail(self.log(name), lines=40)}"

    def close(self) -> None:
        self.stop()
        self._settings.stop()
        self._libraries.stop()
