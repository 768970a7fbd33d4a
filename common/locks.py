"""Locks for work that has no row to lock yet."""

from django.db import connections

from outbox.store import Statement


def turn(name: str) -> Statement:
    """The statement that waits for the lock of this name, and holds it until the transaction ends."""
    return Statement("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])


def take_turn(using: str, name: str) -> None:
    """Wait for the lock of this name in the database `using`, and hold it until the transaction ends."""
    with connections[using].cursor() as cursor:
        cursor.execute(*turn(name))
