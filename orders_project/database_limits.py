"""
How long a session of PostgreSQL may wait, work or do nothing, so that a frozen process or a lost host stops nobody.

# Note [Two places, one table]: a process names its limits when it connects (`options`, no statement, nothing that stays
# behind), so each process can have its own. `manage.py migrate_all` makes them the defaults of the database as well:
# there they hold for every other session, such as those of PgBouncer in transaction mode, which takes no `options`, and
# of an operator's psql.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connections
from psycopg import sql

from outbox import sessions

CONNECT_SECONDS = 5
UNLIMITED = " -c statement_timeout=0"


@dataclass(frozen=True)
class Limits:
    """Limits of a session, in seconds; 0: none."""

    lock: float  # for a lock that another transaction holds
    statement: float
    idle: float  # for a client that does nothing in the middle of a transaction
    host: float  # for a host that does not answer, on either side

    def of_server(self) -> dict[str, str]:
        """The settings of a session, which the server keeps."""
        keepalive = {"idle": self.host / 2, "interval": self.host / 6, "count": 3}
        return {
            "lock_timeout": f"{self.lock * 1000:.0f}",
            "statement_timeout": f"{self.statement * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{self.idle * 1000:.0f}",
            "client_connection_check_interval": f"{self.host * 1000 / 6:.0f}",
            "tcp_user_timeout": f"{self.host * 1000:.0f}",
            **{f"tcp_keepalives_{name}": f"{math.ceil(value)}" for name, value in keepalive.items()},
        }

    def of_client(self, given: str = "") -> dict[str, Any]:
        """Options of a connection: the client's own limits, and in `options` what it asks of the server."""
        asked = " ".join(f"-c {name}={value}" for name, value in self.of_server().items())
        return {
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": math.ceil(self.host / 2),
            "keepalives_interval": math.ceil(self.host / 6),
            "keepalives_count": 3,
            "tcp_user_timeout": math.ceil(self.host * 1000),
            "options": f"{asked} {given}".strip(),
        }


DEFAULTS = """
SELECT pg_has_role(database.datdba, 'USAGE'), coalesce(setting.setconfig, '{}')
FROM pg_database database
LEFT JOIN pg_db_role_setting setting ON setting.setdatabase = database.oid AND setting.setrole = 0
WHERE database.datname = current_database()
"""


def make_default(alias: str, limits: Mapping[str, str]) -> bool:
    """Make these settings the defaults of all sessions of a database; return false if only its owner may."""
    connection = connections[alias]
    name = sql.Identifier(connection.settings_dict["NAME"])
    with connection.cursor() as cursor:
        cursor.execute(DEFAULTS)
        is_ours, known = cursor.fetchone()
        missing = [setting for setting, value in limits.items() if f"{setting}={value}" not in known]
        if missing and not is_ours:
            return False
        for setting in missing:
            value = sql.Literal(limits[setting])
            cursor.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, sql.Identifier(setting), value))
    return True


@contextmanager
def without_limits_of_statements(*aliases: str) -> Iterator[None]:
    """Where nothing is connected yet, run statements as long as they take, in own sessions: migrations, an audit."""
    with ExitStack() as stack:
        for alias in aliases:
            if connections[alias].connection is None:
                own = sessions.of_its_own(alias)
                own.settings_dict["OPTIONS"]["options"] += UNLIMITED
                stack.enter_context(sessions.using(own))
        yield
