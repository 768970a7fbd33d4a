"""Rows without the query builder."""

import uuid
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from outbox.consumers import model_of
from outbox.models import IncomingMessage
from outbox.store import Rows, Statement
from outbox.tests.stage import SERVICE

pytestmark = pytest.mark.django_db


ROWS = Rows(SERVICE)
SAYING = 'Say "hi"; DROP TABLE x -- %s \\ \N{SNOWMAN}'


def letter(kind: str, *, message_id: uuid.UUID | None = None, attempt: int = 0) -> IncomingMessage:
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
        queue="q", reason=SAYING[:60], error=SAYING, headers={"a": [1, None, SAYING]}, body=b"\0\xff",
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
            ROWS.insert(letter("a"), letter("b")),
            Statement("UPDATE outbox_incomingmessage SET attempt = attempt + %s", [5]),
            Statement("DELETE FROM outbox_incomingmessage WHERE type = %s", ["b"]),
        )
    assert touched == [2, 2, 1]
    assert stored() == [("a", 5)]


def test_all_of_it_fails_together() -> None:
    one = letter("a")
    with pytest.raises(IntegrityError), transaction.atomic(using=SERVICE):
        ROWS.run(ROWS.insert(one), ROWS.insert(letter("b", message_id=one.message_id)))
    assert stored() == []


def test_passes_over_what_stands() -> None:
    one = letter("a")
    ROWS.run(ROWS.insert(one))
    again = letter("b", message_id=one.message_id)
    assert ROWS.run(ROWS.insert(again, letter("c"), or_nothing=True)) == [1]
    assert stored() == [("a", 0), ("c", 0)]


def test_stores_only_if_an_update_touched_a_row() -> None:
    ROWS.run(ROWS.insert(letter("a", attempt=3)))
    take = Statement("UPDATE outbox_incomingmessage SET attempt = attempt - 2 WHERE type = 'a' AND attempt >= 2", [])
    assert [ROWS.run(ROWS.insert_if(take, letter(kind))) for kind in ("b", "c")] == [[1], [0]]
    assert stored() == [("a", 1), ("b", 0)]


def test_updates_the_named_fields_alone() -> None:
    one = letter("a", attempt=3)
    ROWS.run(ROWS.insert(one))
    one.subject, one.attempt = SAYING[:64], 9
    assert ROWS.run(ROWS.update(one, "subject")) == [1]
    (found,) = ROWS.select(IncomingMessage, "WHERE message_id = %s", one.message_id)
    assert (found.subject, found.attempt) == (SAYING[:64], 3)


def test_a_letter_is_the_same_both_ways() -> None:
    kind = model_of(SERVICE, "Outgoing")
    with transaction.atomic(using=SERVICE):
        now = timezone.now()
        kind.send([kind(message_id=uuid.uuid4(), type="x", to="y", data={"z": SAYING}, correlation_id="c",
                        created_at=now, due_at=now)])  # fmt: skip
    (row,) = ROWS.select(kind, "WHERE published_at IS NULL")
    assert row.letter() == kind.objects.get().letter()
