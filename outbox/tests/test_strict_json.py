"""JSON that others have written is nested no more deeply than whoever reads it can follow."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from outbox import corrections, stream, strict_json
from outbox.errors import Unreadable
from outbox.services import model_of
from outbox.strict_json import MAX_DEPTH, TooDeep
from outbox.tests.examples import SERVICE, Count

DeadLetter = model_of(SERVICE, "DeadLetter")
TOO_DEEP = [MAX_DEPTH + 1, 100, 500, 900, 990]


def nested(depth: int, *, inside: Any = 0, names: bool = False) -> Any:
    """A value in so many lists, or objects, within each other."""
    for _ in range(depth):
        inside = {"a": inside} if names else [inside]
    return inside


class TestReading:
    @pytest.mark.parametrize("read", [strict_json.parse, strict_json.loads])
    @pytest.mark.parametrize("names", [False, True])
    def test_ends_at_a_depth(self, read: Any, names: bool) -> None:
        for encode in (str, str.encode):
            deepest = nested(MAX_DEPTH, names=names)
            assert read(encode(json.dumps(deepest))) == deepest
            for depth in (*TOO_DEEP, 100_000):
                opening, closing = ('{"a":', "}") if names else ("[", "]")
                with pytest.raises(TooDeep, match="more than 32 levels"):
                    read(encode(opening * depth + "0" + closing * depth))

    def test_finds_the_deepest_place_wherever_it_is(self) -> None:
        wide = {"items": [{"sku": "x", "of": [n]} for n in range(500)], "text": "[{" * 500}
        assert strict_json.loads(json.dumps(wide)) == wide
        with pytest.raises(TooDeep):
            strict_json.loads(json.dumps(wide | {"last": nested(MAX_DEPTH)}))

    @pytest.mark.parametrize("value", ["[" * 1000, ["{" * 1000], 7, None, [], {}, [[]] * 1000])
    def test_takes_brackets_in_texts_for_texts(self, value: Any) -> None:
        assert strict_json.parse(json.dumps(value)) == value

    def test_looks_at_nothing_of_what_has_few_brackets(self) -> None:
        """What is placed most often costs two counts."""
        assert not strict_json.is_too_deep(nested(500), "[" * MAX_DEPTH)


@pytest.mark.django_db
class TestAMessage:
    @pytest.mark.parametrize("depth", [*TOO_DEEP[:3], 800])
    @pytest.mark.parametrize("place", ["data", "extension"])
    def test_that_is_nested_too_deeply_is_a_dead_letter(
        self, posted: Any, hand_over: Any, counted: Any, depth: int, place: str
    ) -> None:
        raw = posted(Count(order_id="o-1")).as_dict()
        if place == "data":
            raw["data"] = {**raw["data"], "more": nested(depth - 2)}
        else:
            raw["extension"] = nested(depth - 1)
        hand_over(raw)
        dead = DeadLetter.objects.get()
        assert (dead.reason, dead.error) == ("malformed", "Unreadable: The message is nested too deeply.")
        assert (json.loads(bytes(dead.body)), counted()) == (raw, [])
        with pytest.raises(Unreadable, match="nested too deeply"):
            dead.envelope()

    def test_that_is_nested_as_deeply_as_may_be_is_handled(self, posted: Any, hand_over: Any, counted: Any) -> None:
        envelope = posted(Count(order_id="o-1"))
        hand_over(envelope.as_dict() | {"extension": nested(MAX_DEPTH - 1)})
        assert counted() == [envelope.id]


@pytest.mark.parametrize("depth", TOO_DEEP)
def test_corrected_data_that_are_nested_too_deeply_are_refused(depth: int) -> None:
    with pytest.raises(corrections.NotCorrectable, match="nested more than 32 levels"):
        corrections.parse('{"order_id":' * depth + "1" + "}" * depth)


@pytest.mark.django_db
def test_so_is_a_file_of_them(tmp_path: Path, posted: Any, hand_over: Any, counted: Any) -> None:
    hand_over(posted(Count(order_id="o-1")).as_dict() | {"attempt": -1})
    file = tmp_path / "data.json"
    file.write_text(json.dumps(nested(600, names=True)))
    with pytest.raises(CommandError, match="nested more than 32 levels"):
        call_command("dlq", "preview", str(DeadLetter.objects.get().pk), "--data", str(file))


@pytest.mark.parametrize("depth", [MAX_DEPTH, 900, 100_000])
def test_an_event_of_the_stream_that_is_nested_too_deeply_is_none(depth: int) -> None:
    message: Any = SimpleNamespace(body='{"time": "2026-01-01T00:00:00Z", "data": ' + "[" * depth + "]" * depth + "}")
    kept = stream.Kept(offset=1, type="order.paid", message=message)
    assert (kept.event, kept.time) == ({}, None)
