"""What was sent and has not arrived is found, and sent again; nothing else is."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from outbox import dead_letters, lost
from outbox.due_rows import BEGINNING
from outbox.envelope import Envelope
from outbox.models import DeadLetter as AnyDeadLetter
from outbox.services import model_of
from outbox.tests.examples import SERVICE, Count

Outgoing, Incoming, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "Incoming", "DeadLetter"))
LONG_AGO = timedelta(hours=1)

pytestmark = pytest.mark.django_db


def sent(*, ago: timedelta = LONG_AGO, then: str = "") -> Any:
    """The row of a message that the broker has confirmed then."""
    with time_machine.travel(timezone.now() - ago, tick=False), transaction.atomic(using=SERVICE):
        (row,) = Outgoing.post(Count(then=then))
        row.published_at = timezone.now()
        row.save()
    return row


def sent_again(row: Any, *, attempt: int, ago: timedelta | None = LONG_AGO, data: dict[str, Any] | None = None) -> Any:
    """The row of a later copy of it; not yet published without an age."""
    with transaction.atomic(using=SERVICE):
        copy = Outgoing.post_again(row.envelope(), attempt=attempt, due_at=timezone.now())
        copy.published_at = ago and timezone.now() - ago
        copy.data |= data or {}
        copy.save()
    return copy


def died(row: Any, *, status: str) -> Any:
    now = timezone.now()
    return DeadLetter.objects.create(
        origin="consumer", queue=SERVICE, message_id=row.message_id, type=row.type, reason="failed", fingerprint="f",
        body=row.envelope().encode(), died_at=now, status=status, resolved_at=None if status == "dead" else now,
    )  # fmt: skip


def found(*, since: datetime = BEGINNING, grace: timedelta = timedelta(minutes=1)) -> list[tuple[UUID, UUID]]:
    messages = lost.find([SERVICE], [SERVICE], since=since, until=timezone.now() - grace)
    return [(one.message_id, one.row_id) for one in messages]


class TestWhatIsLost:
    def test_is_what_was_sent_and_not_handled(self, hand_over: Callable[..., None], counted: Callable[[], Any]) -> None:
        row, handled = sent(), sent()
        hand_over(handled.envelope())
        assert found() == [(row.message_id, row.pk)]

    def test_is_not_what_was_sent_just_now_or_waits_to_be_sent(self) -> None:
        sent(ago=timedelta(seconds=10))
        with transaction.atomic(using=SERVICE):
            Outgoing.post(Count())
        assert found() == []
        assert len(found(grace=timedelta(0))) == 1

    def test_is_not_what_was_sent_before_the_time_in_question(self) -> None:
        sent()
        assert found(since=timezone.now() - LONG_AGO / 2) == []

    @pytest.mark.parametrize(("status", "is_lost"), [("dead", False), ("discarded", False), ("replayed", True)])
    def test_is_not_a_dead_letter_unless_its_replay_is_lost(self, status: str, is_lost: bool) -> None:
        row = sent()
        died(row, status=status)
        assert bool(found()) is is_lost

    def test_is_the_last_copy_of_what_was_tried_again(self) -> None:
        row = sent()
        sent_again(row, attempt=1)
        last = sent_again(row, attempt=2, data={"then": "corrected"})
        assert found() == [(row.message_id, last.pk)]

    @pytest.mark.parametrize("attempt", [0, 1])
    def test_is_nothing_that_waits_to_be_tried_again(self, attempt: int) -> None:
        sent_again(sent(), attempt=attempt, ago=None)
        assert found() == []

    def test_is_nothing_whose_last_copy_was_sent_just_now(self) -> None:
        sent_again(sent(), attempt=1, ago=timedelta(seconds=1))
        assert found() == []

    def test_is_found_page_by_page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lost, "PAGE", 2)
        rows = [sent() for _ in range(5)]
        copy = sent_again(rows[0], attempt=1)
        assert dict(found()) == {row.message_id: row.pk for row in rows[1:]} | {rows[0].message_id: copy.pk}


class TestSendingAgain:
    def test_is_of_the_same_message_and_changes_nothing_in_its_envelope(self) -> None:
        row = sent()
        before = row.envelope()
        assert lost.send_again(SERVICE, [row.pk]) == 1
        row.refresh_from_db()
        assert row.published_at is None
        assert row.due_at > timezone.now() - timedelta(minutes=1)
        now = row.envelope()
        assert (now.id, now.data, now.time, now.attempt) == (before.id, before.data, before.time, before.attempt)
        assert now.sent_at == before.sent_at

    def test_is_done_once(self) -> None:
        rows = [sent().pk, sent().pk]
        assert lost.send_again(SERVICE, rows) == 2
        assert lost.send_again(SERVICE, rows) == 0

    def test_has_its_effect_once_if_the_message_turns_up_after_all(
        self, hand_over: Callable[..., None], counted: Callable[[], list[str]]
    ) -> None:
        row = sent()
        on_its_way: Envelope = row.envelope()
        lost.send_again(SERVICE, [row.pk])
        row.refresh_from_db()
        hand_over(row.envelope())
        hand_over(on_its_way)
        assert counted() == [str(row.message_id)]


class TestTheCommand:
    def run(self, capsys: Any, *arguments: str) -> str:
        call_command("resend", *arguments)
        return str(capsys.readouterr().out)

    def test_sends_what_is_lost(self, capsys: Any) -> None:
        row = sent()
        assert (
            self.run(capsys, "--dry-run") == f"       1  {SERVICE} to {SERVICE}: tests.count\n1 would be sent again\n"
        )
        row.refresh_from_db()
        assert row.published_at is not None
        assert self.run(capsys).endswith("1 will be sent again\n")
        row.refresh_from_db()
        assert row.published_at is None
        assert self.run(capsys) == "Nothing is lost.\n"

    def test_writes_json(self, capsys: Any) -> None:
        sent()
        assert json.loads(self.run(capsys, "--json", "--to", SERVICE)) == {
            "dry_run": False,
            "messages": 1,
            "of": [{"from": SERVICE, "to": SERVICE, "type": "tests.count", "messages": 1}],
        }

    def test_takes_the_service_that_is_named(self, capsys: Any) -> None:
        sent()
        assert self.run(capsys, "--to", "orders") == "Nothing is lost.\n"

    def test_finds_a_replay_that_the_broker_has_lost(self, capsys: Any) -> None:
        dead: AnyDeadLetter = died(sent(ago=timedelta(days=1)), status="dead")
        dead_letters.replay(dead, by="olga", now=timezone.now() - LONG_AGO)
        copy = Outgoing.objects.get(published_at=None)
        Outgoing.objects.filter(pk=copy.pk).update(published_at=timezone.now() - LONG_AGO)
        assert self.run(capsys).endswith("1 will be sent again\n")
        assert Outgoing.objects.get(published_at=None) == copy

    def test_sends_events_only_if_asked_to(self, capsys: Any) -> None:
        event = sent()
        Outgoing.objects.filter(pk=event.pk).update(to="events")
        assert self.run(capsys) == "Nothing is lost.\n"
        since = (timezone.now() - 2 * LONG_AGO).isoformat()
        assert self.run(capsys, "--events", "--since", since).endswith("1 will be sent again\n")

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            (["--events"], "--since TIME"),
            (["--since", "2020-01-01"], "OUTBOX_RETENTION_DAYS"),
            (["--since", "2999-01-01"], "in the future"),
            (["--since", "yesterday"], "is no date and no time"),
            (["--since", "2026-11-01T12:00"], "has no time zone"),
            (["--grace", "1 hour"], "is not a duration"),
            (["--to", "events"], "invalid choice"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, arguments: list[str], why: str) -> None:
        with pytest.raises(CommandError, match=why):
            call_command("resend", *arguments)
