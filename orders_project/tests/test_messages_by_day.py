"""Outbox and inbox in partitions by day: made and unmade beside everybody, and nothing that has to stay goes."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.utils import timezone

from orders_project.embedded import processes
from orders_project.tests import databases
from outbox import by_day, by_day_ddl, retention
from outbox.by_day import ByDay
from outbox.ids import floor7, uuid7
from outbox.models import IncomingMessage
from outbox.services import model_of

SERVICE = "payments"
OUTBOX, INBOX = by_day_ddl.TABLES
Outgoing, Incoming, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "Incoming", "DeadLetter"))
WITHIN = 60.0

pytestmark = pytest.mark.django_db(transaction=True, databases=[SERVICE])


def sql(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connections[SERVICE].cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def ago(**time: float) -> datetime:
    return timezone.now() - timedelta(**time)


def handled(at: datetime, *, handled_at: datetime | None = None, subject: str = "") -> Any:
    """The inbox row of a message that was posted then, and handled then or later."""
    return Incoming.objects.create(
        message_id=uuid7(at), type="tests.count", subject=subject, received_at=at, handled_at=handled_at or at
    )


def posted(at: datetime, *, published_at: datetime | None = None, message_id: UUID | None = None, **more: Any) -> Any:
    """A row that was posted then, and is not sent unless it says when it was."""
    return Outgoing.objects.create(
        id=(own := uuid7(at)), message_id=message_id or own, type="tests.count", to=SERVICE, data={}, created_at=at,
        correlation_id="", due_at=at, published_at=published_at, **more,
    )  # fmt: skip


def dead_letter(message_id: UUID, *, status: str = "dead") -> Any:
    return DeadLetter.objects.create(
        origin="consumer", queue=SERVICE, message_id=message_id, type="tests.count", reason="failed", fingerprint="f",
        body=b"", died_at=timezone.now(), status=status, resolved_at=None if status == "dead" else timezone.now(),
    )  # fmt: skip


def purge() -> dict[str, int]:
    retention._progress.clear()
    by_day._paused.clear()
    return {kind: number for kind, number in retention.purge(SERVICE, now=timezone.now()).items() if number}


def parts(table: str) -> list[str]:
    return [part.name for part in ByDay.of(SERVICE, table).parts]


def rest(table: str) -> set[UUID]:
    key, _stamp = by_day_ddl.COLUMNS[table]
    return {one for (one,) in sql(f"SELECT {key} FROM {table}_rest")}


def tables() -> dict[str, Any]:
    """Everything that is known of the two tables and their rows."""
    found: dict[str, Any] = {}
    for table in by_day_ddl.TABLES:
        found |= {
            f"{table} {what}": sorted(map(str, sql(query.replace("%s", f"'{table}'"))))
            for what, query in {
                "rows": f"SELECT to_jsonb(row) FROM {table} AS row",
                "columns": "SELECT attname, atttypid::regtype, atttypmod, attnotnull, attidentity FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                "indexes": "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass",
                "constraints": "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE conrelid = %s::regclass",
                "options": "SELECT reloptions, relrowsecurity FROM pg_class WHERE oid = %s::regclass",
                "rights": "SELECT acl.grantee, acl.privilege_type FROM pg_class, aclexplode(relacl) AS acl"
                " WHERE oid = %s::regclass AND grantee <> relowner",
                "policies": "SELECT policyname, permissive, roles, cmd, qual, with_check FROM pg_policies"
                " WHERE tablename = %s",
            }.items()
        }
    return found


@pytest.fixture
def apart() -> Iterator[None]:
    """A database of its own, whose tables may be changed."""
    with databases.apart(SERVICE):
        yield
    by_day._paused.clear()
    by_day._crowded.clear()
    retention._progress.clear()


@pytest.fixture
def days(apart: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that have been in partitions for a month: of what came before, of each day since, and of two to come."""
    monkeypatch.setattr(by_day_ddl, "clock_is_past", lambda using, moment: False)
    for table in by_day_ddl.TABLES:
        by_day_ddl.convert(SERVICE, table, now=ago(days=30), say=lambda line: None)
    ((make,),) = sql("SELECT pg_get_functiondef('outbox_make_days'::regproc)")
    sql(make.replace("today + 1", "today - 28"))
    for table in by_day_ddl.TABLES:
        assert ByDay.of(SERVICE, table).make(now=timezone.now()) == 31
    sql(make)


@pytest.mark.usefixtures("apart")
class TestATable:
    def fill(self) -> None:
        for hours in range(0, 24 * 20, 7):
            handled(ago(hours=hours))
            posted(ago(hours=hours), published_at=ago(hours=hours) if hours % 2 else None)

    def test_becomes_partitioned_and_is_as_before_afterwards(self) -> None:
        self.fill()
        sql("ALTER TABLE outbox_outgoingmessage ENABLE ROW LEVEL SECURITY")
        sql("CREATE ROLE stranger")
        try:
            sql("GRANT SELECT, INSERT ON outbox_outgoingmessage TO stranger")
            sql("CREATE POLICY no_secrets ON outbox_outgoingmessage FOR SELECT TO stranger USING (type <> 'secret')")
            self.there_and_back()
        finally:
            sql("DROP OWNED BY stranger; DROP ROLE stranger")

    def there_and_back(self) -> None:
        before = tables()
        for _ in range(2):
            call_command("messages_by_day", service=[SERVICE], verbosity=0)
            now = tables()
            same = [name for name in before if now[name] == before[name]]
            kinds = ("rows", "columns", "constraints", "rights", "policies")
            assert {f"{table} {kind}" for table in by_day_ddl.TABLES for kind in kinds} <= set(same)
            for table in by_day_ddl.TABLES:
                assert len(parts(table)) == 2
                assert rest(table) == set()
                indexes = [[one.replace(" ONLY", "") for one in found[f"{table} indexes"]] for found in (before, now)]
                assert indexes[0] == indexes[1]
        for part in ("rest", *(name.removeprefix(f"{OUTBOX}_") for name in parts(OUTBOX))):
            (options,) = sql(f"SELECT reloptions::text FROM pg_class WHERE relname = '{OUTBOX}_{part}'")
            assert "autovacuum_vacuum_scale_factor" in options[0], part
        self.fill()
        before |= {name: value for name, value in tables().items() if name.endswith("rows")}
        call_command("messages_by_day", service=[SERVICE], undo=True, at_once=True, verbosity=0)
        assert tables() == before
        call_command("messages_by_day", service=[SERVICE], undo=True, verbosity=0)
        assert tables() == before
