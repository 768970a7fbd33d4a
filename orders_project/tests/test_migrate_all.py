"""`migrate_all` beside processes of the last release: nobody waits for it, it says whom it waits for, and it heals."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from common import search
from orders.models import Order
from orders_project.embedded import processes, variable
from orders_project.lock_waits import without_values
from orders_project.management.commands import migrate_all
from orders_project.tests import databases, forked, many_rows
from processing.models import PRODUCT_PARTS

pytestmark = [
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True, databases=["orders", "payments", "processing"]),
]
WITHIN = 60  # seconds for anything that is waited for
NO_LOCKS = "did not get its locks, trying again in"
KNOWN = ("host", "port", "dbname", "user", "password")


def connect(alias: str, **options: Any) -> psycopg.Connection[Any]:
    parameters = connections[alias].get_connection_params()
    wanted: dict[str, Any] = {name: parameters[name] for name in KNOWN if name in parameters}
    return psycopg.connect(**wanted | {"autocommit": True} | options)


class Said:
    """What a command has written; asked for from another thread."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


class Migrating:
    """`migrate_all` of one database, in a thread of its own."""

    def __init__(self, alias: str) -> None:
        self.said = Said()
        self._pool = ThreadPoolExecutor(1)
        self._done: Future[None] = self._pool.submit(self._run, alias)

    def _run(self, alias: str) -> None:
        try:
            call_command("migrate_all", database=[alias], stdout=self.said, stderr=self.said, skip_checks=True)
        finally:
            connections.close_all()

    def until(self, line: str, *, beside: "Writer | None" = None) -> None:
        """Return when it has said this."""

        def said() -> bool:
            assert not self._done.done() or line in self.said.text, (self.said.text, self._done.exception())
            assert beside is None or not beside.refused, beside.refused
            return line in self.said.text

        processes.wait_until(said, timeout=WITHIN)

    def tries_again(self) -> None:
        """Return when it has once more not got its locks."""
        tries = self.said.text.count(NO_LOCKS)
        processes.wait_until(lambda: self.said.text.count(NO_LOCKS) > tries, timeout=WITHIN)

    def end(self) -> str:
        """Wait for its end, and return what it said."""
        self._pool.shutdown()
        self._done.result()
        return self.said.text


class Reader:
    """A transaction that has read a table and goes on for as long as it likes, as a backup does."""

    def __init__(self, alias: str, table: str) -> None:
        self._connection = connect(alias, autocommit=False, application_name="backup")
        self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._connection.execute(f"SELECT count(*) FROM {table} WHERE 'secret' <> ''")
        self.pid = self._connection.info.backend_pid

    def end(self) -> None:
        self._connection.close()


class Writer:
    """A process of the last release: adds rows and changes them, and waits for a lock as long as it would."""

    def __init__(self, alias: str, statements: tuple[str, ...]) -> None:
        self.written = 0
        self.refused: list[str] = []
        self._statements, self._ended = statements, threading.Event()
        self._connection = connect(alias, options="-c lock_timeout=5000")
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        while not self._ended.wait(0.01):
            for statement in self._statements:
                try:
                    self._connection.execute(statement, {"n": self.written})
                except psycopg.Error as error:
                    self.refused.append(f"{type(error).__name__}: {error} {statement}")
            self.written += 1

    def goes_on(self) -> None:
        """Return when everything has been written ten times more."""
        more = self.written + 10
        processes.wait_until(lambda: self.written >= more, timeout=WITHIN)
        assert self.refused == []

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self._connection.close()


@pytest.fixture
def quick(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.MIGRATION_LOCK_TIMEOUT = 0.2
    settings.MIGRATION_WAIT_SECONDS = 300
    monkeypatch.setattr(migrate_all, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(migrate_all, "LOOK", 0.05)


MESSAGES = (
    """
    INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt,
        created_at, due_at, publish_attempts, refusals, last_error)
    VALUES (gen_random_uuid(), gen_random_uuid(), 'order.paid', 1, 'w' || %(n)s, 'events', '{}', '', 0, now(), now(), 0,
        0, '')
    """,
    "UPDATE outbox_outgoingmessage SET published_at = now() WHERE subject = 'w' || %(n)s",
    "UPDATE outbox_outgoingmessage SET last_error = 'again' WHERE subject = 'o' || 1 + %(n)s %% 40",
)
# By service: what the last release writes, with the columns that it knows; the table that is changed first; another.
SHOP: dict[str, tuple[tuple[str, ...], str, str]] = {
    "orders": (
        (
            """
            INSERT INTO orders_order (order_id, principal, customer_id, user_id, user_email, description, status, total,
                currency, payment_method, payment_id, fail_reason, version, fingerprint, created_at, updated_at)
            VALUES ('w' || %(n)s, '', '', 'u', '', '', 'pending', 1, 'USD', 'account', '', '', 1, '', now(), now())
            """,
            "UPDATE orders_order SET status = 'paid', version = 2, updated_at = now() WHERE order_id = 'w' || %(n)s",
            "UPDATE orders_order SET version = version + 1, updated_at = now() WHERE order_id = 'o' || 1 + %(n)s %% 40",
            """
            INSERT INTO orders_idempotencykey (principal, key, fingerprint, order_id, answer_status, answer,
                answer_headers, created_at) VALUES ('', 'w' || %(n)s, '', '', 201, '', '{}', now())
            """,
            """
            INSERT INTO orders_webhookendpoint (id, url, events, is_active, disabled_because, secret, previous_secret,
                created_by, created_at)
            VALUES (gen_random_uuid(), 'w' || %(n)s, '[]', true, '', 'whsec_w', '', '', now())
            """,
        ),
        "orders_order",
        "orders_orderevent",
    ),
    "payments": (
        (
            """
            INSERT INTO payments_account (id, kind, user_id, principal, currency, balance, created_at)
            VALUES (gen_random_uuid(), 'customer', 'w' || %(n)s, '', 'USD', 0, now())
            """,
            "UPDATE payments_account SET balance = balance + 1 WHERE user_id = 'w' || %(n)s AND kind = 'customer'",
            """
            INSERT INTO payments_payment (order_id, method, gateway, gateway_payment_id, user_id, amount, currency,
                status, fail_reason, unanswered, created_at, updated_at)
            VALUES ('w' || %(n)s, 'account', '', '', 'u', 1, 'USD', 'requested', '', 0, now(), now())
            """,
            "UPDATE payments_payment SET status = 'succeeded' WHERE order_id = 'w' || %(n)s",
        ),
        "outbox_outgoingmessage",
        "payments_entry",
    ),
    "processing": (
        (
            """
            INSERT INTO processing_hold (hold_id, order_id, status, created_at, expires_at)
            VALUES (gen_random_uuid(), 'w' || %(n)s, 'held', now(), now())
            """,
            "UPDATE processing_hold SET status = 'sold', ended_at = now() WHERE order_id = 'w' || %(n)s",
        ),
        "outbox_outgoingmessage",
        "processing_processing",
    ),
}
MANY, SOME = 100_000, 5_000
FILLED = (
    "orders_idempotencykey", "payments_account", "payments_payment", "processing_hold",
    "outbox_outgoingmessage",
)  # fmt: skip
FILES = "SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
UNFINISHED = """
SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid
UNION ALL SELECT conname FROM pg_constraint WHERE NOT convalidated
"""


def rows_of(alias: str, sql: str) -> list[Any]:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


@pytest.mark.parametrize("service", SHOP)
def test_the_shop_goes_on_while_it_is_migrated(service: str, quick: None, settings: Any) -> None:
    statements, table, other = SHOP[service]
    with databases.of_last_release(service):
        many_rows.gather(MANY, services=[service], tables=["orders_order"])
        many_rows.gather(SOME, services=[service], tables=FILLED)
        files = dict(rows_of(service, FILES))
        writer = Writer(service, (*statements, *MESSAGES))
        readers = [Reader(service, table), Reader(service, other)]
        try:
            migrating = Migrating(service)
            held = f"waits for {table}, which process {readers[0].pid} holds"
            migrating.until(held, beside=writer)
            for _ in range(2):  # it gives up its place in the queue for the table, more than once
                migrating.tries_again()
                writer.goes_on()
            readers[0].end()
            # Now an index is made, which waits for the other reader; nobody waits for the index.
            migrating.until(f"which process {readers[1].pid} holds", beside=writer)
            writer.goes_on()
            readers[1].end()
            said = migrating.end()
            writer.goes_on()
        finally:
            for reader in readers:
                reader.end()
            writer.end()
        assert writer.refused == []
        assert f"{held} (" in said
        assert "backup; idle in transaction, begun " in said
        assert f"s ago): SELECT count(*) FROM {table} WHERE '…' <> '…'" in said
        assert "'secret'" not in said
        assert rows_of(service, UNFINISHED) == []
        now = dict(rows_of(service, FILES))
        assert {name: now[name] for name in files if name != "django_migrations"} == {
            name: file for name, file in files.items() if name != "django_migrations"
        }  # no table was written anew
        if service == "orders":
            since_left_behind = "SELECT order_id FROM orders_order WHERE status = 'paid' AND status_since <> updated_at"
            assert rows_of(service, since_left_behind + " AND order_id LIKE 'w%'") == []
            assert rows_of(service, "SELECT DISTINCT hears_all, principal FROM orders_webhookendpoint") == [(True, "")]
        call_command("migrate_all", database=[service], verbosity=0, skip_checks=True)


class TestAnIndexThatIsMade:
    """By a migration of the last release's database, in which a reader keeps it from being finished."""

    @pytest.fixture(autouse=True)
    def begun(self, quick: None) -> Iterator[None]:
        self.all = self.recorded()
        with databases.of_last_release("orders"):
            yield
            call_command("migrate_all", database=["orders"], verbosity=0, skip_checks=True)

    @pytest.fixture
    def reader(self) -> Iterator[Reader]:
        reader = Reader("orders", "orders_orderevent")
        yield reader
        reader.end()

    def index(self) -> list[Any]:
        first = "one_order_per_reference_and_principal"
        valid = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{first}')"
        return [is_valid for (is_valid,) in rows_of("orders", valid)]

    def recorded(self) -> int:
        return len(rows_of("orders", "SELECT FROM django_migrations WHERE app = 'orders' AND name >= '0012'"))

    def test_is_made_anew_after_a_kill(self, reader: Reader) -> None:
        database = connections["orders"].settings_dict
        address = "postgres://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**database)
        process = forked.start(
            ["python", "manage.py", "migrate_all", "--database", "orders"],
            env=os.environ | {variable("orders"): address}, output=2,
        )  # fmt: skip
        try:
            processes.wait_until(lambda: self.index() == [False], timeout=WITHIN)
        finally:
            processes.end(process, by=signal.SIGKILL, grace=0)
        assert self.recorded() == 0
        reader.end()
        call_command("migrate_all", database=["orders"], verbosity=0, skip_checks=True)
        assert (self.index(), self.recorded()) == ([True], self.all)

    def test_is_made_once_by_two_at_the_same_time(self, reader: Reader) -> None:
        first = Migrating("orders")
        first.until(f"which process {reader.pid} holds")
        second = Migrating("orders")
        second.until("which is migrating it")
        reader.end()
        assert "0012_indexes is applied" in first.end()
        assert "is applied" not in second.end()
        assert (self.index(), self.recorded()) == ([True], self.all)

    def test_is_given_up_after_a_time(self, reader: Reader, settings: Any) -> None:
        settings.MIGRATION_WAIT_SECONDS = 0.5
        with pytest.raises(CommandError, match=r"^orders.0012_indexes did not get its locks within \d+ s\.$"):
            call_command("migrate_all", database=["orders"], stderr=Said(), verbosity=0, skip_checks=True)
        assert self.index() == [False]
        settings.MIGRATION_WAIT_SECONDS = 300
        reader.end()


def test_indexes_of_parts_are_made_as_soon_as_the_server_has_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    index, said = PRODUCT_PARTS, Said()
    with connections["processing"].cursor() as cursor:
        cursor.execute(f"DROP INDEX {index.name}")
    for extension, is_there in (("pg_nowhere", False), (search.EXTENSION, True)):
        monkeypatch.setattr(search, "EXTENSION", extension)
        call_command("migrate_all", database=["processing"], stderr=said, verbosity=0, skip_checks=True)
        assert index.is_there("processing") == is_there
    assert said.text.count("without the extension pg_nowhere, search finds beginnings only") == 1


def test_indexes_of_the_release_before_stay_while_its_processes_may_run(settings: Any) -> None:
    names = {index.name for index in Order.former_indexes}
    there = "SELECT indexname FROM pg_indexes WHERE tablename = 'orders_order'"
    for settings.UPGRADING, kept in ((True, names), (True, names), (False, set()), (False, set())):
        call_command("migrate_all", database=["orders"], verbosity=0, skip_checks=True)
        assert names & {name for (name,) in rows_of("orders", there)} == kept


def test_a_turn_that_somebody_else_keeps_is_not_waited_for_longer_than_allowed(quick: None, settings: Any) -> None:
    settings.MIGRATION_WAIT_SECONDS = 0.2
    with connect("orders") as other:
        other.execute(f"SELECT pg_advisory_lock({migrate_all.TURN})")
        with pytest.raises(CommandError, match=f"process {other.info.backend_pid} is still migrating it"):
            call_command("migrate_all", database=["orders"], stderr=Said(), verbosity=0, skip_checks=True)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("SELECT 'a''b', \n 'c' FROM x", "SELECT '…', '…' FROM x"),
        ("INSERT INTO x VALUES ('cut in the mid", "INSERT INTO x VALUES ('…'"),
        ("x" * 500, "x" * 160 + "…"),
    ],
)
def test_a_query_is_shown_without_its_values(query: str, shown: str) -> None:
    assert without_values(query) == shown
