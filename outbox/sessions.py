"""
Sessions of PostgreSQL that belong to one client, where the usual connections may lead through PgBouncer.

# Note [DIRECT]: PgBouncer in transaction mode lends a session for one transaction. What outlives a transaction needs a
session of its own: LISTEN, a lock or a limit of a session. `DATABASES[…]["DIRECT"]` says where there is one: what it
holds (an address, `OPTIONS`) replaces what the database has. Without it the usual address is as good.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


def of_its_own(database: str) -> BaseDatabaseWrapper:
    """Return another connection to this database, in a session of its own and in no pool; it is not connected yet."""
    own: BaseDatabaseWrapper = connections[database].copy()
    own.settings_dict.update(own.settings_dict.get("DIRECT", {}))
    own.settings_dict["OPTIONS"].pop("pool", None)
    return own


def connect(wrapper: BaseDatabaseWrapper, **parameters: Any) -> psycopg.Connection[Any]:
    """Return a connection of psycopg's own to where Django would connect, in no pool; `parameters` go before."""
    given = wrapper.get_connection_params()
    for of_django in ("cursor_factory", "context", "prepare_threshold", "pool"):
        given.pop(of_django, None)
    return psycopg.connect(**given | parameters, autocommit=True)


@contextmanager
def using(own: BaseDatabaseWrapper) -> Iterator[None]:
    """Use this connection in place of this thread's usual one to the same database; it is closed afterwards."""
    usual = connections[own.alias]
    connections[own.alias] = own
    try:
        yield
    finally:
        own.close()
        connections[own.alias] = usual
