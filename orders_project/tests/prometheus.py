"""Prometheus itself, for tests: the system's own or Debian's, unpacked."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest
import requests

from orders_project.embedded import debian, processes


def tools() -> dict[str, str]:
    """An environment in which `prometheus` and `promtool` are found; without them the test is skipped."""
    if shutil.which("prometheus") and shutil.which("promtool"):
        return dict(os.environ)
    try:
        return os.environ | debian.environment(debian.unpack("prometheus"))
    except debian.NoPackages as error:
        pytest.skip(f"no Prometheus to be had here: {error}")


class Prometheus:
    """Scrapes one place every few seconds while it is entered."""

    def __init__(self, target: str, *, home: Path) -> None:
        self.home = home
        self.port = processes.free_port()
        self.env: Mapping[str, str] = tools()
        home.mkdir()
        (home / "prometheus.yml").write_text(
            "global: {scrape_interval: 5s, scrape_timeout: 5s}\n"
            f"scrape_configs: [{{job_name: orders-web, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )

    def __enter__(self) -> Self:
        binary = shutil.which("prometheus", path=self.env["PATH"])
        assert binary is not None
        arguments = [
            binary, f"--config.file={self.home / 'prometheus.yml'}", f"--storage.tsdb.path={self.home / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip
        with (self.home / "log").open("wb") as log:
            self.process = processes.spawn(arguments, env=self.env, output=log, cwd=self.home)
        return self

    def __exit__(self, *exception: object) -> None:
        processes.end(self.process)

    def ask(self, query: str) -> list[Any]:
        """
        What a query finds; nothing while it isn't up.

        :raises AssertionError: if the query is wrong
        """
        try:
            url = f"http://127.0.0.1:{self.port}/api/v1/query"
            answer = requests.get(url, params={"query": query}, timeout=60)
        except requests.RequestException:
            return []
        if answer.status_code == 503:
            return []
        assert answer.status_code == 200, f"{query}: {answer.text}"
        found: list[Any] = answer.json()["data"]["result"]
        return found


def promtool(*arguments: str, cwd: Path) -> str:
    """Run promtool to its end; what it said."""
    env = tools()
    binary = shutil.which("promtool", path=env["PATH"])
    assert binary is not None
    done = subprocess.run([binary, *arguments], env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
