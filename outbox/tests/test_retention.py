"""What is deleted, and what is kept as long as a copy of a message could arrive."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.apps import apps
from django.conf import settings
from django.db import connections, transaction
from django.utils import timezone

from outbox import retention
from outbox.ids import uuid7
from outbox.retention import purge
from outbox.services import model_of
from outbox.tests.examples import SERVICE, Count

Outgoing, Incoming, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "Incoming", "DeadLetter"))
LONG_AGO = settings.INBOX_RETENTION + timedelta(hours=1)


def handled(*, ago: timedelta = LONG_AGO, subject: str = "") -> Any:
    """The inbox row of a message that was handled then."""
    then = timezone.now() - ago
    return Incoming.objects.create(
        message_id=uuid7(then), type="tests.count", subject=subject, received_at=then, handled_at=then
    )


def sent(*, ago: timedelta = LONG_AGO, published: bool = True, message_id: Any = None) -> Any:
    """A row that was posted then."""
    with time_machine.travel(timezone.now() - ago, tick=False), transaction.atomic(using=SERVICE):
        (row,) = Outgoing.post(Count())
        row.published_at = timezone.now() if published else None
        row.message_id = message_id or row.message_id
        row.save()
    return row


def dead_letter(*, message_id: Any = None, status: str = "dead", ago: timedelta = LONG_AGO) -> Any:
    then = timezone.now() - ago
    return DeadLetter.objects.create(
        id=uuid7(then), origin="consumer", queue=SERVICE, message_id=message_id, type="tests.count", reason="failed",
        fingerprint="f", body=b"", died_at=then, status=status, resolved_at=None if status == "dead" else then,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SECONDS", 600)


def purged() -> dict[str, int]:
    retention._progress.clear()
    return {kind: number for kind, number in purge(SERVICE, now=timezone.now()).items() if number}


@pytest.mark.django_db
class TestOutgoingRows:
    def test_go_when_they_were_published_long_ago(self) -> None:
        sent()
        kept = [sent(ago=timedelta(days=6)), sent(published=False)]
        assert purged() == {"published": 1}
        assert set(Outgoing.objects.all()) == set(kept)

    def test_stay_if_they_waited_long_and_went_lately(self) -> None:
        row = sent()
        Outgoing.objects.update(published_at=timezone.now())
        assert purged() == {}
        assert Outgoing.objects.get() == row


@pytest.mark.django_db
class TestInboxRows:
    def test_go_when_no_copy_can_come(self) -> None:
        handled()
        kept = handled(ago=settings.INBOX_RETENTION - timedelta(minutes=1))
        assert purged() == {"handled": 1}
        assert Incoming.objects.get() == kept

    @pytest.mark.parametrize("status", ["dead", "replayed"])
    def test_stay_while_a_dead_letter_could_bring_one(self, status: str) -> None:
        key = handled()
        dead_letter(message_id=key.pk, status=status, ago=timedelta(days=1))
        assert purged() == {}

    def test_stay_while_a_row_is_still_to_be_sent(self) -> None:
        key = handled()
        row = sent(published=False, message_id=key.pk)
        assert purged() == {}
        row.published_at = timezone.now() - LONG_AGO
        row.save()
        assert purged() == {"published": 1, "handled": 1}

    def test_stay_while_a_payment_is_under_way(self) -> None:
        payments = apps.get_model(SERVICE, "Payment")
        key = handled(subject="o-1")
        handled(subject="o-2")
        payments.objects.create(order_id="o-1", status="pending", currency="USD")
        payments.objects.create(order_id="o-2", status="succeeded", currency="USD")
        assert purged() == {"handled": 1}
        assert Incoming.objects.get() == key

    @pytest.mark.parametrize("service", settings.SERVICES)
    def test_of_every_service_can_be_purged(self, service: str) -> None:
        assert purge(service, now=timezone.now()) == dict.fromkeys(retention.KINDS, 0)

    def test_outlive_what_the_consumer_would_take(self) -> None:
        assert settings.DEDUPE_HORIZON < settings.INBOX_RETENTION


@pytest.mark.django_db
class TestDeadLetters:
    def test_go_when_they_were_resolved_long_ago(self) -> None:
        dead_letter(status="replayed")
        dead_letter(status="discarded")
        kept = [dead_letter(), dead_letter(status="discarded", ago=timedelta(days=1))]
        assert purged() == {"resolved": 2}
        assert set(DeadLetter.objects.all()) == set(kept)

    def test_never_leave_a_key_behind_that_could_be_missed(self) -> None:
        key = handled()
        dead_letter(message_id=key.pk, status="replayed")
        assert purged() == {"resolved": 1}  # the inbox row goes after the dead letter, never before
        assert purged() == {"handled": 1}


@pytest.mark.django_db(transaction=True)
class TestABatch:
    def test_is_small_and_the_next_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "BATCH", 3)
        for _ in range(4):
            sent(published=False)
        for _ in range(10):
            sent()
        sizes: list[int] = []

        def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            result = execute(sql, params, many, context)
            if sql.startswith("DELETE"):
                sizes.append(context["cursor"].rowcount)
            return result

        with connections[SERVICE].execute_wrapper(watch):
            assert purged() == {"published": 10}
        assert sizes == [3, 3, 3, 1]

    def test_goes_on_where_the_last_call_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "BATCH", 3)
        monkeypatch.setattr(retention, "SECONDS", 0)
        retention._progress.clear()
        for _ in range(7):
            sent()
        assert [purge(SERVICE, now=timezone.now())["published"] for _ in range(4)] == [3, 3, 1, 0]
        stays = retention._progress[SERVICE, "published"].last
        sent(ago=2 * LONG_AGO)  # before what was deleted: as a row that had to stay then
        assert purge(SERVICE, now=timezone.now())["published"] == 0
        assert retention._progress[SERVICE, "published"].last == stays
        monkeypatch.setattr(retention._progress[SERVICE, "published"], "until", 0.0)
        assert purge(SERVICE, now=timezone.now())["published"] == 1

    def test_follows_the_next_as_long_as_there_is_a_backlog(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "BATCH", 1)
        for _ in range(30):
            sent()
            handled()
        assert purged() == {"published": 30, "handled": 30}

    def test_waits_for_nobody(self, in_thread: Any) -> None:
        sent()
        held = sent()
        locked, done = threading.Event(), threading.Event()

        def hold() -> None:
            with transaction.atomic(using=SERVICE):
                Outgoing.objects.select_for_update().get(pk=held.pk)
                locked.set()
                done.wait(120)

        in_thread(hold)
        assert locked.wait(120)
        assert purged() == {"published": 1}
        done.set()
