"""
Statements that need a table for themselves.

Whoever waits for such a lock has everybody else wait who comes later. So they wait for a moment only, and try again
after a pause.
"""

import random
import time

from django.db import OperationalError, connections
from psycopg import sql

from .sqlstates import LOCKED, sqlstate_of

WAIT = 600.0  # seconds for a lock, with pauses
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0


def run(using: str, *statements: sql.Composed, seconds: float = 0.2) -> None:
    """Run these as one transaction; wait for a lock so long each time, and try again for `WAIT` seconds."""
    until, pause = time.monotonic() + WAIT, FIRST_PAUSE
    text = sql.SQL(";\n").join(statements)
    while True:
        try:
            with connections[using].cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{seconds * 1000:.0f}"])
                cursor.execute(text)
                return
        except OperationalError as error:
            if sqlstate_of(error) not in LOCKED or time.monotonic() > until:
                raise
        time.sleep(pause * random.uniform(0.8, 1.2))
        pause = min(pause * 2, LONGEST_PAUSE)
