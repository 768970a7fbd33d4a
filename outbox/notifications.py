"""The NOTIFY by which whoever posts messages wakes the relay of the database."""

from collections.abc import Collection
from typing import Any, Self
from weakref import WeakKeyDictionary

import psycopg
from django.db import OperationalError, connections, transaction

from . import sessions

CHANNEL = "outbox"


class WakeUp:
    """
    Wakes the relay of a database once after a commit, however much was posted in the transaction.

    It names the types of the messages to services that a handler has sent: the relay sends these at once.

    # Note [NOTIFY after the commit, not in it]: a transaction that notifies takes one lock for the whole server
    # while it commits, which serializes every commit. Sent on its own afterwards it costs a round trip and no
    # flush. It may be lost; the relay polls.
    """

    # The one to be sent next on a connection. After a rollback it is still there, and the next transaction uses it;
    # what it then names for nothing costs the relay one look.
    _next: WeakKeyDictionary[Any, "WakeUp"] = WeakKeyDictionary()

    def __init__(self, using: str) -> None:
        self.using = using
        self.replies: set[str] = set()
        self.sent = False

    @classmethod
    def after_commit(cls, using: str, replies: Collection[str] = ()) -> None:
        """Send one when the transaction in this database commits."""
        wake_up = cls._next.get(connections[using])
        if wake_up is None or wake_up.sent:
            wake_up = cls._next[connections[using]] = cls(using)
        wake_up.replies.update(replies)
        transaction.on_commit(wake_up, using=using, robust=True)

    def __call__(self) -> None:
        if not self.sent:
            self.sent = True
            with connections[self.using].cursor() as cursor:
                cursor.execute(f"NOTIFY {CHANNEL}, %s", [",".join(sorted(self.replies))])


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

    def wait(self, seconds: float) -> set[str] | None:
        """
        Return after a notification, or at the latest after this time.

        Returns None if there was none, else the types of messages that were named.
        """
        try:
            if self._connection is None:
                self._connection = self._listen()
                return None  # the notifications of earlier commits are lost: look again at once
            heard = [notify.payload for notify in self._connection.notifies(timeout=seconds, stop_after=1)]
        except psycopg.Error as error:
            self.close()
            raise OperationalError(str(error)) from error
        return {name for payload in heard for name in payload.split(",") if name} if heard else None

    def _listen(self) -> psycopg.Connection[Any]:
        connection = sessions.connect(sessions.of_its_own(self.database))
        connection.execute(f"LISTEN {CHANNEL}")
        return connection
