"""Messages of other releases: older ones are brought up to date, newer ones are read or wait for who knows them."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.utils import timezone

from outbox import broker, checks, conf, metrics, versions
from outbox.collector import collect
from outbox.consumers import consumes
from outbox.envelope import Envelope
from outbox.errors import Unreadable
from outbox.ids import uuid7
from outbox.message import Message
from outbox.relay import Relay
from outbox.services import model_of
from outbox.tests.examples import SERVICE, Count, leave_a_row
from outbox.versions import upcasts

Outgoing, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "DeadLetter"))


class Parcel(Message, name="tests.parcel", to=SERVICE, version=4, compatible_from=3, oldest=2):
    """Version 1 is no longer read, 2 had one weight in pounds, 3 had no height."""

    order_id: str
    grams: int
    height: int


@upcasts(Parcel, from_=2)
def _grams(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"grams": data["pounds"] * 454}


@upcasts(Parcel, from_=3)
def _height(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"height": 0}


HANDLED: list[Parcel] = []


@consumes(Parcel)
def parcel(message: Parcel) -> None:
    HANDLED.append(message)
    leave_a_row()


@pytest.fixture
def handled() -> Iterator[list[Parcel]]:
    HANDLED.clear()
    yield HANDLED
    HANDLED.clear()


@pytest.fixture
def arrives(posted: Any, hand_over: Any, counted: Any) -> Any:
    """Hand a parcel of some version to the service; return what arrived."""

    def deliver(**changes: Any) -> dict[str, Any]:
        raw = posted(Parcel(order_id="o-1", grams=1, height=2)).as_dict() | changes
        hand_over(raw)
        return dict(raw)

    return deliver


@pytest.mark.django_db
class TestAKnownMessage:
    def test_of_an_older_version_is_brought_up_to_date(self, arrives: Any, handled: list[Parcel]) -> None:
        arrives(schemaversion=2, compatiblefrom=None, data={"order_id": "o-1", "pounds": 2})
        assert handled == [Parcel(order_id="o-1", grams=908, height=0)]

    def test_says_which_readers_understand_it(self, posted: Any) -> None:
        envelope = posted(Parcel(order_id="o-1", grams=1, height=2))
        assert (envelope.schemaversion, envelope.compatiblefrom) == (4, 3)
        assert "compatiblefrom" not in posted(Count()).as_dict()

    @pytest.mark.parametrize("compatible_from", [1, 3, 4])
    def test_of_a_newer_version_is_read_if_it_is_compatible(
        self, arrives: Any, handled: list[Parcel], compatible_from: int
    ) -> None:
        data = {"order_id": "o-1", "grams": 7, "height": 8, "color": {"is": "red"}}
        arrives(schemaversion=9, compatiblefrom=compatible_from, data=data)
        assert handled == [Parcel(order_id="o-1", grams=7, height=8)]

    def test_may_have_fields_that_nobody_knows_here_which_are_counted(
        self, arrives: Any, handled: list[Parcel]
    ) -> None:
        before = metrics.UNKNOWN_FIELDS.labels("tests.parcel")._value.get()
        arrives(data={"order_id": "o-1", "grams": 1, "height": 2, "b": 1, "a": None})
        assert len(handled) == 1
        assert metrics.UNKNOWN_FIELDS.labels("tests.parcel")._value.get() == before + 2
        assert not DeadLetter.objects.exists()

    def test_may_lack_a_field_that_has_a_default(self, posted: Any, hand_over: Any, counted: Any) -> None:
        envelope = posted(Count(order_id="o-1"))
        hand_over(envelope.as_dict() | {"data": {}})
        assert counted() == [envelope.id]

    def test_may_not_lack_one_that_has_none(self, arrives: Any, handled: list[Parcel]) -> None:
        arrives(data={"order_id": "o-1", "grams": 1})
        assert DeadLetter.objects.get().error == "Unreadable: data lacks height."
        assert handled == []

    def test_of_a_version_that_is_retired_is_dead_at_once(self, arrives: Any, handled: list[Parcel]) -> None:
        arrives(schemaversion=1, compatiblefrom=None)
        dead = DeadLetter.objects.get()
        assert (dead.reason, handled, Outgoing.objects.count()) == ("unknown_version", [], 0)
        assert "Version 1 of tests.parcel is no longer read." in dead.error

    def test_keeps_its_version_through_retries(self, posted: Any, hand_over: Any, counted: Any) -> None:
        raw = posted(Count(then="fail")).as_dict() | {"schemaversion": 3, "compatiblefrom": 1}
        hand_over(raw)
        again = Outgoing.objects.get().envelope()
        assert (again.schemaversion, again.compatiblefrom, again.attempt) == (3, 1, 1)


UNKNOWN = [
    {"schemaversion": 5, "compatiblefrom": 5},
    {"schemaversion": 5, "compatiblefrom": None},
    {"type": "tests.new"},
]


@pytest.mark.django_db
class TestAMessageThatIsNotKnownYet:
    @pytest.mark.parametrize("changes", UNKNOWN)
    def test_is_put_back_as_it_is(self, arrives: Any, handled: list[Parcel], changes: dict[str, Any]) -> None:
        before = timezone.now()
        raw = arrives(**changes)
        row = Outgoing.objects.get()
        assert before <= row.waiting_since <= timezone.now()
        assert row.waiting_since + timedelta(seconds=2) == row.due_at
        again = row.envelope().as_dict()
        assert again.keys() - raw.keys() == {"waitingsince"}
        assert {name: again.get(name) for name in raw} == raw
        assert (handled, DeadLetter.objects.count()) == ([], 0)

    def test_is_handled_once_by_a_worker_that_knows_it(
        self, arrives: Any, hand_over: Any, handled: list[Parcel], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Parcel, "version", 2)  # a worker of the release before
        arrives(schemaversion=4, compatiblefrom=None)
        assert handled == []
        monkeypatch.undo()
        hand_over(Outgoing.objects.get().envelope(), times=2)
        assert handled == [Parcel(order_id="o-1", grams=1, height=2)]

    def test_waits_longer_each_time_and_is_dead_in_the_end(self, arrives: Any, hand_over: Any, counted: Any) -> None:
        arrives(type="tests.new")
        pauses: list[float] = []
        row = Outgoing.objects.get()
        while not DeadLetter.objects.exists():
            assert len(pauses) < 100
            row.delete()
            with time_machine.travel(row.due_at, tick=False):
                hand_over(row.envelope())
                if found := Outgoing.objects.first():
                    pauses.append((found.due_at - row.due_at).total_seconds())
                    assert found.waiting_since == row.waiting_since
                    row = found
        assert pauses[:5] == [2, 4, 8, 16, 32]
        assert max(pauses) == 120
        assert row.due_at == row.waiting_since + conf.UNKNOWN_MESSAGE_WAIT
        dead = DeadLetter.objects.get()
        assert (dead.reason, Outgoing.objects.count(), counted()) == ("unknown_type", 0, [])

    def test_does_not_wait_where_nothing_is_to_wait_for(self, arrives: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settings, "UNKNOWN_MESSAGE_WAIT", timedelta(0))
        arrives(type="tests.new")
        assert DeadLetter.objects.get().reason == "unknown_type"

    @pytest.mark.parametrize("since", ["soon", "2026-01-01T00:00:00", 7])
    def test_waits_since_a_time(self, arrives: Any, since: object) -> None:
        arrives(waitingsince=since)
        assert DeadLetter.objects.get().reason == "malformed"


@pytest.mark.django_db(transaction=True)
def test_what_celery_does_not_know_is_put_back_by_the_collector(channel: Any, take: Any, counted: Any) -> None:
    known = Envelope(
        id=str(uuid7()), source="/orders", type="tests.new", subject="o-1", time=timezone.now().isoformat(),
        schemaversion=1, correlationid="c", data={"anything": 1},
    )  # fmt: skip
    _, _, message = broker.encode(known, to=SERVICE)
    channel.basic_publish(message, routing_key=f"{SERVICE}.dlq")  # where a worker's rejection brings it
    while not collect(SERVICE):
        pass
    assert not DeadLetter.objects.exists()
    assert Outgoing.objects.get().waiting_since is not None
    Outgoing.objects.update(due_at=timezone.now())
    Relay(SERVICE).drain()
    (sent,) = take()
    assert sent.headers["task"] == "tests.new"
    assert Envelope.parse(json.loads(sent.body)[0][0]).data == {"anything": 1}


class TestAnUpcaster:
    def test_is_asked_for_by_a_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert list(checks.every_version_is_read(None)) == []
        monkeypatch.delitem(versions.UPCASTERS, ("tests.parcel", 3))
        (problem,) = checks.every_version_is_read(None)
        assert (problem.id, problem.msg) == ("outbox.E005", "tests.parcel has no upcaster from version 3.")

    @pytest.mark.parametrize("version", [1, 4])
    def test_begins_at_a_version_that_is_read(self, version: int) -> None:
        with pytest.raises(TypeError, match="none after"):
            upcasts(Parcel, from_=version)(lambda data: data)

    def test_is_the_only_one(self) -> None:
        with pytest.raises(TypeError, match="already"):
            upcasts(Parcel, from_=2)(lambda data: data)

    def test_leaves_what_arrived_as_it_is(self) -> None:
        data = {"order_id": "o-1", "pounds": 2}
        versions.read(Parcel, data, version=2, compatible_from=None)
        assert data == {"order_id": "o-1", "pounds": 2}

    @pytest.mark.parametrize("data", [None, [], "x"])
    def test_gets_an_object_only(self, data: object) -> None:
        with pytest.raises(Unreadable, match="not an object"):
            versions.read(Parcel, data, version=2, compatible_from=None)
