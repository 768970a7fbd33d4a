"""A statement of a gRPC call ends with its caller, in every database, and nothing of that stays with the session."""

import time

import pytest
from django.conf import settings
from django.db import OperationalError, connections, transaction

from orders_project.grpc.deadlines import statements_end_in
from outbox.sqlstates import sqlstate_of

DATABASES = sorted(settings.DATABASES)
NORMAL = str(int(settings.DATABASE_LIMITS.statement * 1000))

pytestmark = pytest.mark.django_db(transaction=True, databases=DATABASES)


def limit_of(alias: str) -> str:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'")
        return str(cursor.fetchone()[0])


def ends_with_its_caller(alias: str) -> bool:
    began = time.monotonic()
    with statements_end_in(0.2), pytest.raises(OperationalError) as caught, connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_sleep(60)")
    return sqlstate_of(caught.value) == "57014" and time.monotonic() - began < 50


def test_each_transaction_of_a_call_has_its_limit_and_the_session_keeps_its_own() -> None:
    for alias in DATABASES:
        with statements_end_in(9):
            assert 0 < int(limit_of(alias)) <= 9000
            with transaction.atomic(using=alias):
                assert 0 < int(limit_of(alias)) <= 9000
                with transaction.atomic(using=alias):
                    assert 0 < int(limit_of(alias)) <= 9000
        with statements_end_in(3600):
            assert limit_of(alias) == NORMAL  # no caller gets more than everybody
        assert ends_with_its_caller(alias)
        assert limit_of(alias) == NORMAL
    with statements_end_in(0), pytest.raises(OperationalError), connections["orders"].cursor() as cursor:
        cursor.execute("SELECT pg_sleep(60)")
