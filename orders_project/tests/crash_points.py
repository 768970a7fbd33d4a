"""
Runs a program of the system that also knows the messages of outbox/tests/examples.py, and may die at a chosen point:

    python -m orders_project.tests.crash_points POINT PROGRAM ARGUMENTS…

POINT is `nowhere`, or `published` or `committed` with the path of a file: `published=/tmp/there`. It dies by kill -9,
with all of its children, the first time that any process gets there, which the file notes.
Attempts at handling a message follow each other quickly.
"""

import contextlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import django


def die_after(work: Callable[..., Any], note: Path) -> Callable[..., Any]:
    """This function, with death right behind it, once."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        result = work(*arguments, **options)
        with contextlib.suppress(FileExistsError):
            note.touch(exist_ok=False)
            os.killpg(0, signal.SIGKILL)
        return result

    return wrapped


def main(point: str, program: str, *arguments: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders_project.settings")
    django.setup()
    import outbox.tests.examples  # noqa: F401 - its consumers
    from outbox import consumers
    from outbox.broker import Publisher

    consumers.backoff = lambda attempt, *, spread: timedelta(seconds=0.1)
    place, _, note = point.partition("=")
    if place == "published":
        Publisher.publish = die_after(Publisher.publish, Path(note))  # type: ignore[method-assign]
    elif place == "committed":
        consumers.receive_all = die_after(consumers.receive_all, Path(note))
    sys.argv = [program, *arguments]
    if program == "celery":
        runpy.run_module("celery", run_name="__main__")
    else:
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
