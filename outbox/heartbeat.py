"""A file that a living process touches, so that others can tell it from one that hangs: `HEARTBEAT_FILE`."""

import contextlib
import time
from pathlib import Path

from django.conf import settings

EVERY = 1.0
_next = 0.0


def beat() -> None:
    """Say that the process's main loop turns. Costs nothing where no file is named or the last beat is fresh."""
    global _next
    now = time.monotonic()
    if not settings.HEARTBEAT_FILE or now < _next:
        return
    _next = now + EVERY
    with contextlib.suppress(OSError):  # a full disk must not end a worker: the missing beat tells of it
        Path(settings.HEARTBEAT_FILE).touch()


def age() -> float | None:
    """Seconds since the last beat; None if there was none."""
    try:
        return time.time() - Path(settings.HEARTBEAT_FILE).stat().st_mtime
    except OSError:
        return None
