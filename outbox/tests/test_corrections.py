"""A dead letter is corrected: its message is sent with other data, once, and the original is kept."""

import json
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from outbox import corrections, dead_letters
from outbox.attempts import LAST_ATTEMPT
from outbox.corrections import DataChange, NotCorrectable
from outbox.envelope import Envelope
from outbox.preview import preview
from outbox.services import model_of
from outbox.tests.examples import BEHAVIORS, SERVICE, Count

Outgoing, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "DeadLetter"))
GOOD = {"order_id": "o-1", "then": "", "padding": "by hand"}

pytestmark = pytest.mark.django_db


@pytest.fixture
def dead(posted: Any, hand_over: Any, counted: Any) -> Any:
    envelope = posted(Count(order_id="o-1", then="fail"))
    hand_over(envelope.as_dict() | {"attempt": LAST_ATTEMPT})
    return DeadLetter.objects.get(message_id=envelope.id)


def correct(dead: Any, data: Any = GOOD, why: str = "ticket 7") -> Envelope:
    """Correct, and take the envelope from the outbox as a relay would."""
    dead_letters.replay(dead, by="eve", now=timezone.now(), data=data, why=why)
    row = Outgoing.objects.get()
    row.delete()
    return row.envelope()


def test_sends_the_same_message_with_other_data(dead: Any, hand_over: Any, counted: Any) -> None:
    original = bytes(dead.body)
    envelope = correct(dead)
    hand_over(envelope, times=2)
    hand_over(json.loads(original))  # a late copy of the original
    assert counted() == [str(dead.message_id)]
    assert (envelope.data, bytes(dead.body)) == (GOOD, original)
    (action,) = dead_letters.actions(dead)
    assert (action.verb, action.by, action.detail["why"]) == ("correct", "eve", "ticket 7")
    assert {(one["path"], one["before"], one["after"]) for one in action.detail["changes"]} == {
        ("then", '"fail"', '""'),
        ("padding", '""', '"by hand"'),
    }


def test_happens_once(dead: Any) -> None:
    correct(dead)
    with pytest.raises(dead_letters.AlreadyResolved):
        correct(dead)
    assert not Outgoing.objects.exists()


def test_of_what_was_handled_meanwhile_is_refused(dead: Any, hand_over: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BEHAVIORS, "fail", lambda message: None)
    hand_over(dead.envelope())
    with pytest.raises(dead_letters.AlreadyHandled):
        correct(dead)


def test_that_dies_is_another_dead_letter_of_the_same_message(dead: Any, hand_over: Any) -> None:
    envelope = correct(dead, GOOD | {"then": "fail"})
    hand_over(envelope.as_dict() | {"attempt": 2 * LAST_ATTEMPT + 1})
    again = DeadLetter.objects.get(status="dead")
    assert dead_letters.died_again(dead) == again
    assert again.envelope().data["padding"] == "by hand"


@pytest.mark.parametrize(
    ("data", "why", "words"),
    [
        (GOOD, " ", "reason"),
        ([], "x", "must be a JSON object"),
        ({"order_id": "o-1", "then": "fail", "padding": ""}, "x", "Nothing is different"),
        (GOOD | {"order_id": "o-2"}, "x", "same subject: o-1"),
        (GOOD | {"then": 7}, "x", "data.then is not str"),
        (GOOD | {"paddnig": "x"}, "x", "no field paddnig. It has: order_id, padding, then"),
        (GOOD | {"padding": "\0"}, "x", "characters that no text has"),
        (GOOD | {"padding": "x" * 300_000}, "x", "too large"),
    ],
)
def test_is_refused_if_it_is_no_such_message(dead: Any, data: Any, why: str, words: str) -> None:
    with pytest.raises(dead_letters.OutboxError, match=words):
        correct(dead, data, why)
    dead.refresh_from_db()
    assert dead.status == "dead"
    assert not Outgoing.objects.exists()


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": 1, "a": 2}', "[" * 100_000])
def test_is_written_as_strict_json(text: str) -> None:
    with pytest.raises(NotCorrectable, match="not JSON"):
        corrections.parse(text)


def test_shows_what_is_different() -> None:
    before = {"a": {"b": [1, 2]}, "gone": None, "same": {}}
    assert corrections.changes(before, {"a": {"b": [1, 2.5, "x"]}, "same": {}}) == [
        DataChange("a.b[1]", "2", "2.5"),
        DataChange("gone", "null", ""),
        DataChange("a.b[2]", "", '"x"'),
    ]
    assert corrections.changes({"n": 1}, {"n": True}) == [DataChange("n", "1", "true")]


@pytest.mark.django_db(transaction=True)
def test_is_previewed(dead: Any, counted: Any) -> None:
    assert preview(dead).same_failure
    shown = preview(dead, data=GOOD)
    assert (shown.error, [change.table for change in shown.changes], counted()) == ("", ["counted"], [])


class TestTheCommand:
    def dlq(self, *arguments: str) -> str:
        call_command("dlq", *arguments, stdout=(out := StringIO()), stderr=StringIO())
        return out.getvalue()

    def test_sends_the_data_of_a_file(self, dead: Any, tmp_path: Path) -> None:
        (file := tmp_path / "data.json").write_text(json.dumps(GOOD))
        arguments = (str(dead.pk), "--data", str(file))
        with pytest.raises(SystemExit):
            self.dlq("replay", *arguments)  # without a reason
        assert "1 replayed" in self.dlq("replay", *arguments, "--why", "ticket 7", "--by", "eve")
        assert Outgoing.objects.get().data == GOOD
        assert '"why": "ticket 7"' in self.dlq("show", str(dead.pk))

    @pytest.mark.parametrize(
        ("content", "chosen"), [("{", None), ("{}", str(UUID(int=7))), (json.dumps(GOOD), "--all")]
    )
    def test_refuses_what_it_cannot_send(self, dead: Any, tmp_path: Path, content: str, chosen: str | None) -> None:
        (file := tmp_path / "data.json").write_text(content)
        if chosen == "--all":  # two of them
            DeadLetter.objects.bulk_create([DeadLetter(queue=SERVICE, reason="x", body=b"", died_at=timezone.now())])
        with pytest.raises(CommandError):
            self.dlq("replay", chosen or str(dead.pk), "--data", str(file), "--why", "x")
        assert not Outgoing.objects.exists()
