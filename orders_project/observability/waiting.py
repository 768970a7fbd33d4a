"""Waiting for what a process needs, so that nothing depends on the order in which things start."""

import time
from collections.abc import Callable

from django.conf import settings
from django.db import connections

from . import health

PAUSE = 2.0  # many processes may be waiting, and looking costs a processor something


class NotThere(TimeoutError):
    """Time is up, and something that is needed is still missing."""


def wait(*, seconds: float, migrated: bool, say: Callable[[str], None]) -> None:
    """
    Return when the databases and the broker of this process are there; a line whenever what lacks changes.

    :param migrated: whether the databases must have been migrated, too
    :raises NotThere: after this many seconds
    """
    began = time.monotonic()
    before: dict[str, str] = {}
    while lacking := missing(migrated=migrated):
        reasons = "; ".join(f"{name} ({why})" for name, why in lacking.items())
        if time.monotonic() - began >= seconds:
            raise NotThere(f"gave up after {seconds:g} s without {reasons}")
        if lacking != before:
            say(f"waiting for {reasons}")
            before = lacking
        time.sleep(PAUSE)
    say(f"everything needed is there after {time.monotonic() - began:.1f} s")


def missing(*, migrated: bool) -> dict[str, str]:
    """What this process needs and does not have, by name, and why."""
    for alias in settings.DATABASES_HERE:
        # A pool would only tell that its own patience has ended, and not what is wrong.
        connections[alias].settings_dict["OPTIONS"].pop("pool", None)
    lacking = {}
    for name, check in health.before_start(migrated=migrated).items():
        try:
            check()
        except health.FAILURES as error:
            lacking[name] = " ".join(str(error).split())[:300] or type(error).__name__
        finally:
            connections.close_all()
    return lacking
