"""Rows without the query builder."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from outbox.rows import Statement
from payments.models import ROWS, Account, DeadLetter, Outgoing

pytestmark = pytest.mark.django_db

SAYING = 'Say "hi"; DROP TABLE x -- %s \\ \N{SNOWMAN}'


def account(user_id: str, **more: Any) -> Account:
    return Account(user_id=user_id, currency="USD", **more)


def test_what_is_stored_is_what_is_selected() -> None:
    now = timezone.now()
    dead = DeadLetter(
        queue="q", reason=SAYING[:60], error=SAYING, headers={"a": [1, None, SAYING]}, body=b"\0\xff", died_at=now,
        message_id=uuid.uuid4(), fingerprint="f",
    )  # fmt: skip
    assert ROWS.run(ROWS.insert(dead)) == [1]
    (found,) = ROWS.select(DeadLetter, "WHERE id = %s", dead.pk)
    by_orm = DeadLetter.objects.get()
    for field in DeadLetter._meta.concrete_fields:
        value = getattr(by_orm, field.attname)
        assert getattr(found, field.attname) == value, field.attname
        assert value == getattr(dead, field.attname), field.attname
    assert (found._state.db, found._state.adding, dead._state.adding) == ("payments", False, False)


def test_several_statements_run_in_order_in_one_round_trip(django_assert_num_queries: Any) -> None:
    ann, bob = account("ann"), account("bob")
    with django_assert_num_queries(1, using="payments"):
        touched = ROWS.run(
            ROWS.insert(ann, bob), Statement("UPDATE payments_account SET balance = balance + %s", [5]),
            Statement("DELETE FROM payments_account WHERE user_id = %s", ["bob"]),
        )  # fmt: skip
    assert touched == [2, 2, 1]
    (kept,) = ROWS.select(Account, "WHERE balance = %s", 5)
    assert kept.pk == ann.pk


def test_all_of_it_fails_together() -> None:
    with pytest.raises(IntegrityError), transaction.atomic(using="payments"):
        ROWS.run(ROWS.insert(account("ann")), ROWS.insert(account("ann")))
    assert not Account.objects.exists()


def test_passes_over_what_stands() -> None:
    ROWS.run(ROWS.insert(account("ann")))
    assert ROWS.run(ROWS.insert(account("ann"), account("bob"), or_nothing=True)) == [1]
    assert Account.objects.count() == 2


def test_stores_only_if_an_update_touched_a_row() -> None:
    ROWS.run(ROWS.insert(account("ann", balance=3)))
    take = Statement("UPDATE payments_account SET balance = balance - 2 WHERE user_id = 'ann' AND balance >= 2", [])
    assert [ROWS.run(ROWS.insert_if(take, account(name))) for name in ("bob", "cid")] == [[1], [0]]
    assert sorted(Account.objects.values_list("user_id", "balance")) == [("ann", 1), ("bob", 0)]


def test_updates_the_named_fields_alone() -> None:
    ann = account("ann", balance=3)
    ROWS.run(ROWS.insert(ann))
    ann.principal, ann.balance = SAYING[:100], 9
    assert ROWS.run(ROWS.update(ann, "principal")) == [1]
    assert Account.objects.values_list("principal", "balance").get() == (SAYING, 3)


def test_more_than_the_columns_can_be_asked() -> None:
    ROWS.run(ROWS.insert(account("ann", balance=3)))
    (found,) = ROWS.select(Account, "WHERE user_id = %s", "ann", doubled="balance * 2", letters="length(user_id)")
    assert (found.doubled, found.letters) == (6, 3)  # type: ignore[attr-defined]


def test_a_letter_is_the_same_both_ways() -> None:
    with transaction.atomic(using="payments"):
        later = timezone.now() + timedelta(days=1)
        Outgoing.send([Outgoing(message_id=uuid.uuid4(), type="x", to="y", data={"z": SAYING}, correlation_id="c",
                                created_at=later, due_at=later)])  # fmt: skip
    (row,) = ROWS.select(Outgoing, "WHERE published_at IS NULL")
    assert row.letter() == Outgoing.objects.get().letter()
