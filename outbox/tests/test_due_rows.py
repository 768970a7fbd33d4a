"""Due rows are found without walking over those that were sent."""

import json
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone

from outbox import due_rows
from outbox.due_rows import CLAIM, DueRows
from outbox.services import model_of
from outbox.tests.examples import SERVICE, Count, Echo
from outbox.tests.plans import fill_after_analyze, plans_of

Outgoing = model_of(SERVICE, "Outgoing")
ROWS = 1500


def post(number: int = 1, *, ago: timedelta = timedelta(0)) -> list[Any]:
    with transaction.atomic(using=SERVICE):
        return Outgoing.post(*(Count() for _ in range(number)), due_at=timezone.now() - ago)


def claimed(due: DueRows) -> set[Any]:
    with transaction.atomic(using=SERVICE):
        return {row.pk for row in due.claim(now=timezone.now(), limit=200)}


@pytest.mark.django_db
def test_a_row_that_appears_before_the_others_is_found_by_looking_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_rows, "EVERYWHERE", 3600)
    due = DueRows(SERVICE)
    assert claimed(due) == set()
    (late,) = post(ago=due_rows.SLOWEST / 2)
    assert claimed(due) == {late.pk}
    (very_late,) = post(ago=timedelta(minutes=1))
    assert claimed(due) == {late.pk}
    due._everywhere_at = 0
    assert claimed(due) == {very_late.pk, late.pk}


@pytest.mark.django_db
def test_what_is_due_by_the_clock_of_the_database_is_due_though_this_process_is_early() -> None:
    (row,) = post()
    early = timezone.now() - timedelta(seconds=1)
    with transaction.atomic(using=SERVICE):
        assert [one.pk for one in DueRows(SERVICE).claim(now=early, limit=200)] == [row.pk]
        assert not DueRows(SERVICE).claim(now=early, overdue=timedelta(minutes=1), limit=200)


@pytest.mark.django_db
def test_rows_of_some_types_are_found_without_changing_where_a_look_at_all_begins() -> None:
    due = DueRows(SERVICE)
    (late,) = post(ago=2 * due_rows.SLOWEST)
    with transaction.atomic(using=SERVICE):
        (reply, _) = Outgoing.post(Echo(), Count())
        Outgoing.post(Echo(), due_at=timezone.now() + timedelta(minutes=1))
        assert due.claim_of({"tests.echo"}, now=timezone.now(), limit=200) == [reply]
    due._everywhere_at = time.monotonic() + 3600
    assert late.pk in claimed(due)


@pytest.mark.django_db
def test_nothing_is_sorted_though_the_statistics_are_from_before_anything_was_due() -> None:
    fill_after_analyze(SERVICE)
    due = DueRows(SERVICE)
    due.next_due()  # it says whether the table is in partitions
    assert [plan for plan in plans_of(due) if "Sort  (" in plan or "Seq Scan" in plan] == []


@pytest.mark.django_db(transaction=True)
def test_a_long_snapshot_makes_no_look_longer(in_thread: Any) -> None:
    seen, done = threading.Event(), threading.Event()

    def report() -> None:
        with transaction.atomic(using=SERVICE), connections[SERVICE].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM outbox_outgoingmessage")
            seen.set()
            done.wait(120)

    with connections[SERVICE].cursor() as cursor:
        cursor.execute("VACUUM outbox_outgoingmessage")  # of what tests before this one have left
    post(ROWS, ago=timedelta(minutes=1))
    in_thread(report)
    assert seen.wait(120)
    try:
        Outgoing.objects.update(published_at=timezone.now())
        due = DueRows(SERVICE)
        (row,) = post()
        assert claimed(due) == {row.pk}
        assert pages_read(due._begin) * 4 < pages_read(due_rows.BEGINNING)
    finally:
        done.set()


def pages_read(begin: Any) -> int:
    """How many pages a claim looks at that begins here."""
    with transaction.atomic(using=SERVICE), connections[SERVICE].cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        parameters: list[Any] = [begin, timezone.now(), timedelta(0), 200]
        cursor.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM outbox_outgoingmessage {CLAIM}", parameters
        )
        ((plan,),) = cursor.fetchall()
    top = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
