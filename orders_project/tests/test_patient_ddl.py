"""Statements that need a table for themselves wait for a moment at a time, and let everybody else by in between."""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections
from psycopg import sql

from orders.tests.test_idempotency import another_connection
from outbox import patient_ddl

pytestmark = pytest.mark.django_db(transaction=True)

STATEMENT = sql.Composed([sql.SQL("ALTER TABLE orders_order DISABLE ROW LEVEL SECURITY")])


@pytest.fixture
def reader() -> Iterator[psycopg.Connection[Any]]:
    """Somebody who reads the table, in a transaction."""
    with another_connection("orders") as reader:
        reader.execute("SELECT FROM orders_order")
        yield reader
    connections["orders"].close()  # whose timeout is another one by now


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[float]]:
    """Have something done in the third pause; the pauses that there were, in seconds."""

    def in_the_third(do: Callable[[], Any]) -> list[float]:
        seconds: list[float] = []

        def sleep(pause: float) -> None:
            seconds.append(pause)
            if len(seconds) == 3:
                do()

        monkeypatch.setattr(patient_ddl, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
        return seconds

    return in_the_third


def test_they_try_again_less_and_less_often_until_they_have_it(reader: psycopg.Connection[Any], pauses: Any) -> None:
    waited = pauses(reader.rollback)
    patient_ddl.run("orders", STATEMENT, STATEMENT, seconds=0.01)
    assert waited == sorted(waited)
    assert len(waited) == 3
    with connections["orders"].cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("10ms",)


def test_they_give_up_in_the_end(reader: psycopg.Connection[Any], pauses: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_ddl, "WAIT", 0.0)
    waited = pauses(reader.rollback)
    with pytest.raises(OperationalError, match="lock timeout"):
        patient_ddl.run("orders", STATEMENT, seconds=0.01)
    assert not waited


def test_what_else_fails_is_not_tried_again(reader: psycopg.Connection[Any], pauses: Any) -> None:
    waited = pauses(reader.rollback)
    full = sql.Composed([sql.SQL("DO $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = 'disk_full'; END $$")])
    with pytest.raises(OperationalError, match="no space"):
        patient_ddl.run("orders", full)
    assert not waited
