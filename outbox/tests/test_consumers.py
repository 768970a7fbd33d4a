"""A service handles a message once, again after a failure, and keeps a dead letter of it when it gives up."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from celery import current_app
from celery.app.trace import ExceptionInfo
from celery.exceptions import Reject, Retry
from django.conf import settings
from django.db import OperationalError, connections, transaction
from django.utils import timezone
from kombu.utils.imports import symbol_by_name

from outbox import consumers, retention
from outbox.attempts import LAST_ATTEMPT
from outbox.consumers import receive
from outbox.dead_letters import MayHaveBeenHandled, replay
from outbox.envelope import Envelope
from outbox.errors import Undeliverable
from outbox.ids import uuid7
from outbox.message import EVENTS, Message
from outbox.models import StartedMessage
from outbox.results import Dead, Result
from outbox.services import model_of
from outbox.tests.examples import BEHAVIORS, CALLS, SERVICE, Count, CountAfter

Outgoing, Incoming, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "Incoming", "DeadLetter"))


def behave(monkeypatch: pytest.MonkeyPatch, how: Callable[[Count], Any]) -> Count:
    """A message whose handler behaves so, after its effect."""
    monkeypatch.setitem(BEHAVIORS, "test", how)
    return Count(order_id="o-1", then="test")


@pytest.mark.django_db
class TestAMessage:
    def test_has_its_effect_once_however_often_it_comes(self, posted: Any, hand_over: Any, counted: Any) -> None:
        envelope = posted(Count(order_id="o-1"))
        hand_over(envelope, times=10)
        assert counted() == [envelope.id]
        kept = Incoming.objects.get()
        assert (str(kept.message_id), kept.type, kept.subject) == (envelope.id, "tests.count", "o-1")
        assert not Outgoing.objects.exists()

    def test_is_answered_in_the_same_commit(self, posted: Any, hand_over: Any, counted: Any) -> None:
        envelope = posted(Count(order_id="o-1", then="echo"))
        hand_over(envelope, times=3)
        reply = Outgoing.objects.get()
        assert (reply.type, reply.causation_id, reply.correlation_id) == (
            "tests.echo",
            envelope.id,
            envelope.correlationid,
        )

    def test_that_fails_leaves_nothing_but_its_retry(
        self, posted: Any, hand_over: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def answer_and_fail(message: Count) -> None:
            BEHAVIORS["echo"](message)
            raise RuntimeError("no")

        envelope = posted(behave(monkeypatch, answer_and_fail))
        began = timezone.now()
        hand_over(envelope)
        assert counted() == []
        assert not Incoming.objects.exists()
        retry = Outgoing.objects.get()
        assert (str(retry.message_id), retry.to, retry.attempt) == (envelope.id, SERVICE, 1)
        assert began + timedelta(seconds=1) <= retry.due_at <= timezone.now() + timedelta(seconds=1.25)
        again = retry.envelope()
        assert (again.data, again.correlationid, again.time) == (envelope.data, envelope.correlationid, envelope.time)

    def test_is_tried_six_times_and_becomes_a_dead_letter(self, posted: Any, hand_over: Any, counted: Any) -> None:
        envelope = posted(Count(order_id="o-1", then="fail"))
        for seconds in (1, 2, 4, 8, 16):
            began = timezone.now()
            hand_over(envelope)
            retry = Outgoing.objects.get()
            assert began + timedelta(seconds=seconds) <= retry.due_at
            assert retry.due_at <= timezone.now() + timedelta(seconds=1.25 * seconds)
            retry.delete()
            envelope = retry.envelope()
        hand_over(envelope, times=2)
        assert not Outgoing.objects.exists()
        assert counted() == []
        dead = DeadLetter.objects.get()
        assert (dead.status, dead.origin, dead.reason, dead.attempts) == ("dead", "consumer", "failed", 6)
        assert (str(dead.message_id), dead.type, dead.subject, dead.queue) == (
            envelope.id,
            "tests.count",
            "o-1",
            SERVICE,
        )
        assert (dead.worker, dead.headers) == ("w1", {"task": "tests.count"})
        assert dead.error == "RuntimeError: told to fail: o-1"
        assert "examples.py" in dead.traceback
        assert bytes(dead.body) == envelope.encode()
        assert dead.envelope() == envelope

    def test_that_is_undeliverable_becomes_a_dead_letter_at_once(
        self, posted: Any, hand_over: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(message: Count) -> None:
            raise Undeliverable("out_of_turn", "Not now, not ever.")

        hand_over(posted(behave(monkeypatch, refuse)))
        assert DeadLetter.objects.get().reason == "out_of_turn"
        assert (counted(), Outgoing.objects.count()) == ([], 0)

    def test_calls_a_foreign_service_outside_the_transaction(self, posted: Any, hand_over: Any, counted: Any) -> None:
        CALLS.clear()
        envelope = posted(CountAfter(order_id="o-1"))
        hand_over(envelope, times=3)
        assert counted() == [envelope.id]
        assert CALLS == ["o-1"]

    def test_leaves_one_dead_letter_of_all_its_copies(self, posted: Any, hand_over: Any) -> None:
        envelope = posted(Count(then="fail"))
        hand_over(envelope.as_dict() | {"attempt": LAST_ATTEMPT}, times=4)
        assert DeadLetter.objects.count() == 1


class Killed(BaseException):
    """As if the process died: nothing catches it, and nothing but what was committed stays."""


def kill(message: Count) -> None:
    raise Killed


@pytest.mark.django_db
class TestAWorkerThatDies:
    def die(self, hand_over: Any, envelope: Envelope, **options: Any) -> None:
        with pytest.raises(Killed):
            hand_over(envelope, **options)

    def test_while_it_handles_a_message_uses_up_an_attempt(
        self, posted: Any, hand_over: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        envelope = posted(behave(monkeypatch, kill))
        self.die(hand_over, envelope)
        self.die(hand_over, envelope, redelivered=True)  # only now can it be known that it was begun before
        for attempt in range(1, 6):
            hand_over(envelope, redelivered=True)
            retry = Outgoing.objects.get()
            assert (retry.attempt, StartedMessage.objects.using(SERVICE).count()) == (attempt, 0)
            retry.delete()
            envelope = retry.envelope()
            self.die(hand_over, envelope)
        hand_over(envelope, redelivered=True)
        dead = DeadLetter.objects.get()
        assert (dead.reason, dead.origin, dead.attempts, dead.worker) == ("killed_its_worker", "consumer", 6, "w1")
        assert not Outgoing.objects.exists()
        assert not StartedMessage.objects.using(SERVICE).exists()
        assert counted() == []

    def test_is_no_fault_of_a_message_that_was_not_begun(self, posted: Any, hand_over: Any, counted: Any) -> None:
        envelope = posted(Count())
        headers = {"delivery_info": {"redelivered": True}, "x-delivery-count": 1000}
        receive(SERVICE, envelope.as_dict(), headers=headers, worker="w1")
        assert counted() == [envelope.id]
        assert not StartedMessage.objects.using(SERVICE).exists()

    def test_is_not_presumed_while_another_copy_is_being_handled(
        self, posted: Any, hand_over: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        envelope = posted(behave(monkeypatch, kill))
        self.die(hand_over, envelope.as_dict() | {"attempt": 5})
        monkeypatch.setitem(BEHAVIORS, "test", lambda message: None)
        hand_over(envelope.as_dict() | {"attempt": 5})  # a copy that the broker delivers for the first time
        assert (counted(), DeadLetter.objects.count()) == ([envelope.id], 0)

    def test_costs_a_message_nothing_that_comes_for_the_first_time(
        self, posted: Any, hand_over: Any, counted: Any, django_assert_num_queries: Any
    ) -> None:
        envelope = posted(Count())
        with django_assert_num_queries(4, using=SERVICE):  # savepoint, inbox row, effect, release
            hand_over(envelope)


def test_celery_is_told_what_became_of_a_message() -> None:
    Result().tell_celery()
    with pytest.raises(Retry, match="no"):
        Result(RuntimeError("no"), timezone.now()).tell_celery()
    with pytest.raises(Dead, match="RuntimeError: no"):
        Result(RuntimeError("no")).tell_celery()


def test_celery_settles_a_dead_letter_as_a_failure() -> None:
    task, happened = current_app.tasks["tests.count"], []
    message = SimpleNamespace(
        headers={"task": "tests.count", "id": "1", "lang": "py"}, properties={}, delivery_info={}, body=b"",
        payload=[[{}], {}, {}], content_type="application/json", content_encoding="utf-8",
    )  # fmt: skip
    request = symbol_by_name(task.Request)(
        message, app=current_app, task=task,
        on_ack=lambda *_: happened.append("acknowledged"), on_reject=lambda *_: happened.append("rejected"),
        eventer=SimpleNamespace(enabled=True, send=lambda kind, **_: happened.append(kind)),
    )  # fmt: skip
    try:
        Result(RuntimeError("no")).tell_celery()
    except Dead:
        request.on_success((True, ExceptionInfo(), 0.1))
    assert happened == ["acknowledged", "task-failed"]


@pytest.mark.django_db
class TestAnUnreadableMessage:
    @pytest.mark.parametrize(
        ("changes", "reason", "says"),
        [
            ({"type": "orders.overdue", "data": {"order_id": "x"}}, "unknown_type", "No handler in payments takes"),
            ({"schemaversion": 10**9}, "malformed", "out of range"),
            ({"data": {"order_id": 7}}, "malformed", "data.order_id is not str."),
            ({"data": {"order_id": "a\0b"}}, "malformed", "characters that no text has"),
            ({"data": {"order_id": "\ud800"}}, "malformed", "characters that no text has"),
            ({"data": []}, "malformed", "data is not an object."),
            ({"data": {"padding": "x" * 300_000}}, "too_large", "larger than a message may be"),
            ({"id": "7"}, "malformed", "The envelope's id is not a UUID."),
            ({"attempt": -1}, "malformed", "out of range"),
            ({"attempt": 10**9}, "malformed", "out of range"),
            ({"subject": "x" * 65}, "malformed", "subject is too long"),
            ({"time": "yesterday"}, "malformed", "not a time"),
            ({"time": "2026-01-01T00:00:00"}, "malformed", "has no time zone"),
            ({"time": None}, "malformed", "time is not str"),
        ],
    )
    def test_is_dead_with_a_reason(
        self, posted: Any, hand_over: Any, counted: Any, changes: dict[str, Any], reason: str, says: str
    ) -> None:
        raw = posted(Count(order_id="o-1")).as_dict() | changes
        hand_over(raw)
        dead = DeadLetter.objects.get()
        assert (dead.reason, dead.status) == (reason, "dead")
        assert says in dead.error
        assert json.loads(bytes(dead.body)) == raw
        assert counted() == []

    @pytest.mark.parametrize("raw", [None, 7, "x", [], {}, {"id": 1}, {"specversion": "1.0"}])
    def test_is_dead_whatever_it_is(self, hand_over: Any, raw: object) -> None:
        hand_over(raw)
        dead = DeadLetter.objects.get()
        assert (dead.reason, dead.message_id) == ("malformed", None)
        assert json.loads(bytes(dead.body)) == raw

    def test_is_dead_if_it_is_older_than_the_inbox(self, posted: Any, hand_over: Any, counted: Any) -> None:
        envelope = posted(Count())
        with time_machine.travel(timezone.now() + settings.DEDUPE_HORIZON + timedelta(seconds=1)):
            hand_over(envelope.as_dict())
            hand_over(envelope.as_dict() | {"attempt": 1})
        assert DeadLetter.objects.get().reason == "past_dedupe_horizon"
        assert counted() == []

    @pytest.mark.parametrize("knows", ["inbox row", "replayed dead letter"])
    def test_is_handled_however_old_it_is_if_the_inbox_still_knows(
        self, posted: Any, hand_over: Any, counted: Any, knows: str
    ) -> None:
        envelope = posted(Count(then="fail" if knows == "replayed dead letter" else ""))
        hand_over(envelope.as_dict() | {"attempt": LAST_ATTEMPT})
        with time_machine.travel(timezone.now() + 2 * settings.DEDUPE_HORIZON), pytest.MonkeyPatch.context() as patch:
            if knows == "replayed dead letter":
                replay(DeadLetter.objects.get(), by="ann", now=timezone.now())
                patch.setitem(BEHAVIORS, "fail", lambda message: None)
                row = Outgoing.objects.get()
                assert row.envelope().sent_at == envelope.sent_at  # the horizon is that of the first publication
                row.delete()
                envelope = row.envelope()
            hand_over(envelope, times=2)
        assert counted() == [envelope.id]
        assert not DeadLetter.objects.filter(status="dead").exists()

    def test_is_replayed_only_by_somebody_who_knows(self, posted: Any, hand_over: Any, counted: Any) -> None:
        """It was handled, and its inbox row was purged before its copy came."""
        envelope = posted(Count())
        hand_over(envelope)
        with time_machine.travel(timezone.now() + 2 * settings.INBOX_RETENTION):
            retention._progress.clear()
            assert retention.purge(SERVICE, now=timezone.now())["handled"] == 1
            hand_over(envelope)
            dead = DeadLetter.objects.get()
            with pytest.raises(MayHaveBeenHandled, match="may have been handled already"):
                replay(dead, by="ann", now=timezone.now())
            assert (counted(), Outgoing.objects.count()) == ([envelope.id], 0)
            replay(dead, by="ann", now=timezone.now(), never_handled=True)
            hand_over(Outgoing.objects.get().envelope(), times=2)
        assert counted() == [envelope.id] * 2

    def test_is_no_timer_that_was_set_long_ago(self, posted: Any, hand_over: Any, counted: Any) -> None:
        envelope = posted(Count(), due_at=timezone.now() + 2 * settings.DEDUPE_HORIZON)
        with time_machine.travel(timezone.now() + 2 * settings.DEDUPE_HORIZON):
            hand_over(envelope)
        assert counted() == [envelope.id]


@pytest.mark.django_db(transaction=True)
class TestTheDatabase:
    def test_lets_a_copy_wait_for_the_one_in_hand(
        self, posted: Any, hand_over: Any, counted: Any, in_thread: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        envelope = posted(Count(then="sleep"))
        for thread in [in_thread(hand_over, envelope) for _ in range(5)]:
            thread.join()
        assert counted() == [envelope.id]

    @pytest.mark.parametrize("state", ["40001", "40P01"])
    def test_is_asked_again_at_once_after_a_conflict(
        self, posted: Any, hand_over: Any, counted: Any, monkeypatch: pytest.MonkeyPatch, state: str
    ) -> None:
        tries: list[str] = []

        def conflict_twice(message: Count) -> None:
            tries.append(message.order_id)
            if len(tries) < 3:
                with connections[SERVICE].cursor() as cursor:
                    cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '{state}'; END $$")

        envelope = posted(behave(monkeypatch, conflict_twice))
        hand_over(envelope)
        assert (counted(), len(tries)) == ([envelope.id], 3)
        assert not Outgoing.objects.exists()

    def test_deadlock_is_resolved_by_handling_one_again(
        self, posted: Any, hand_over: Any, counted: Any, in_thread: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = threading.Barrier(2, timeout=120)
        tries: list[str] = []

        def lock_crosswise(message: Count) -> None:
            first, second = (1, 2) if message.order_id == "one" else (2, 1)
            tries.append(message.order_id)
            with connections[SERVICE].cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [first])
                if len(tries) <= 2:
                    both.wait()
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [second])

        monkeypatch.setitem(BEHAVIORS, "test", lock_crosswise)
        envelopes = [posted(Count(order_id=name, then="test")) for name in ("one", "two")]
        for thread in [in_thread(hand_over, envelope) for envelope in envelopes]:
            thread.join()
        assert sorted(counted()) == sorted(envelope.id for envelope in envelopes)
        assert len(tries) == 3

    def test_is_waited_for_when_it_is_lost(
        self, posted: Any, hand_over: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries: list[int] = []

        def cut_off_twice(message: Count) -> None:
            tries.append(1)
            if len(tries) < 3:
                with connections[SERVICE].cursor() as cursor:
                    cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        envelope = posted(behave(monkeypatch, cut_off_twice))
        hand_over(envelope)
        assert (counted(), len(tries)) == ([envelope.id], 3)
        assert not Outgoing.objects.exists()
        assert not DeadLetter.objects.exists()

    def test_that_stays_lost_gets_the_message_sent_back(
        self, posted: Any, hand_over: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumers, "DATABASE_TIMEOUT", timedelta(0))

        def gone(*arguments: Any, **options: Any) -> None:
            raise OperationalError("the server is gone")

        monkeypatch.setattr(consumers, "deliver", gone)
        with pytest.raises(Reject) as sent_back:
            hand_over(posted(Count()))
        assert sent_back.value.requeue is True


class TestConsuming:
    def test_belongs_to_the_service_that_is_addressed(self) -> None:
        assert consumers.CONSUMERS["tests.count"].service == SERVICE

    def test_is_refused_for_what_is_told_to_the_world(self) -> None:
        class Told(Message, name="tests.told", to=EVENTS): ...

        def nobody(message: Told) -> None: ...

        with pytest.raises(TypeError, match="for the outside world"):
            consumers.consumes(Told)(nobody)

    def test_is_done_by_one_handler(self) -> None:
        def another(message: Count) -> None: ...

        with pytest.raises(TypeError, match="has a handler already"):
            consumers.consumes(Count)(another)

    def test_covers_every_message_to_a_service(self) -> None:
        assert consumers.unhandled() == []


def test_an_envelope_survives_the_way() -> None:
    envelope = Envelope(
        id=str(uuid7()), source="/x", type="t", subject="й", time=timezone.now().isoformat(), schemaversion=1,
        correlationid="c", data={"a": [1, None, "☃"]}, attempt=3,
    )  # fmt: skip
    assert Envelope.parse(json.loads(envelope.encode())) == envelope
    assert Envelope.parse(json.loads(envelope.encode()) | {"someextension": "x"}) == envelope


@pytest.mark.django_db
def test_posting_in_a_handler_belongs_to_its_transaction(posted: Any, hand_over: Any, counted: Any) -> None:
    with transaction.atomic(using=SERVICE):
        hand_over(posted(Count(then="echo")))
        transaction.set_rollback(True, using=SERVICE)
    assert (counted(), Outgoing.objects.count(), Incoming.objects.count()) == ([], 0, 0)
