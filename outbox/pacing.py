"""Work that follows its backlog: as long as there is some, for a share of the time and no longer."""

import time
from collections.abc import Iterator


def rounds(seconds: float) -> Iterator[None]:
    """Yield again and again for so many seconds, and once at least. Periodic work leaves the loop when it is done."""
    ends_at = time.monotonic() + seconds
    yield
    while time.monotonic() < ends_at:
        yield
