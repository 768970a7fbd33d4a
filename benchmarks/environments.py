"""Python environments of their own, for what is measured beside this revision: made by the uv of .venv."""

import os
import subprocess
import sys
from pathlib import Path

from orders_project.tests.running_system import PROJECT

UV = Path(sys.executable).parent / "uv"
PIP_SAYS = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}


class Failed(RuntimeError):
    """uv has not done what it was asked to."""


def uv(*arguments: str | Path) -> None:
    """
    Run uv, which is told what pip knows about the network, as `requirements/bootstrap` does.

    :raises Failed: with what uv said
    """
    env = {"UV_SYSTEM_CERTS": "1", **_told_to_pip(), **os.environ}
    done = subprocess.run([UV, *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"uv {' '.join(map(str, arguments))}: {done.stderr[-2000:]}")


def _told_to_pip() -> dict[str, str]:
    env = os.environ | {"PYTHONPATH": str(PROJECT / ".venv" / "pip")}
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout
    told = [line.partition("=") for line in said.splitlines()]
    found = {key.rpartition(".")[2]: value.strip("'\"") for key, _equals, value in told}
    return {variable: found[key] for key, variable in PIP_SAYS.items() if key in found}


def make(folder: Path) -> Path:
    """Make an empty environment of this Python in a folder; return its Python."""
    uv("venv", "--quiet", "--python", sys.executable, folder)
    return folder / "bin" / "python"


def install_locked(python: Path, *locks: Path) -> None:
    """Install what locks say, by their hashes; where an index has other files of a version than it had, without."""
    sync = ("pip", "sync", "--quiet", "--python", python, "--only-binary", ":all:")
    try:
        uv(*sync, "--require-hashes", *locks)
    except Failed:
        uv(*sync, "--no-verify-hashes", *locks)
