"""Limits of sessions: what a process asks for, and what the database gives everybody."""

from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connection, connections

from orders_project.database_limits import Limits, make_default

SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
SHORT = Limits(lock=0.5, statement=7, idle=1.5, host=12)


def session_of(alias: str, **options: str) -> dict[str, str]:
    """The settings of a new session in this database."""
    parameters = connections[alias].get_connection_params()
    known = ("host", "port", "dbname", "user", "password")
    wanted: dict[str, Any] = {name: parameters[name] for name in known if name in parameters}
    with psycopg.connect(**wanted | options) as session:
        return dict(session.execute(SETTINGS, [[*SHORT.of_server()]]).fetchall())


@pytest.mark.django_db
class TestASession:
    @pytest.mark.parametrize("alias", settings.DATABASES)
    def test_of_a_process_has_its_limits_in_every_database(self, alias: str) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute(SETTINGS, [[*SHORT.of_server()]])
            assert dict(cursor.fetchall()) == settings.DATABASE_LIMITS.of_server()

    def test_asks_for_them_when_it_connects(self) -> None:
        assert session_of("orders", options=SHORT.of_client()["options"]) == SHORT.of_server()

    def test_keeps_what_the_url_says(self) -> None:
        options = SHORT.of_client("-c lock_timeout=9s")["options"]
        assert session_of("orders", options=options)["lock_timeout"] == "9000"

    @pytest.mark.django_db(transaction=True, databases=["orders"])
    def test_has_them_without_asking_after_a_migration(self) -> None:
        name = connections["orders"].settings_dict["NAME"]
        try:
            assert make_default("orders", SHORT.of_server())
            assert session_of("orders") == SHORT.of_server()
            assert make_default("orders", SHORT.of_server() | {"lock_timeout": "600"})
            assert session_of("orders")["lock_timeout"] == "600"
        finally:
            with connections["orders"].cursor() as cursor:
                cursor.execute(f'ALTER DATABASE "{name}" RESET ALL')

    def test_is_left_as_it_is_by_who_does_not_own_the_database(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE ROLE stranger_to_limits")
            try:
                cursor.execute("SET ROLE stranger_to_limits")
                assert not make_default("default", SHORT.of_server())
            finally:
                cursor.execute("RESET ROLE")
                cursor.execute("DROP ROLE stranger_to_limits")
