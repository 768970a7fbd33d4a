"""A database of which a copy is made, and put in its place: so it goes back to an earlier moment."""

from datetime import UTC, datetime
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql


class Database:
    """The database of one service, at the address of a user who may do anything there."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = parts.path.strip("/")
        self.copy = f"{self.name}_copy"
        self._server = urlunsplit(parts._replace(path="/postgres"))

    def tell(self, *statements: str, **more: str) -> None:
        names = {name: sql.Identifier(value) for name, value in {"name": self.name, "copy": self.copy, **more}.items()}
        with psycopg.connect(self._server, autocommit=True) as connection:
            for statement in statements:
                connection.execute(sql.SQL(statement).format(**names))

    def back_up(self) -> datetime:
        """Copy it while everybody is cut off for a moment; the moment of the copy."""
        self.tell("ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            with psycopg.connect(self._server, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s", [self.name]
                )
            self.tell("CREATE DATABASE {copy} TEMPLATE {name}")
            return datetime.now(UTC)
        finally:
            self.tell("ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    def go_back(self) -> None:
        self.tell("DROP DATABASE {name} WITH (FORCE)", "ALTER DATABASE {copy} RENAME TO {name}")
