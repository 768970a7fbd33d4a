"""The whole system as real processes on private servers: start, kill and restart any part of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import psycopg
import requests

from orders_project.embedded import places, processes
from orders_project.embedded.services import provide

PROJECT = Path(__file__).resolve().parents[2]


def worker(name: str, *aside: str) -> list[str]:
    """The command of a worker of this queue, and of others."""
    queues = ",".join([name, *aside])
    return [
        "-m", "celery", "-q", "-A", "orders_project", "worker", "-Q", queues, "-c", "2", "-n", f"{name}@%h",
        "--without-gossip", "--without-mingle", "-l", "INFO",
    ]  # fmt: skip


class House:
    """Servers, databases and topology stand on entering; processes are started by name."""

    def __init__(self, **environment: str) -> None:
        self.home = places.scratch("house")
        self.environment = environment
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.port = processes.free_port()
        self.commands: dict[str, list[str]] = {
            "web": ["-m", "gunicorn", "-c", "python:orders_project.gunicorn", "orders_project.wsgi",
                    "--bind", f"127.0.0.1:{self.port}", "--workers", "1", "--threads", "4"],
            "relay": ["manage.py", "relay"],
            "beat": ["-m", "celery", "-q", "-A", "orders_project", "beat", "-s", str(self.home / "beat"),
                     "--pidfile", "", "-l", "INFO"],
            "orders": worker("orders", "orders.webhooks"),
            "payments": worker("payments"),
            "processing": worker("processing"),
        }  # fmt: skip

    def __enter__(self) -> Self:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "AMQP_URL"))}
        self.services = provide(self.home, clean)
        self.env = clean | self.services.env | {
            "EMBEDDED": "1", "API_AUTH": "open", "PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "FAKE_PAYMENT_SUCCESS_RATE": "1", "PROCESSING_SUCCESS_RATE": "1", "PYTHONUNBUFFERED": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(self.home / "metrics"),
        } | self.environment  # fmt: skip
        self.manage("migrate_all")
        self.manage("declare_topology")
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop_all()
        self.services.stop()
        places.forget(self.home)

    def manage(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run a manage.py command to its end, which must be a good one; what it printed."""
        said, code = self.ask(*arguments, env=env)
        assert code == 0, f"manage.py {' '.join(arguments)}: {said}"
        return said

    def ask(self, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[str, int]:
        """Run a manage.py command to its end; what it printed (also of what went wrong, if something did), its code."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT, env=self.env | dict(env or {}), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done.stdout + (done.stderr if done.returncode else ""), done.returncode

    def start(self, *names: str, env: Mapping[str, str] | None = None, command: list[str] | None = None) -> None:
        """Start processes by name; each name once at a time. `command` starts another one under a name of its own."""
        for name in names:
            assert name not in self.running, f"{name} is running already"
            with self.log(name).open("ab") as log:
                self.running[name] = processes.spawn(
                    [sys.executable, *(command or self.commands[name])],
                    env=self.env | dict(env or {}), output=log, cwd=PROJECT,
                )  # fmt: skip
        if "web" in names:
            self.until(self._web_answers)

    def _web_answers(self) -> bool:
        try:
            return requests.get(self.url("/health/started"), timeout=60).ok
        except requests.RequestException:
            return False

    def start_all(self) -> None:
        """Start whatever is not running."""
        self.start(*(name for name in self.commands if name not in self.running))

    def stop(self, name: str) -> None:
        processes.end(self.running.pop(name), grace=60)

    def stop_all(self) -> None:
        for name in list(self.running):
            self.stop(name)

    def kill(self, name: str) -> None:
        """kill -9, with all of its children."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def query(self, service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask a service's database."""
        name = "DATABASE_URL" if service == "default" else f"DATABASE_URL_{service.upper()}"
        with psycopg.connect(self.env[name], autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def until(self, done: Callable[[], Any], *, timeout: float = 180) -> None:
        """Wait until this is true; says which process has died if one has, and shows the logs if time is up."""
        deadline = time.monotonic() + timeout
        while not done():
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended: {processes.tail(self.log(name), lines=40)}"
            assert time.monotonic() < deadline, "\n".join(
                f"--- {name}\n{processes.tail(self.log(name))}" for name in self.running
            )
            time.sleep(0.05)
