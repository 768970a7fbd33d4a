"""Waiting for what a process needs, so that the order in which processes start does not matter."""

import time
from collections.abc import Callable

from django.conf import settings
from django.db import connections

from . import health

PAUSE = 2.0  # many processes may be waiting, and each check costs CPU time


class NotAvailable(TimeoutError):
    """Something that the process needs was not available in time."""


def wait(*, seconds: float, migrated: bool, say: Callable[[str], None]) -> None:
    """
    Return when the databases and the broker of this process are available; report what is missing when it changes.

    :param migrated: whether the databases must be migrated too
    :raises NotAvailable: after this many seconds
    """
    began = time.monotonic()
    before: dict[str, str] = {}
    while absent := missing(migrated=migrated):
        reasons = "; ".join(f"{name} ({why})" for name, why in absent.items())
        if time.monotonic() - began >= seconds:
            raise NotAvailable(f"gave up after {seconds:g} s without {reasons}")
        if absent != before:
            say(f"waiting for {reasons}")
            before = absent
        time.sleep(PAUSE)
    say(f"everything is available after {time.monotonic() - began:.1f} s")


def missing(*, migrated: bool) -> dict[str, str]:
    """What this process needs and is not available, by name, and why."""
    for alias in settings.DATABASES_HERE:
        # A pool would only report that its own timeout has passed, and not what is wrong.
        connections[alias].settings_dict["OPTIONS"].pop("pool", None)
    absent = {}
    for name, check in health.before_start(migrated=migrated).items():
        try:
            check()
        except health.FAILURES as error:
            absent[name] = " ".join(str(error).split())[:300] or type(error).__name__
        finally:
            connections.close_all()
    return absent
