"""Found, shown, replayed, discarded: what an operator can do with dead letters."""

import json
import threading
import time
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from outbox import dead_letters
from outbox.attempts import LAST_ATTEMPT
from outbox.consumers import Undeliverable, model_of
from outbox.dead_letters import NotReplayable, Outcome, Resolved, Selection
from outbox.message import Letter
from outbox.models import DeadLetterAction
from outbox.preview import Change, NoPreview, preview
from outbox.tests.stage import ASKED, BEHAVIOURS, SERVICE, Count, CountAfter

Outgoing, Incoming, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "Incoming", "DeadLetter"))


@pytest.fixture
def healed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the handler that failed work."""

    def heal() -> None:
        monkeypatch.setitem(BEHAVIOURS, "fail", lambda message: None)

    return heal


@pytest.fixture
def die(posted: Any, hand_over: Any, counted: Any) -> Any:
    """Let a letter about this order die."""

    def dead(order_id: str = "o-1", then: str = "fail") -> Any:
        letter = posted(Count(order_id=order_id, then=then))
        hand_over(letter.envelope() | {"attempt": LAST_ATTEMPT})
        return DeadLetter.objects.get(message_id=letter.id)

    return dead


def replay(letter: Any, **options: Any) -> Letter:
    """Replay, and take the letter from the outbox as a relay would."""
    dead_letters.replay(letter=letter, by="eve", now=timezone.now(), **options)
    row = Outgoing.objects.get()
    row.delete()
    return row.letter()


@pytest.mark.django_db
class TestReplaying:
    def test_begins_another_life_of_the_same_message(self, die: Any, hand_over: Any, counted: Any, healed: Any) -> None:
        dead = die()
        letter = replay(dead)
        assert (letter.id, letter.attempt, letter.data) == (
            str(dead.message_id),
            LAST_ATTEMPT + 1,
            dead.letter().data,
        )
        assert (dead.status, dead_letters.outcome(dead)) == ("replayed", Outcome.WAITING)
        healed()
        hand_over(letter, times=2)
        assert counted() == [letter.id]
        assert dead_letters.outcome(dead) is Outcome.HANDLED

    def test_gives_as_many_attempts_as_a_new_letter_has(self, die: Any, hand_over: Any) -> None:
        dead = die()
        letter = replay(dead)
        for _ in range(LAST_ATTEMPT):
            hand_over(letter)
            row = Outgoing.objects.get()
            row.delete()
            letter = row.letter()
        hand_over(letter)
        again = DeadLetter.objects.get(status="dead")
        assert (again.pk != dead.pk, again.attempts, again.replays) == (True, 6, 1)
        assert again.fingerprint == dead.fingerprint
        assert dead_letters.outcome(dead) is Outcome.DIED
        assert dead_letters.died_again(dead) == again

    def test_twice_has_one_effect(self, die: Any) -> None:
        dead = die()
        replay(dead)
        with pytest.raises(Resolved, match="replayed already"):
            dead_letters.replay(letter=dead, by="eve", now=timezone.now())
        assert not Outgoing.objects.exists()

    def test_of_what_was_handled_meanwhile_does_nothing(
        self, die: Any, posted: Any, hand_over: Any, counted: Any, healed: Any
    ) -> None:
        dead = die()
        healed()
        hand_over(dead.letter())
        hand_over(replay(dead))
        assert counted() == [str(dead.message_id)]

    def test_of_no_letter_is_refused(self, hand_over: Any) -> None:
        hand_over({"id": 7})
        dead = DeadLetter.objects.get()
        with pytest.raises(NotReplayable, match="The letter lacks"):
            dead_letters.replay(letter=dead, by="eve", now=timezone.now())
        dead.refresh_from_db()
        assert (dead.status, dead_letters.is_replayable(dead)) == ("dead", False)

    def test_of_what_the_relay_gave_up_goes_where_it_was_going(self) -> None:
        letter = Letter(
            id=str(uuid4()), source="/payments", type="order.paid", subject="o-1", time=timezone.now().isoformat(),
            schemaversion=1, correlationid="c", data={"order_id": "o-1"},
        )  # fmt: skip
        dead = DeadLetter(
            origin="relay", queue="events", message_id=letter.id, type=letter.type, subject="o-1",
            reason="unpublishable", fingerprint="f", body=letter.body(), died_at=timezone.now(),
        )  # fmt: skip
        dead.bury()
        dead = DeadLetter.objects.get()
        dead_letters.replay(letter=dead, by="eve", now=timezone.now())
        row = Outgoing.objects.get()
        assert (row.to, row.type, row.data) == ("events", "order.paid", {"order_id": "o-1"})
        assert dead_letters.outcome(dead) is Outcome.WAITING
        Outgoing.objects.update(published_at=timezone.now())
        assert dead_letters.outcome(dead) is Outcome.HANDLED


@pytest.mark.django_db
class TestEveryAction:
    def test_is_recorded(self, die: Any) -> None:
        dead, other = die("o-1"), die("o-2")
        replay(dead)
        dead_letters.discard(letter=other, by="bob", now=timezone.now(), why="a test")
        assert list(dead_letters.actions(dead).values_list("verb", "by", "detail")) == [
            ("replay", "eve", {"attempt": 6, "canary": False})
        ]
        assert list(dead_letters.actions(other).values_list("verb", "by", "detail")) == [
            ("discard", "bob", {"why": "a test"})
        ]
        with pytest.raises(Resolved, match="discarded already"):
            dead_letters.discard(letter=other, by="bob", now=timezone.now())

    def test_stays_recorded(self, die: Any) -> None:
        replay(die())
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(using=SERVICE):
            DeadLetterAction.objects.using(SERVICE).update(by="nobody")


@pytest.mark.django_db
class TestGroups:
    def test_are_by_failure(self, die: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(message: Count) -> None:
            raise Undeliverable("out_of_turn", "Not now.")

        monkeypatch.setitem(BEHAVIOURS, "refuse", refuse)
        for number in range(3):
            die(f"o-{number}")
        die("o-4", then="refuse")
        found = dead_letters.groups([SERVICE], Selection(), now=timezone.now())
        assert [(group.letters, group.type, group.reason) for group in found] == [
            (3, "tests.count", "failed"),
            (1, "tests.count", "out_of_turn"),
        ]

    def test_are_filtered(self, die: Any) -> None:
        old, new = die("o-1"), die("o-2")
        DeadLetter.objects.filter(pk=old.pk).update(died_at=timezone.now() - timedelta(hours=2))
        hour = timedelta(hours=1)

        def found(**filters: Any) -> list[Any]:
            return list(Selection(**filters).of(SERVICE, now=timezone.now()))

        assert found() == [old, new]
        assert found(older_than=hour) == [old]
        assert found(younger_than=hour) == [new]
        assert found(subject="o-2") == [new]
        assert found(ids=[old.pk], subject="o-2") == []
        assert found(fingerprint=old.fingerprint, type="tests.count", reason="failed") == [old, new]
        assert found(status="replayed") == []


@pytest.mark.django_db(transaction=True)
class TestAPreview:
    def test_shows_rows_and_messages_and_leaves_none(
        self, die: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with connections[SERVICE].cursor() as cursor:
            cursor.execute("CREATE TABLE shelf (id int PRIMARY KEY, holds text)")
            cursor.execute("INSERT INTO shelf VALUES (1, 'lamp'), (2, 'chair'), (3, 'rug')")

        def rearrange(message: Count) -> None:
            BEHAVIOURS["echo"](message)
            with transaction.atomic(using=SERVICE), connections[SERVICE].cursor() as cursor:
                cursor.execute("SELECT * FROM shelf WHERE id = 3 FOR UPDATE")
                cursor.execute("UPDATE shelf SET holds = 'table' WHERE id = 1")
                cursor.execute("INSERT INTO shelf VALUES (4, 'bed')")
            with connections[SERVICE].cursor() as cursor:
                cursor.execute("DELETE FROM shelf WHERE id = 2")

        dead = die()
        monkeypatch.setitem(BEHAVIOURS, "fail", rearrange)
        try:
            shown = preview(dead)
            assert sorted((c for c in shown.changes if c.table == "shelf"), key=str) == sorted(
                [
                    Change("shelf", {"id": 1, "holds": "lamp"}, {"id": 1, "holds": "table"}),
                    Change("shelf", None, {"id": 4, "holds": "bed"}),
                    Change("shelf", {"id": 2, "holds": "chair"}, None),
                ],
                key=str,
            )
            assert [change.after["message_id"] for change in shown.changes if change.table == "counted"] == [  # type: ignore[index]
                str(dead.message_id)
            ]
            assert [(said["type"], said["to"], said["data"]) for said in shown.messages] == [
                ("tests.echo", SERVICE, {"order_id": "o-1"})
            ]
            assert (shown.error, shown.same_failure, shown.notes) == ("", False, [])
            with connections[SERVICE].cursor() as cursor:
                cursor.execute("SELECT holds FROM shelf ORDER BY id")
                assert [name for (name,) in cursor.fetchall()] == ["lamp", "chair", "rug"]
        finally:
            with connections[SERVICE].cursor() as cursor:
                cursor.execute("DROP TABLE shelf")
        assert (counted(), Outgoing.objects.count(), Incoming.objects.count()) == ([], 0, 0)

    def test_is_not_confused_by_what_others_commit(
        self, die: Any, in_thread: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def meanwhile(message: Count) -> None:
            def other() -> None:
                with connections[SERVICE].cursor() as cursor:
                    cursor.execute("INSERT INTO counted (message_id) VALUES (gen_random_uuid())")

            in_thread(other).join()

        dead = die()
        monkeypatch.setitem(BEHAVIOURS, "fail", meanwhile)
        assert [change.after["message_id"] for change in preview(dead).changes] == [str(dead.message_id)]  # type: ignore[index]

    def test_shows_that_it_would_fail_again(self, die: Any) -> None:
        shown = preview(die())
        assert (shown.error, shown.same_failure) == ("RuntimeError: told to fail: o-1", True)
        assert "stage.py" in shown.traceback
        assert (shown.changes, shown.messages) == ([], [])

    def test_says_that_it_was_handled(self, die: Any, hand_over: Any, healed: Any) -> None:
        dead = die()
        healed()
        hand_over(dead.letter())
        shown = preview(dead)
        assert shown.notes == ["It has had its effect before: a replay does nothing."]
        assert shown.changes == []

    def test_asks_no_foreign_service(self, posted: Any, counted: Any) -> None:
        ASKED.clear()
        letter = posted(CountAfter(order_id="o-1"))
        DeadLetter(
            origin="consumer", queue=SERVICE, message_id=letter.id, type=letter.type, reason="failed", fingerprint="f",
            body=letter.body(), died_at=timezone.now(),
        ).bury()  # fmt: skip
        shown = preview(DeadLetter.objects.get())
        assert ASKED == []
        assert "not asked" in shown.notes[0]
        assert [change.table for change in shown.changes] == ["counted"]

    def test_of_what_cannot_run_is_refused(self, hand_over: Any) -> None:
        hand_over({"id": 7})
        with pytest.raises(NoPreview, match="It can't be read"):
            preview(DeadLetter.objects.get())


def dlq(*arguments: str) -> str:
    out, err = StringIO(), StringIO()
    call_command("dlq", *arguments, stdout=out, stderr=err)
    return out.getvalue()


@pytest.mark.django_db(transaction=True)
class TestTheCanary:
    @pytest.fixture
    def carrier(self, hand_over: Any, in_thread: Any, counted: Any) -> Any:
        """Delivers what is posted, as a relay and a worker do."""
        stop = threading.Event()

        def carry() -> None:
            while not stop.wait(0.02):
                for row in Outgoing.objects.filter(published_at=None, due_at__lte=timezone.now()):
                    hand_over(row.letter())
                    Outgoing.objects.filter(pk=row.pk).update(published_at=timezone.now())

        in_thread(carry)
        yield
        stop.set()

    def test_that_dies_of_the_same_stops_the_rest(self, die: Any, carrier: Any) -> None:
        for number in range(4):
            die(f"o-{number}")
        with pytest.raises(CommandError, match="It died again, of the same: RuntimeError") as stopped:
            dlq("replay", "--all", "--canary", "2")
        assert stopped.value.returncode == 3
        assert Outgoing.objects.count() == 1  # the canary, which is not tried again before it tells
        assert DeadLetter.objects.filter(status="replayed").count() == 1
        assert DeadLetter.objects.filter(status="dead").count() == 4

    def test_that_lives_lets_the_rest_follow(self, die: Any, carrier: Any, counted: Any, healed: Any) -> None:
        for number in range(4):
            die(f"o-{number}")
        healed()
        assert json.loads(dlq("replay", "--all", "--canary", "2", "--json")) == {"replayed": 4, "refused": {}}
        deadline = time.monotonic() + 120
        while len(counted()) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(counted()) == len(set(counted())) == 4

    def test_without_an_answer_stops_the_rest(self, die: Any) -> None:
        die("o-1")
        die("o-2")
        with pytest.raises(CommandError, match="no answer in time"):
            dlq("replay", "--all", "--canary", "1", "--patience", "1s")
        assert DeadLetter.objects.filter(status="dead").count() == 1


@pytest.mark.django_db
class TestTheCommand:
    def test_lists_groups_and_letters(self, die: Any) -> None:
        assert dlq("list") == "no dead letters\n"
        dead = die()
        assert dead.fingerprint in dlq("list")
        (group,) = json.loads(dlq("list", "--json", "--service", SERVICE, "--type", "tests.count"))
        assert (group["letters"], group["fingerprint"], group["service"]) == (1, dead.fingerprint, SERVICE)
        (line,) = json.loads(dlq("list", "--each", "--json", "--order", "o-1"))
        assert (line["id"], line["subject"], line["service"]) == (str(dead.pk), "o-1", SERVICE)
        assert str(dead.pk) in dlq("list", "--each")
        assert json.loads(dlq("list", "--json", "--older-than", "1h")) == []

    def test_shows_the_whole_story(self, die: Any) -> None:
        dead = die()
        replay(dead)
        story = json.loads(dlq("show", str(dead.pk), "--json"))
        assert json.loads(story["body"])["id"] == str(dead.message_id)
        assert "stage.py" in story["traceback"]
        assert [action["by"] for action in story["actions"]] == ["eve"]
        assert "told to fail" in dlq("show", str(dead.pk))

    def test_previews(self, die: Any) -> None:
        dead = die()
        assert "the same failure again" in dlq("preview", str(dead.pk))
        assert json.loads(dlq("preview", str(dead.pk), "--json"))["same_failure"] is True

    def test_replays_by_filter_and_rate(self, die: Any) -> None:
        letters = [die(f"o-{number}") for number in range(3)]
        assert "would be replayed" in dlq("replay", "--fingerprint", letters[0].fingerprint, "--dry-run")
        assert not Outgoing.objects.exists()
        began = time.monotonic()
        assert dlq("replay", "--all", "--limit", "2", "--rate", "10") == "2 replayed, 0 refused\n"
        assert time.monotonic() - began >= 0.2
        assert [dead.status for dead in DeadLetter.objects.order_by("died_at")] == ["replayed", "replayed", "dead"]
        assert set(DeadLetterAction.objects.using(SERVICE).values_list("verb", flat=True)) == {"replay"}

    def test_discards_with_a_reason(self, die: Any) -> None:
        dead = die()
        assert dlq("discard", str(dead.pk), "--why", "noise", "--by", "bob") == "1 discarded, 0 refused\n"
        (action,) = dead_letters.actions(dead)
        assert (action.verb, action.by, action.detail) == ("discard", "bob", {"why": "noise"})

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["replay"], 1),
            (["discard"], 1),
            (["replay", "--all"], 4),
            (["show", str(uuid4())], 4),
            (["preview", str(uuid4())], 4),
        ],
    )
    def test_says_by_its_exit_code_why_it_did_nothing(self, arguments: list[str], code: int) -> None:
        with pytest.raises(CommandError) as refusal:
            dlq(*arguments)
        assert refusal.value.returncode == code

    def test_says_so_if_some_were_refused(self, die: Any, hand_over: Any) -> None:
        hand_over({"id": 7})
        die()
        with pytest.raises(SystemExit) as end:
            dlq("replay", "--all")
        assert end.value.code == 1
        assert Outgoing.objects.count() == 1
