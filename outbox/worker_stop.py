"""
That a Celery worker was told to stop, as far as a handler needs to know that waits for something.

# Note [The children are told]: a worker that was told to stop waits until its children have done what they do, and says
nothing to them meanwhile. So a signal writes a byte into a pipe that nobody reads: all of them see that it is there.
"""

import os
import select
import time
from typing import Any

from celery.signals import celeryd_init, worker_shutting_down

_pipe: tuple[int, int] | None = None


@celeryd_init.connect(dispatch_uid="outbox: a worker starts")
def _begin(**kwargs: Any) -> None:
    """Make the pipe in the parent, before it forks."""
    global _pipe
    _pipe = os.pipe()


@worker_shutting_down.connect(dispatch_uid="outbox: a worker was told to stop")
def _tell(**kwargs: Any) -> None:
    if _pipe is not None:
        os.write(_pipe[1], b".")


def wait(seconds: float) -> bool:
    """Wait for so long, or until this worker is told to stop; return whether it was."""
    if _pipe is None:
        time.sleep(seconds)
        return False
    return bool(select.select([_pipe[0]], [], [], seconds)[0])
