"""A file that a living process touches, so that others can tell it from one that hangs: `HEARTBEAT_FILE`."""

import contextlib
import time
from pathlib import Path

from . import conf

EVERY = 1.0
_next = 0.0


def beat() -> None:
    """Touch the file: call it in the main loop. Does nothing if no file is configured or the last beat is fresh."""
    global _next
    now = time.monotonic()
    if not conf.HEARTBEAT_FILE or now < _next:
        return
    _next = now + EVERY
    with contextlib.suppress(OSError):  # a full disk must not end a worker: the missing beat shows it
        Path(conf.HEARTBEAT_FILE).touch()


def age() -> float | None:
    """Return the seconds since the last beat; None if there was none."""
    try:
        return time.time() - Path(conf.HEARTBEAT_FILE).stat().st_mtime
    except OSError:
        return None
