"""Outbox and inbox in partitions by day: made and unmade beside everybody, and nothing that has to stay goes."""

import contextlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID, uuid4

import psycopg
import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connections, models, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from orders_project.embedded import processes
from orders_project.privileges import database
from orders_project.tests import databases
from outbox import by_day, by_day_ddl, retention
from outbox.by_day import ByDay
from outbox.due_rows import DueRows
from outbox.ids import floor7, time7, uuid7
from outbox.online_ddl import AddIndexOnline, RemoveIndexOnline
from outbox.services import model_of
from outbox.store import Rows
from outbox.tests.plans import fill_after_analyze, plans_of

SERVICE = "payments"
OUTBOX, INBOX = by_day_ddl.TABLES
Outgoing, Incoming, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "Incoming", "DeadLetter"))
WITHIN = 60.0

pytestmark = [pytest.mark.django_db(transaction=True, databases=[SERVICE]), pytest.mark.slow]


def sql(statement: Any, *parameters: Any) -> list[tuple[Any, ...]]:
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


def same_time(key: UUID) -> str:
    """SQL for another id of the same millisecond."""
    return f"overlay(gen_random_uuid()::text PLACING '{str(key)[:14]}' FROM 1 FOR 14)::uuid"


def purge() -> dict[str, int]:
    retention._progress.clear()
    by_day._paused.clear()
    return {kind: number for kind, number in retention.purge(SERVICE, now=timezone.now()).items() if number}


def parts(table: str) -> list[str]:
    return [part.name for part in ByDay.of(SERVICE, table).parts]


def samples(table: str) -> list[tuple[Any, ...]]:
    return sql(
        "SELECT attname, attstattarget FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND attstattarget >= 0 ORDER BY 1",
        table,
    )


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
                "columns": "SELECT attname, atttypid::regtype, atttypmod, attnotnull, attidentity, attstattarget"
                " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
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
    sql(make.replace("(today + 1,", "(today - 28,"))
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
            assert samples(f"{OUTBOX}_{part}") == samples(OUTBOX), part
        assert ("data", 0) in samples(OUTBOX)
        # One column without a target, and the sample is as large as ever.
        assert [name for name, _target in samples(OUTBOX)] == sorted(field.column for field in Outgoing._meta.fields)
        self.fill()
        before |= {name: value for name, value in tables().items() if name.endswith("rows")}
        call_command("messages_by_day", service=[SERVICE], undo=True, at_once=True, verbosity=0)
        assert tables() == before
        call_command("messages_by_day", service=[SERVICE], undo=True, verbosity=0)
        assert tables() == before

    def test_that_holds_what_cannot_be_carried_over_stays_as_it_is(self) -> None:
        before = tables()
        foreign = Incoming.objects.create(
            message_id=UUID(int=uuid4().int | 0xF << 124),
            type="x",
            received_at=timezone.now(),
            handled_at=timezone.now(),
        )
        with pytest.raises(CommandError, match=f"{INBOX} has 1 rows .* such as {foreign.pk}"):
            call_command("messages_by_day", service=[SERVICE], verbosity=0)
        foreign.delete()
        assert (len(parts(OUTBOX)), len(parts(INBOX))) == (2, 0)
        call_command("messages_by_day", service=[SERVICE], undo=True, at_once=True, verbosity=0)
        sql(f"CREATE VIEW looks AS SELECT type FROM {OUTBOX}")
        with pytest.raises(CommandError, match="the view looks"):
            call_command("messages_by_day", service=[SERVICE], verbosity=0)
        sql("DROP VIEW looks")
        assert tables() == before

    def test_whose_days_are_large_becomes_one_when_they_have_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call_command("messages_by_day", service=[SERVICE], verbosity=0)
        rows = [handled(ago(days=1)), posted(ago(days=1))]
        monkeypatch.setattr(by_day_ddl, "SMALL", 8192)  # so that it has no more than one page
        new = f"{same_time(rows[0].pk)}, 'x', '', 0, now(), now()"
        sql(f"INSERT INTO {INBOX} SELECT {new} FROM generate_series(1, 500)")
        sql(f"DELETE FROM {INBOX} WHERE type = 'x'")
        call_command("messages_by_day", service=[SERVICE], undo=True, verbosity=0)
        (left,) = parts(INBOX)
        assert left == f"{INBOX}_before"
        purge()
        assert parts(INBOX) == [left]  # no more days
        assert sql("SELECT relkind FROM pg_class WHERE relname = %s", OUTBOX) == [("r",)]
        call_command("messages_by_day", service=[SERVICE], verbosity=0)
        assert len(parts(INBOX)) == len(parts(OUTBOX)) == 2  # there are days again
        call_command("messages_by_day", service=[SERVICE], undo=True, verbosity=0)
        sql(f"ALTER TABLE {INBOX} DETACH PARTITION {left}")  # as if its time had come
        sql(f"INSERT INTO {INBOX} SELECT * FROM {left}; DROP TABLE {left}")
        call_command("messages_by_day", service=[SERVICE], undo=True, verbosity=0)
        assert sql("SELECT relkind FROM pg_class WHERE relname = %s", INBOX) == [("r",)]
        assert [*Incoming.objects.all(), *Outgoing.objects.all()] == rows

    def test_whose_conversion_died_is_freed_by_the_next_purge(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = tables()
        with connected() as dying:
            dying.execute(f"SELECT pg_advisory_lock({by_day_ddl.TURN})", [INBOX])
            dying.execute(
                f"ALTER TABLE {INBOX} ADD CONSTRAINT {INBOX}_by_day CHECK (message_id < '{uuid7()}') NOT VALID"
            )
            purge()
            assert tables() != before
            pid = dying.info.backend_pid
        processes.wait_until(lambda: not sql("SELECT FROM pg_stat_activity WHERE pid = %s", pid), timeout=WITHIN)
        purge()
        assert tables() == before

    def test_is_converted_by_one_at_a_time(self) -> None:
        with by_day_ddl._turn(SERVICE, OUTBOX), connected() as other:
            assert other.execute(f"SELECT pg_try_advisory_lock({by_day_ddl.TURN})", [OUTBOX]).fetchone() == (False,)


@contextlib.contextmanager
def connected(**more: Any) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's session."""
    parameters = connections[SERVICE].get_connection_params()
    known: dict[str, Any] = {
        name: parameters[name] for name in ("host", "port", "dbname", "user", "password") if name in parameters
    }
    with psycopg.connect(**{"autocommit": True} | known | more) as other:
        yield other


@pytest.mark.usefixtures("days")
class TestAMessage:
    def test_is_handled_once_wherever_its_day_ends(self) -> None:
        midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
        last, first = uuid7(midnight - timedelta(milliseconds=1)), floor7(midnight)
        foreign = UUID(int=uuid4().int | 0xF << 124)
        for message_id in (last, first, foreign):
            row = {"message_id": message_id, "type": "x", "received_at": timezone.now(), "handled_at": timezone.now()}
            new = [bool(recorded(**row)) for _ in range(3)]
            assert new == [True, False, False]
        where = {one: part for part, one in sql(f"SELECT tableoid::regclass::text, message_id FROM {INBOX}")}
        assert len({*where.values()}) == 3
        assert where[foreign] == f"{INBOX}_rest"
        assert where[first] == f"{INBOX}_{midnight:%Y_%m_%d}"

    def test_is_still_known_after_its_day_has_gone_if_it_may_come_again(self) -> None:
        then = ago(days=25)
        known, unknown = handled(then), handled(then)
        dead_letter(known.pk)
        purge()
        assert rest(INBOX) == {known.pk}
        assert f"{INBOX}_{then:%Y_%m_%d}" not in parts(INBOX)
        row = {"type": "x", "received_at": timezone.now(), "handled_at": timezone.now()}
        assert not recorded(message_id=known.pk, **row)
        assert recorded(message_id=unknown.pk, **row)


def recorded(**row: Any) -> list[Any]:
    """Store an inbox row as consumers do; return its key if it is new."""
    with transaction.atomic(using=SERVICE):
        return Rows(SERVICE).insert_new(Incoming(**row))


@pytest.mark.usefixtures("days")
class TestADay:
    def test_goes_and_leaves_exactly_what_deleting_leaves(self) -> None:
        dice, payment = random.Random(7), apps.get_model(SERVICE, "Payment")
        ends = [ago(days=n).replace(hour=23, minute=59, second=59) for n in range(6, 29)]
        horizon = (settings.INBOX_RETENTION, settings.OUTBOX_RETENTION)
        payment.objects.create(order_id="open", status="pending", currency="USD")
        payment.objects.create(order_id="over", status="succeeded", currency="USD")
        for _ in range(400):
            at = dice.choice(ends) - timedelta(hours=dice.choice((0, 0, 0, 5, 23)))
            late = at + timedelta(minutes=dice.choice((0, 0, 0, 59, 120, 4320)))
            if dice.random() < 0.2:
                late = timezone.now() - dice.choice((*horizon, timedelta(days=1))) + timedelta(minutes=1)
            late = min(max(late, at), timezone.now())
            row = handled(at, handled_at=late, subject=dice.choice(("", "open", "over", "else")))
            if dice.random() < 0.2:
                dead_letter(row.pk, status=dice.choice(("dead", "replayed", "discarded")))
            if dice.random() < 0.2:
                posted(ago(days=1), message_id=row.pk, published_at=dice.choice((None, ago(hours=1))), attempt=1)
            posted(at, published_at=dice.choice((None, late, late, late)))
        for kind, table in (("published", OUTBOX), ("handled", INBOX)):
            days = retention.DAYS[kind]
            model, before = model_of(SERVICE, days.model), timezone.now() - days.kept_for()
            everything = {*model.objects.values_list("pk", flat=True)}
            may_go = {*retention.KINDS[kind](SERVICE, now=timezone.now()).values_list("pk", flat=True)}
            over = ByDay.of(SERVICE, table).over(before=before)
            assert len(over) > 10
            going = {key for key in may_go if key < over[-1].bound}
            staying = everything - going
            assert len(going) > 50
            assert len({key for key in staying if key < over[-1].bound}) > 50
            for day in over:
                ByDay.of(SERVICE, table).drop(day, **days.staying(SERVICE, before=before))
            assert {*model.objects.values_list("pk", flat=True)} == staying
            assert rest(table) == {key for key in staying if key < over[-1].bound}
            assert not {day.name for day in over} & {*parts(table)}

    def test_finds_what_came_late_by_indexes(self) -> None:
        """Of what is looked for under the lock."""
        then = ago(days=20)
        row, sent = handled(then), posted(then, published_at=then)
        for table, one in ((OUTBOX, sent), (INBOX, row)):
            key, _stamp = by_day_ddl.COLUMNS[table]
            columns = ", ".join(f'"{field.column}"' for field in one._meta.concrete_fields if field.column != key)
            sql(
                f"INSERT INTO {table} ({key}, {columns}) SELECT {same_time(one.pk)}, {columns}"
                f" FROM {table}, generate_series(1, 20000) WHERE {key} = '{one.pk}'"
            )
            sql(f"ANALYZE {table}")
        for kind, table in (("published", OUTBOX), ("handled", INBOX)):
            part = next(one for one in ByDay.of(SERVICE, table).parts if one.name == f"{table}_{then:%Y_%m_%d}")
            before = time7(part.bound) + timedelta(hours=2)
            for rows in retention.DAYS[kind].staying(SERVICE, before=before)["late"]:
                plan = rows.filter(part.rows).values("pk").explain()
                assert f"Seq Scan on {part.name}" not in plan, plan

    def test_goes_as_a_whole_and_not_row_by_row(self) -> None:
        midnight = (timezone.now() - settings.INBOX_RETENTION).replace(hour=0, minute=0, second=0, microsecond=0)
        key = uuid7(midnight + timedelta(milliseconds=1))
        row = Incoming.objects.create(message_id=key, type="x", received_at=midnight, handled_at=midnight)
        assert purge() == {}
        assert [*Incoming.objects.all()] == [row]

    def test_of_which_very_many_rows_stay_is_purged_row_by_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(by_day, "MOST", 2)
        then = ago(days=20)
        staying = [handled(then) for _ in range(3)]
        for row in staying:
            dead_letter(row.pk)
        handled(then)
        assert purge() == {}
        assert purge() == {"handled": 1}
        assert {*Incoming.objects.all()} == {*staying}
        assert f"{INBOX}_{then:%Y_%m_%d}" in parts(INBOX)

    def test_that_is_not_over_is_never_dropped(self) -> None:
        for table in by_day_ddl.TABLES:
            for part in parts(table):
                if part >= f"{table}_{ago(days=1):%Y_%m_%d}" and part != f"{table}_before":
                    assert sql("SELECT outbox_drop_day(%s, %s, '{}')", table, part) == [(None,)]
                    assert part in parts(table)

    def test_never_takes_along_what_was_not_sent(self) -> None:
        then = ago(days=20)
        row = posted(then)
        posted(then, published_at=then)
        sql("SELECT outbox_drop_day(%s, %s, '{}')", OUTBOX, f"{OUTBOX}_{then:%Y_%m_%d}")
        assert [*Outgoing.objects.all()] == [row]

    def test_that_nobody_made_is_in_the_rest(self) -> None:
        for table in by_day_ddl.TABLES:
            last = parts(table)[-1]
            sql(f"ALTER TABLE {table} DETACH PARTITION {last}; DROP TABLE {last}")
        tomorrow = timezone.now() + timedelta(days=2)
        ahead, others = [handled(tomorrow), posted(tomorrow)], [handled(ago(days=40)), posted(ago(days=40))]
        assert rest(INBOX) == {ahead[0].pk}
        before = {table: len(parts(table)) for table in by_day_ddl.TABLES}
        purge()  # makes the day: what is there of it moves
        assert {table: len(parts(table)) for table in by_day_ddl.TABLES} != before
        assert f"{INBOX}_{tomorrow:%Y_%m_%d}" in parts(INBOX)
        assert rest(INBOX) == set()
        assert [*Incoming.objects.all()] == [ahead[0]]
        assert {*Outgoing.objects.all()} == {ahead[1], others[1]}

    def test_is_not_made_while_the_rest_is_too_large_to_be_locked(self, caplog: pytest.LogCaptureFixture) -> None:
        ((make,),) = sql("SELECT pg_get_functiondef('outbox_make_days'::regproc)")
        sql(make.replace("256 * 1024 * 1024", "0"))
        last = parts(INBOX)[-1]
        sql(f"ALTER TABLE {INBOX} DETACH PARTITION {last}; DROP TABLE {last}")
        then = timezone.now() + timedelta(days=2)
        row = handled(then)
        purge()
        assert "outbox_incomingmessage_rest is too large" in caplog.text
        assert rest(INBOX) == {row.pk}
        assert last not in parts(INBOX)


@dataclass
class Everybody:
    """Consumers, a relay and two purgers at work, with the locks that they take."""

    done: dict[str, int] = field(default_factory=dict)
    failures: list[BaseException] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._due = DueRows(SERVICE)
        work = {"consume": self.consume, "relay": self.relay, "purge": purge, "purge too": purge}
        self.done = dict.fromkeys(work, 0)
        self._threads = [threading.Thread(target=self._run, args=each) for each in work.items()]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []

    def _run(self, name: str, work: Callable[[], object]) -> None:
        try:
            while not self._ended.is_set():
                work()
                self.done[name] += 1
        except BaseException as error:
            self.failures.append(error)
        finally:
            connections.close_all()

    def consume(self) -> None:
        with transaction.atomic(using=SERVICE):
            row = Incoming(message_id=uuid7(), type="x", received_at=ago(), handled_at=ago())
            assert Rows(SERVICE).insert_new(row)
            assert Incoming.objects.filter(subject="nobody").count() == 0
            posted(ago())

    def relay(self) -> None:
        with transaction.atomic(using=SERVICE):
            rows = self._due.claim(now=ago(), limit=50)
            Outgoing.objects.filter(pk__in=[row.pk for row in rows]).update(published_at=ago())

    def until(self, condition: Callable[[], bool] = lambda: True) -> None:
        """Return when this is so, and each of them has done something more."""
        processes.wait_until(lambda: bool(self.failures) or condition(), timeout=5 * WITHIN)
        before = dict(self.done)
        processes.wait_until(
            lambda: bool(self.failures) or all(self.done[name] > before[name] for name in before), timeout=WITHIN
        )


@pytest.mark.usefixtures("apart")
def test_everybody_goes_on_while_a_table_becomes_partitioned_and_one_again() -> None:
    with Everybody() as everybody:
        for undo in (False, True):
            everybody.until()
            call_command("messages_by_day", service=[SERVICE], undo=undo, at_once=undo, verbosity=0)
        everybody.until()
    handled_and_posted = [model.objects.values("pk").distinct().count() for model in (Incoming, Outgoing)]
    assert handled_and_posted == [everybody.done["consume"]] * 2


@pytest.mark.usefixtures("days")
class TestWhoeverUsesTheTables:
    def test_sorts_nothing_of_what_is_due(self) -> None:
        """To append what is in all partitions, most of which are empty, and to sort it would seem to cost less."""
        fill_after_analyze(SERVICE)
        due = DueRows(SERVICE)
        due.next_due()
        assert [plan for plan in plans_of(due) if "Merge Append  (" not in plan or "Sort  (" in plan] == []
        assert sql("SHOW enable_sort") == [("on",)]
        for table in by_day_ddl.TABLES:
            by_day_ddl.revert(SERVICE, table, at_once=True, say=lambda line: None)
        assert [plan for plan in plans_of(due) if "Sort  (" in plan] == []
        assert not due._is_by_day

    def test_goes_on_while_days_go(self) -> None:
        for hours in range(24 * 25):
            handled(ago(hours=hours))
            posted(ago(hours=hours), published_at=ago(hours=hours))
        there = {table: len(parts(table)) for table in by_day_ddl.TABLES}
        kept = {OUTBOX: settings.OUTBOX_RETENTION, INBOX: settings.INBOX_RETENTION}
        with Everybody() as everybody:
            everybody.until(
                lambda: (
                    not any(ByDay.of(SERVICE, table).over(before=timezone.now() - time) for table, time in kept.items())
                )
            )
        assert all(len(parts(table)) < there[table] - 5 for table in by_day_ddl.TABLES)

    def test_makes_the_purge_wait_and_not_the_other_way_round(self) -> None:
        then = ago(days=20)
        row = handled(then)
        before = parts(INBOX)
        with connected(autocommit=False) as reader:
            reader.execute(f"SELECT count(*) FROM {INBOX}")
            assert purge() == {}
            assert parts(INBOX) == before
            assert by_day._paused.keys() == {(SERVICE, INBOX)}
            assert [*Incoming.objects.all()] == [row]
        by_day._paused.clear()
        purge()
        assert len(parts(INBOX)) < len(before)
        assert [*Incoming.objects.all()] == []


RUN = "import psycopg, sys; psycopg.connect(sys.argv[1], autocommit=True).execute(sys.stdin.read())"


@pytest.mark.usefixtures("days")
class TestAPurgeThatIsStopped:
    """In the middle: it has the lock, and waits for a table that it looks at then."""

    @pytest.fixture
    def stopped(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        monkeypatch.setattr(by_day, "DROP", by_day.DROP.replace("200ms", "10min"))
        then, asked = ago(days=20), []
        self.part = f"{INBOX}_{then:%Y_%m_%d}"
        self.goes, self.stays = handled(then), handled(then)
        dead_letter(self.stays.pk)
        monkeypatch.setattr(ByDay, "_try", lambda _self, *statement: asked.append(statement))
        day = next(part for part in ByDay.of(SERVICE, INBOX).parts if part.name == self.part)
        before = timezone.now() - settings.INBOX_RETENTION
        ByDay.of(SERVICE, INBOX).drop(day, **retention.DAYS["handled"].staying(SERVICE, before=before))
        ((statement, *parameters),) = asked
        with connected() as other, connected(autocommit=False) as holder:
            holder.execute("LOCK TABLE outbox_deadletter IN ACCESS EXCLUSIVE MODE")
            process = subprocess.Popen(
                [sys.executable, "-c", RUN, other.info.dsn + f" password={other.info.password}"],
                stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(psycopg.ClientCursor(other).mogrify(statement, parameters).encode())
            process.stdin.close()
            waits = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'outbox_deadletter'::regclass"
            processes.wait_until(lambda: bool(other.execute(waits).fetchall()), timeout=WITHIN)
            ((pid,),) = other.execute(waits).fetchall()
            yield other, holder, process, pid
            process.kill()
            process.wait()

    def test_has_done_nothing_if_its_session_is_ended(self, stopped: Any) -> None:
        other, holder, process, pid = stopped
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
        process.wait()
        holder.rollback()
        assert self.part in parts(INBOX)
        assert {*Incoming.objects.all()} == {self.goes, self.stays}
        assert rest(INBOX) == set()

    def test_does_all_if_it_is_killed(self, stopped: Any) -> None:
        """Its server knows all that is to be done, and needs nobody to end it."""
        other, holder, process, pid = stopped
        process.kill()
        process.wait()
        holder.rollback()
        is_there = "SELECT FROM pg_stat_activity WHERE pid = %s"
        processes.wait_until(lambda: not other.execute(is_there, [pid]).fetchall(), timeout=WITHIN)
        assert self.part not in parts(INBOX)
        assert {*Incoming.objects.all()} == {self.stays}
        assert rest(INBOX) == {self.stays.pk}


@pytest.mark.usefixtures("apart")
class TestAMigration:
    def test_makes_and_drops_an_index_of_all_partitions_online(self) -> None:
        call_command("messages_by_day", service=[SERVICE], verbosity=0)
        executor = MigrationExecutor(connections[SERVICE])
        before = executor.loader.project_state()
        index = models.Index(fields=["type"], name="outgoing_by_type")
        add, after = AddIndexOnline("outgoingmessage", index), before.clone()
        add.state_forwards("outbox", after)
        remove = RemoveIndexOnline("outgoingmessage", index.name)
        known = tables()
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('outgoing_by_type')"
        on_parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('outgoing_by_type')"
        with connections[SERVICE].schema_editor(atomic=False) as editor:
            sql(f"CREATE INDEX outgoing_by_type ON ONLY {OUTBOX} (type)")  # as one that died has left it
            for _ in range(2):
                add.database_forwards("outbox", editor, before, after)
                assert sql(valid) == [(True,)]
                assert sql(on_parts) == [(len(parts(OUTBOX)) + 1,)]
            assert ByDay.of(SERVICE, OUTBOX).make(now=timezone.now() + timedelta(days=1)) == 1
            assert sql(on_parts) == [(len(parts(OUTBOX)) + 1,)]
            for drop in (add.database_backwards, remove.database_forwards):
                drop("outbox", editor, after, before)
                assert tables() == known
                remove.database_backwards("outbox", editor, before, after)
                assert sql(valid) == [(True,)]


@pytest.mark.usefixtures("days")
class TestARole:
    def test_uses_drops_and_makes_days_through_the_whole_and_nothing_else(self) -> None:
        then = ago(days=20)
        with transaction.atomic(using=SERVICE):
            sql(f"ALTER TABLE {OUTBOX} DETACH PARTITION {(last := parts(OUTBOX)[-1])}; DROP TABLE {last}")
            for statement in database.statements(
                SERVICE, name=connections[SERVICE].settings_dict["NAME"], existing=set(),
                passwords={role.name: "secret" for role in database.ROLES},
            ):  # fmt: skip
                sql(statement)
            row = handled(then)
            sql("SET LOCAL ROLE payments_app")
            purge()
            assert f"{INBOX}_{then:%Y_%m_%d}" not in parts(INBOX)
            assert last in parts(OUTBOX)
            new = [handled(ago()), posted(ago()), posted(ago(days=40))]
            assert {*Incoming.objects.all(), *Outgoing.objects.all()} == {*new}
            assert row not in new
            for table in (f"{INBOX}_rest", parts(OUTBOX)[-1]):
                with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic(using=SERVICE):
                    sql(f"DELETE FROM {table}")
            sql("SET LOCAL ROLE orders_reading")
            for call in (f"outbox_make_days('{INBOX}', current_date)", f"outbox_drop_day('{INBOX}', 'x', '{{}}')"):
                with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic(using=SERVICE):
                    sql(f"SELECT {call}")
            transaction.set_rollback(True, using=SERVICE)
