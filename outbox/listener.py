"""Waits for the NOTIFY of a database."""

from typing import Any, Self

import psycopg
from django.db import OperationalError

from . import sessions
from .models import CHANNEL


class Listener:
    """Waits for the NOTIFY of a database. Where none arrives it only waits: the relay polls."""

    def __init__(self, database: str) -> None:
        self.database = database
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection: the next `wait` makes another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def wait(self, seconds: float) -> bool:
        """Return after a notification, or at the latest after this time; whether there was one."""
        try:
            if self._connection is None:
                self._connection = self._listen()
                return False  # the notifications of earlier commits are lost: look again at once
            return bool(list(self._connection.notifies(timeout=seconds, stop_after=1)))
        except psycopg.Error as error:
            self.close()
            raise OperationalError(str(error)) from error

    def _listen(self) -> psycopg.Connection[Any]:
        connection = sessions.connect(sessions.of_its_own(self.database))
        connection.execute(f"LISTEN {CHANNEL}")
        return connection
