"""Taking turns over what has no row to lock yet."""

from django.db import connections


def take_turn(using: str, name: str) -> None:
    """Wait until nobody else in this database has the turn for this name; it is ours until the transaction ends."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])
