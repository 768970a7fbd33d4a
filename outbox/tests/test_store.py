"""Rows without the query builder."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import DataError, IntegrityError, connections, transaction
from django.utils import timezone

from outbox.checks import databases_run_several_statements
from outbox.conflicts import retry_on_conflict
from outbox.models import IncomingMessage
from outbox.services import model_of
from outbox.store import Rows, Statement
from outbox.tests.examples import SERVICE

pytestmark = pytest.mark.django_db


ROWS = Rows(SERVICE)
TEXT = 'Say "hi"; DROP TABLE x -- %s \\ \N{SNOWMAN}'


def incoming(kind: str, *, message_id: uuid.UUID | None = None, attempt: int = 0) -> IncomingMessage:
    now = timezone.now()
    made: IncomingMessage = model_of(SERVICE, "Incoming")(
        message_id=message_id or uuid.uuid4(), type=kind, attempt=attempt, received_at=now, handled_at=now
    )
    return made


def stored() -> list[tuple[str, int]]:
    return sorted(model_of(SERVICE, "Incoming").objects.values_list("type", "attempt"))


def test_what_is_stored_is_what_is_selected() -> None:
    kind = model_of(SERVICE, "DeadLetter")
    dead = kind(
        queue="q", reason=TEXT[:60], error=TEXT, headers={"a": [1, None, TEXT]}, body=b"\0\xff",
        died_at=timezone.now(), message_id=uuid.uuid4(), fingerprint="f",
    )  # fmt: skip
    assert ROWS.run(ROWS.insert(dead)) == [1]
    (found,) = ROWS.select(kind, "WHERE id = %s", dead.pk)
    by_orm = kind.objects.get()
    for field in kind._meta.concrete_fields:
        value = getattr(by_orm, field.attname)
        assert getattr(found, field.attname) == value, field.attname
        assert value == getattr(dead, field.attname), field.attname
    assert (found._state.db, found._state.adding, dead._state.adding) == (SERVICE, False, False)


def test_several_statements_run_in_order_in_one_round_trip(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1, using=SERVICE):
        touched = ROWS.run(
            ROWS.insert(incoming("a"), incoming("b")),
            Statement("UPDATE outbox_incomingmessage SET attempt = attempt + %s", [5]),
            Statement("DELETE FROM outbox_incomingmessage WHERE type = %s", ["b"]),
        )
    assert touched == [2, 2, 1]
    assert stored() == [("a", 5)]


def test_all_of_it_fails_together() -> None:
    one = incoming("a")
    with pytest.raises(IntegrityError), transaction.atomic(using=SERVICE):
        ROWS.run(ROWS.insert(one), ROWS.insert(incoming("b", message_id=one.message_id)))
    assert stored() == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["\0", "x" * 101])
def test_nothing_is_stored_if_one_of_them_cannot_be_sent_or_fails(kind: str) -> None:
    with pytest.raises((DataError, psycopg.DataError)):
        ROWS.run(ROWS.insert(incoming("a")), ROWS.insert(incoming(kind)))
    assert stored() == []


def test_what_is_stored_in_several_tables_is_one_statement_that_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_after(1, monkeypatch)
    one, dead = (
        incoming("a"),
        model_of(SERVICE, "DeadLetter")(
            queue="q", reason="r", error=TEXT, body=b"", died_at=timezone.now(), fingerprint="f"
        ),
    )
    ROWS.run(ROWS.insert(one))
    for attempt in (1, 2, 3):
        one.attempt, dead.pk = attempt, uuid.uuid4()
        assert ROWS.run(ROWS.insert(dead), ROWS.update(one, "attempt")) == [1, 1]
        assert ROWS.run(ROWS.insert(dead, or_nothing=True), ROWS.update(incoming("b"), "attempt")) == [0, 0]
    assert (stored(), type(dead).objects.count()) == ([("a", 3)], 3)
    assert [text.startswith("WITH part0 AS (INSERT") for text in prepared()].count(True) == 2


def test_as_many_rows_as_anybody_likes() -> None:
    rows = [incoming(str(number)) for number in range(6_000)]
    other = ROWS.insert(incoming("other"))
    assert ROWS.run(ROWS.insert(*rows)) == [6_000]
    assert ROWS.run(other, ROWS.delete_all(type(rows[0]), [row.pk for row in rows])) == [1, 6_000]


def test_passes_over_what_stands() -> None:
    one = incoming("a")
    ROWS.run(ROWS.insert(one))
    again = incoming("b", message_id=one.message_id)
    assert ROWS.run(ROWS.insert(again, incoming("c"), or_nothing=True)) == [1]
    assert stored() == [("a", 0), ("c", 0)]


def test_stores_only_if_an_update_touched_a_row() -> None:
    ROWS.run(ROWS.insert(incoming("a", attempt=3)))
    take = Statement("UPDATE outbox_incomingmessage SET attempt = attempt - 2 WHERE type = 'a' AND attempt >= 2", [])
    assert [ROWS.run(ROWS.insert_if(take, incoming(kind))) for kind in ("b", "c")] == [[1], [0]]
    assert stored() == [("a", 1), ("b", 0)]


def test_updates_the_named_fields_alone() -> None:
    one = incoming("a", attempt=3)
    ROWS.run(ROWS.insert(one))
    one.subject, one.attempt = TEXT[:64], 9
    assert ROWS.run(ROWS.update(one, "subject")) == [1]
    (found,) = ROWS.select(IncomingMessage, "WHERE message_id = %s", one.message_id)
    assert (found.subject, found.attempt) == (TEXT[:64], 3)


def test_an_envelope_is_the_same_whoever_reads_the_row() -> None:
    kind, now = model_of(SERVICE, "Outgoing"), timezone.now()
    row = kind(
        message_id=uuid.uuid4(), type="x", to="y", data={"z": TEXT}, correlation_id="c", created_at=now, due_at=now
    )
    ROWS.run(ROWS.insert(row))
    (found,) = ROWS.select(kind, "WHERE published_at IS NULL")
    assert found.envelope() == kind.objects.get().envelope() == row.envelope()


def test_changes_and_deletes_by_key() -> None:
    rows = [incoming(kind) for kind in "abcd"]
    ROWS.run(ROWS.insert(*rows))
    keys = [row.pk for row in rows]
    changed = ROWS.run(
        ROWS.update_all(type(rows[0]), keys[:3], attempt=7, subject="o"), ROWS.delete_all(type(rows[0]), keys[2:])
    )
    assert changed == [3, 2]
    assert stored() == [("a", 7), ("b", 7)]


def test_a_batch_deletes_what_meets_a_condition_beside_what_it_stores() -> None:
    rows = [incoming("a", attempt=1), incoming("b", attempt=2), incoming("c", attempt=2)]
    ROWS.run(ROWS.insert(*rows))
    with ROWS.batch() as batch:
        batch.insert(incoming("d"))
        for row in rows[:2]:
            batch.delete(type(row), row.pk, where="attempt > 1")
    assert batch.touched == [1, 1]
    assert stored() == [("a", 1), ("c", 2), ("d", 0)]


def prepared() -> list[str]:
    with connections[SERVICE].cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements ORDER BY prepare_time")
        return [statement for (statement,) in cursor.fetchall()]


def prepare_after(threshold: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the session, in which nothing is prepared, prepares what it has run so often."""
    with connections[SERVICE].cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    monkeypatch.setattr(connections[SERVICE].connection, "prepare_threshold", threshold)


def look() -> None:
    assert ROWS.select(IncomingMessage, "WHERE type = %s AND attempt < %s", TEXT, 5) == []


@pytest.mark.parametrize("threshold", [3, None])
def test_a_session_prepares_what_it_runs_often_if_it_may(
    threshold: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_after(threshold, monkeypatch)
    for _ in range(3):
        look()
    assert prepared() == []
    look()
    assert [statement.endswith("WHERE type = $1 AND attempt < $2") for statement in prepared()] == [True] * bool(
        threshold
    )
    look()


@pytest.fixture
def widened(transactional_db: None) -> Iterator[Callable[[], None]]:
    """A function that lets somebody else make a column longer which this session has prepared a query of."""
    other = connections[SERVICE].copy()
    with other.cursor() as cursor:
        cursor.execute("CREATE TABLE shelf (label varchar(5)); INSERT INTO shelf VALUES ('a')")
        yield lambda: cursor.execute("ALTER TABLE shelf ALTER label TYPE varchar(9)")
        cursor.execute("DROP TABLE shelf")
    other.close()


def labels() -> list[tuple[Any, ...]]:
    return ROWS.fetch("SELECT label FROM shelf WHERE label <> %s", "b")


def test_what_is_prepared_outlives_a_column_of_another_type(widened: Callable[[], None]) -> None:
    for _ in range(10):
        labels()
    assert len(prepared()) == 1
    widened()
    assert labels() == [("a",)]


def test_a_transaction_is_repeated_after_a_column_of_another_type(widened: Callable[[], None]) -> None:
    attempts: list[int] = []

    @retry_on_conflict
    @transaction.atomic(using=SERVICE)
    def work() -> list[tuple[Any, ...]]:
        attempts.append(len(attempts))
        return labels()

    for _ in range(10):
        labels()
    widened()
    assert work() == [("a",)]
    assert len(attempts) == 2


def test_databases_that_bind_in_the_server_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(databases_run_several_statements(None)) == []
    monkeypatch.setitem(connections[SERVICE].settings_dict["OPTIONS"], "server_side_binding", True)
    assert [(error.id, repr(SERVICE) in error.msg) for error in databases_run_several_statements(None)] == [
        ("outbox.E004", True)
    ]
