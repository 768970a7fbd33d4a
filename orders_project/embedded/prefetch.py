"""
Download what a run will need and does not have yet, while its Python packages are being installed.

Usage: python3 -m orders_project.embedded.prefetch [DATA]
with the folder of the run's data, if it has one. It needs Python 3.11 and no packages, says nothing if nothing is
missing, and never fails: what can't be had is said again, with what to do, by the run that needs it.
"""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import DATABASES, CannotRun, debian, places, postgres_sources, rabbitmq, variable


def missing(env: Mapping[str, str], data: Path | None = None) -> dict[str, Callable[[], object]]:
    """What is to be downloaded, by its name, and how."""
    found: dict[str, Callable[[], object]] = {}
    if not env.get("AMQP_URL") and rabbitmq.is_to_be_downloaded():
        found["RabbitMQ"] = rabbitmq.download
    named = all(env.get(variable(database)) for database in DATABASES)
    if not named and postgres_sources.is_to_be_downloaded(data and data / "postgres"):
        found[postgres_sources.NAME] = postgres_sources.download
    return found


def read_env_file() -> None:
    """Put the variables of the file `.env` into the environment, beneath those that are there."""
    path = places.PROJECT / (os.environ.get("ENV_FILE") or ".env")
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, given, value = line.removeprefix("export ").partition("=")
        if given and not name.startswith("#"):
            os.environ.setdefault(name.strip(), value.strip().strip("'\""))


def main(arguments: Sequence[str]) -> None:
    """Download what is missing, all of it at once."""
    read_env_file()
    try:
        wanted = missing(os.environ, *map(Path, arguments))
    except CannotRun as refusal:
        debian.say(str(refusal))
        return
    threads = [threading.Thread(target=_attempt, args=item) for item in wanted.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _attempt(name: str, download: Callable[[], object]) -> None:
    try:
        download()
    except CannotRun as refusal:
        debian.say(f"{name} could not be fetched: {refusal}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:  # the installation beside us was given up
        raise SystemExit(130) from None
