"""An operator finds, shows, previews, replays and discards dead letters."""

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
from outbox.dead_letters import AlreadyResolved, NotReplayable, Outcome, Selection
from outbox.envelope import Envelope
from outbox.errors import Undeliverable
from outbox.models import DeadLetterAction
from outbox.preview import Change, NoPreview, preview
from outbox.services import model_of
from outbox.tests.examples import BEHAVIORS, CALLS, SERVICE, Count, CountAfter

Outgoing, Incoming, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "Incoming", "DeadLetter"))


@pytest.fixture
def repaired(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the handler that failed work from now on."""

    def repair() -> None:
        monkeypatch.setitem(BEHAVIORS, "fail", lambda message: None)

    return repair


@pytest.fixture
def make_dead(posted: Any, hand_over: Any, counted: Any) -> Any:
    """Make a dead letter about this order."""

    def dead(order_id: str = "o-1", then: str = "fail") -> Any:
        envelope = posted(Count(order_id=order_id, then=then))
        hand_over(envelope.as_dict() | {"attempt": LAST_ATTEMPT})
        return DeadLetter.objects.get(message_id=envelope.id)

    return dead


def replay(dead: Any, **options: Any) -> Envelope:
    """Replay, and take the envelope from the outbox as a relay would."""
    dead_letters.replay(dead, by="eve", now=timezone.now(), **options)
    row = Outgoing.objects.get()
    row.delete()
    return row.envelope()


@pytest.mark.django_db
class TestReplaying:
    def test_begins_another_life_of_the_same_message(
        self, make_dead: Any, hand_over: Any, counted: Any, repaired: Any
    ) -> None:
        dead = make_dead()
        envelope = replay(dead)
        assert (envelope.id, envelope.attempt, envelope.data) == (
            str(dead.message_id),
            LAST_ATTEMPT + 1,
            dead.envelope().data,
        )
        assert (dead.status, dead_letters.outcome(dead)) == ("replayed", Outcome.WAITING)
        repaired()
        hand_over(envelope, times=2)
        assert counted() == [envelope.id]
        assert dead_letters.outcome(dead) is Outcome.HANDLED

    def test_gives_as_many_attempts_as_a_new_letter_has(self, make_dead: Any, hand_over: Any) -> None:
        dead = make_dead()
        envelope = replay(dead)
        for _ in range(LAST_ATTEMPT):
            hand_over(envelope)
            row = Outgoing.objects.get()
            row.delete()
            envelope = row.envelope()
        hand_over(envelope)
        again = DeadLetter.objects.get(status="dead")
        assert (again.pk != dead.pk, again.attempts, again.replays) == (True, 6, 1)
        assert again.fingerprint == dead.fingerprint
        assert dead_letters.outcome(dead) is Outcome.DIED
        assert dead_letters.died_again(dead) == again

    def test_twice_has_one_effect(self, make_dead: Any) -> None:
        dead = make_dead()
        replay(dead)
        with pytest.raises(AlreadyResolved, match="replayed already"):
            dead_letters.replay(dead, by="eve", now=timezone.now())
        assert not Outgoing.objects.exists()

    def test_of_what_was_handled_meanwhile_does_nothing(
        self, make_dead: Any, posted: Any, hand_over: Any, counted: Any, repaired: Any
    ) -> None:
        dead = make_dead()
        repaired()
        hand_over(dead.envelope())
        hand_over(replay(dead))
        assert counted() == [str(dead.message_id)]

    def test_of_no_letter_is_refused(self, hand_over: Any) -> None:
        hand_over({"id": 7})
        dead = DeadLetter.objects.get()
        with pytest.raises(NotReplayable, match="The envelope lacks"):
            dead_letters.replay(dead, by="eve", now=timezone.now())
        dead.refresh_from_db()
        assert (dead.status, dead_letters.is_replayable(dead)) == ("dead", False)

    def test_of_what_the_relay_gave_up_goes_where_it_was_going(self) -> None:
        envelope = Envelope(
            id=str(uuid4()), source="/payments", type="order.paid", subject="o-1", time=timezone.now().isoformat(),
            schemaversion=1, correlationid="c", data={"order_id": "o-1"},
        )  # fmt: skip
        dead = DeadLetter.of(envelope, reason="unpublishable", origin="relay", queue="events", body=envelope.encode())
        dead.record()
        dead = DeadLetter.objects.get()
        dead_letters.replay(dead, by="eve", now=timezone.now())
        row = Outgoing.objects.get()
        assert (row.to, row.type, row.data) == ("events", "order.paid", {"order_id": "o-1"})
        assert dead_letters.outcome(dead) is Outcome.WAITING
        Outgoing.objects.update(published_at=timezone.now())
        assert dead_letters.outcome(dead) is Outcome.HANDLED


@pytest.mark.django_db
class TestEveryAction:
    def test_is_recorded(self, make_dead: Any) -> None:
        dead, other = make_dead("o-1"), make_dead("o-2")
        replay(dead)
        dead_letters.discard(other, by="bob", now=timezone.now(), why="a test")
        assert list(dead_letters.actions(dead).values_list("verb", "by", "detail")) == [
            ("replay", "eve", {"attempt": 6, "canary": False})
        ]
        assert list(dead_letters.actions(other).values_list("verb", "by", "detail")) == [
            ("discard", "bob", {"why": "a test"})
        ]
        with pytest.raises(AlreadyResolved, match="discarded already"):
            dead_letters.discard(other, by="bob", now=timezone.now(), why="again")

    def test_stays_recorded(self, make_dead: Any) -> None:
        replay(make_dead())
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(using=SERVICE):
            DeadLetterAction.objects.using(SERVICE).update(by="nobody")


@pytest.mark.django_db
class TestGroups:
    def test_are_by_failure(self, make_dead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(message: Count) -> None:
            raise Undeliverable("out_of_turn", "Not now.")

        monkeypatch.setitem(BEHAVIORS, "refuse", refuse)
        for number in range(3):
            make_dead(f"o-{number}")
        make_dead("o-4", then="refuse")
        found = dead_letters.groups([SERVICE], Selection(), now=timezone.now())
        assert [(group.dead_letters, group.type, group.reason) for group in found] == [
            (3, "tests.count", "failed"),
            (1, "tests.count", "out_of_turn"),
        ]

    def test_are_filtered(self, make_dead: Any) -> None:
        old, new = make_dead("o-1"), make_dead("o-2")
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
        self, make_dead: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with connections[SERVICE].cursor() as cursor:
            cursor.execute("CREATE TABLE shelf (id int PRIMARY KEY, holds text)")
            cursor.execute("INSERT INTO shelf VALUES (1, 'lamp'), (2, 'chair'), (3, 'rug')")

        def rearrange(message: Count) -> None:
            BEHAVIORS["echo"](message)
            with transaction.atomic(using=SERVICE), connections[SERVICE].cursor() as cursor:
                cursor.execute("SELECT * FROM shelf WHERE id = 3 FOR UPDATE")
                cursor.execute("UPDATE shelf SET holds = 'table' WHERE id = 1")
                cursor.execute("INSERT INTO shelf VALUES (4, 'bed')")
            with connections[SERVICE].cursor() as cursor:
                cursor.execute("DELETE FROM shelf WHERE id = 2")

        dead = make_dead()
        monkeypatch.setitem(BEHAVIORS, "fail", rearrange)
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
            assert [(row["type"], row["to"], row["data"]) for row in shown.messages] == [
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
        self, make_dead: Any, in_thread: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def meanwhile(message: Count) -> None:
            def other() -> None:
                with connections[SERVICE].cursor() as cursor:
                    cursor.execute("INSERT INTO counted (message_id) VALUES (gen_random_uuid())")

            in_thread(other).join()

        dead = make_dead()
        monkeypatch.setitem(BEHAVIORS, "fail", meanwhile)
        assert [change.after["message_id"] for change in preview(dead).changes] == [str(dead.message_id)]  # type: ignore[index]

    def test_shows_that_it_would_fail_again(self, make_dead: Any) -> None:
        shown = preview(make_dead())
        assert (shown.error, shown.same_failure) == ("RuntimeError: told to fail: o-1", True)
        assert "examples.py" in shown.traceback
        assert (shown.changes, shown.messages) == ([], [])

    def test_says_that_it_was_handled(self, make_dead: Any, hand_over: Any, repaired: Any) -> None:
        dead = make_dead()
        repaired()
        hand_over(dead.envelope())
        shown = preview(dead)
        assert shown.notes == ["It has had its effect before: a replay does nothing."]
        assert shown.changes == []

    def test_calls_no_foreign_service(self, posted: Any, counted: Any) -> None:
        CALLS.clear()
        envelope = posted(CountAfter(order_id="o-1"))
        dead = DeadLetter.of(envelope, reason="failed", origin="consumer", queue=SERVICE, body=envelope.encode())
        dead.record()
        shown = preview(dead)
        assert CALLS == []
        assert "not called" in shown.notes[0]
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
                    hand_over(row.envelope())
                    Outgoing.objects.filter(pk=row.pk).update(published_at=timezone.now())

        in_thread(carry)
        yield
        stop.set()

    def test_that_dies_of_the_same_stops_the_rest(self, make_dead: Any, carrier: Any) -> None:
        for number in range(4):
            make_dead(f"o-{number}")
        with pytest.raises(CommandError, match="It died again, of the same failure: RuntimeError") as stopped:
            dlq("replay", "--all", "--canary", "2")
        assert stopped.value.returncode == 3
        assert Outgoing.objects.count() == 1  # the canary, which is not tried again before it tells
        assert DeadLetter.objects.filter(status="replayed").count() == 1
        assert DeadLetter.objects.filter(status="dead").count() == 4

    def test_that_lives_lets_the_rest_follow(self, make_dead: Any, carrier: Any, counted: Any, repaired: Any) -> None:
        for number in range(4):
            make_dead(f"o-{number}")
        repaired()
        assert json.loads(dlq("replay", "--all", "--canary", "2", "--json")) == {"replayed": 4, "refused": {}}
        deadline = time.monotonic() + 120
        while len(counted()) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(counted()) == len(set(counted())) == 4

    def test_without_an_answer_stops_the_rest(self, make_dead: Any) -> None:
        make_dead("o-1")
        make_dead("o-2")
        with pytest.raises(CommandError, match="not answered in time"):
            dlq("replay", "--all", "--canary", "1", "--timeout", "1s")
        assert DeadLetter.objects.filter(status="dead").count() == 1


@pytest.mark.django_db
class TestTheCommand:
    def test_lists_groups_and_dead_letters(self, make_dead: Any) -> None:
        assert dlq("list") == "no dead letters\n"
        dead = make_dead()
        assert dead.fingerprint in dlq("list")
        (group,) = json.loads(dlq("list", "--json", "--service", SERVICE, "--type", "tests.count"))
        assert (group["dead_letters"], group["fingerprint"], group["service"]) == (1, dead.fingerprint, SERVICE)
        (line,) = json.loads(dlq("list", "--each", "--json", "--order", "o-1"))
        assert (line["id"], line["subject"], line["service"]) == (str(dead.pk), "o-1", SERVICE)
        assert str(dead.pk) in dlq("list", "--each")
        assert json.loads(dlq("list", "--json", "--older-than", "1h")) == []

    def test_accepts_the_former_names_of_options(self, make_dead: Any) -> None:
        make_dead()
        former = ("--room", SERVICE, "--order", "o-1")
        assert len(json.loads(dlq("list", "--each", "--json", *former))) == 1
        assert "1 replayed" in dlq("replay", *former, "--patience", "5s")

    def test_shows_everything(self, make_dead: Any) -> None:
        dead = make_dead()
        replay(dead)
        shown = json.loads(dlq("show", str(dead.pk), "--json"))
        assert json.loads(shown["body"])["id"] == str(dead.message_id)
        assert "examples.py" in shown["traceback"]
        assert [action["by"] for action in shown["actions"]] == ["eve"]
        assert "told to fail" in dlq("show", str(dead.pk))

    def test_previews(self, make_dead: Any) -> None:
        dead = make_dead()
        assert "the same failure again" in dlq("preview", str(dead.pk))
        assert json.loads(dlq("preview", str(dead.pk), "--json"))["same_failure"] is True

    def test_replays_by_filter_and_rate(self, make_dead: Any) -> None:
        dead = [make_dead(f"o-{number}") for number in range(3)]
        assert "would be replayed" in dlq("replay", "--fingerprint", dead[0].fingerprint, "--dry-run")
        assert not Outgoing.objects.exists()
        began = time.monotonic()
        assert dlq("replay", "--all", "--limit", "2", "--rate", "10") == "2 replayed, 0 refused\n"
        assert time.monotonic() - began >= 0.2
        assert [dead.status for dead in DeadLetter.objects.order_by("died_at")] == ["replayed", "replayed", "dead"]
        assert set(DeadLetterAction.objects.using(SERVICE).values_list("verb", flat=True)) == {"replay"}

    def test_discards_with_a_reason(self, make_dead: Any) -> None:
        dead = make_dead()
        assert dlq("discard", str(dead.pk), "--why", "noise", "--by", "bob") == "1 discarded, 0 refused\n"
        (action,) = dead_letters.actions(dead)
        assert (action.verb, action.by, action.detail) == ("discard", "bob", {"why": "noise"})

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["replay"], 1),
            (["discard", "--why", "x"], 1),
            (["discard", "--all"], 1),  # without a reason
            (["replay", "--all"], 4),
            (["show", str(uuid4())], 4),
            (["preview", str(uuid4())], 4),
        ],
    )
    def test_says_by_its_exit_code_why_it_did_nothing(self, arguments: list[str], code: int) -> None:
        with pytest.raises(CommandError) as refusal:
            dlq(*arguments)
        assert refusal.value.returncode == code

    def test_says_so_if_some_were_refused(self, make_dead: Any, hand_over: Any) -> None:
        hand_over({"id": 7})
        make_dead()
        with pytest.raises(SystemExit) as end:
            dlq("replay", "--all")
        assert end.value.code == 1
        assert Outgoing.objects.count() == 1
