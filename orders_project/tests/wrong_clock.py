"""Processes whose clock is wrong, by libfaketime."""

from datetime import timedelta

from orders_project.embedded import debian


def environment(wrong_by: timedelta) -> dict[str, str]:
    """
    Return the variables with which a new process has a clock that is wrong by this much.

    :raises CannotRun: if the library cannot be had here
    """
    (library,) = debian.unpack("libfaketime").glob("usr/lib/*/faketime/libfaketime.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{wrong_by.total_seconds():+.0f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
