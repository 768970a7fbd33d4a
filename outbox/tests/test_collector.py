"""What the broker has dead-lettered is stored once, and acknowledged after that."""

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import amqp
import pytest
import time_machine
from django.conf import settings
from django.db import OperationalError, connections
from django.utils import timezone

from outbox import collector, retention, tasks
from outbox.attempts import LAST_ATTEMPT
from outbox.broker import address
from outbox.collector import collect
from outbox.dead_letters import MayHaveBeenHandled, NotReplayable, replay
from outbox.ids import uuid7
from outbox.models import StartedMessage
from outbox.services import model_of
from outbox.store import Rows
from outbox.tests.examples import SERVICE, Count

DEATH = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DLQ = f"{SERVICE}.dlq"
Outgoing, Incoming, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "Incoming", "DeadLetter"))


@pytest.fixture
def put(channel: Any) -> Any:
    """Put something into the dead-letter queue."""

    def publish(body: bytes = b"{not json", **headers: Any) -> None:
        message = amqp.Message(
            body, content_type="application/json", application_headers={"task": "tests.count"} | headers
        )
        channel.basic_publish_confirm(message, routing_key=DLQ)

    return publish


def remaining(channel: Any) -> int:
    with channel.connection.channel() as another:
        found: int = another.queue_declare(DLQ, passive=True).message_count
        return found


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The collector is lost between its commit and its acknowledgement."""
    real = amqp.Channel.basic_ack

    def lost(*arguments: Any, **options: Any) -> None:
        raise ConnectionResetError

    def collect_and_fail() -> None:
        monkeypatch.setattr(amqp.Channel, "basic_ack", lost)
        with pytest.raises(ConnectionResetError):
            collect(SERVICE)
        monkeypatch.setattr(amqp.Channel, "basic_ack", real)

    return collect_and_fail


@pytest.mark.django_db
class TestCollecting:
    def test_keeps_bytes_and_headers(self, put: Any, channel: Any) -> None:
        put(b"\xff\x00{", task="payments.chrage", odd="a\0b", death=[{"n": 1.5}])
        assert collect(SERVICE) == 1
        dead = DeadLetter.objects.get()
        assert bytes(dead.body) == b"\xff\x00{"
        assert (dead.origin, dead.reason, dead.type, dead.message_id) == (
            "broker",
            "undecodable",
            "payments.chrage",
            None,
        )
        assert dead.headers["odd"] == "a␀b"
        assert dead.headers["death"] == [{"n": "1.5"}]
        assert dead.headers["properties"]["content_type"] == "application/json"
        assert remaining(channel) == 0

    def test_finds_the_message_in_its_task(self, put: Any, posted: Any) -> None:
        envelope = posted(Count(order_id="o-1"))
        put(json.dumps([[envelope.as_dict()], {}, {}]).encode(), **{"x-death": [{"reason": "rejected"}]})
        collect(SERVICE)
        dead = DeadLetter.objects.get()
        assert (str(dead.message_id), dead.subject, dead.reason) == (envelope.id, "o-1", "rejected")
        assert dead.envelope() == envelope

    @pytest.mark.parametrize(("sent_as", "task"), [("tests.other", "tests.count"), ("tests.count", "tests.other")])
    def test_lets_nobody_replay_what_is_not_of_the_type_that_it_was_sent_as(
        self, put: Any, posted: Any, sent_as: str, task: str
    ) -> None:
        body = json.dumps([[posted(Count(order_id="o-1")).as_dict()], {}, {}]).encode()
        exchange, key = address(SERVICE, sent_as)
        put(body, task=task, **{"x-death": [{"reason": "rejected", "exchange": exchange, "routing-keys": [key]}]})
        collect(SERVICE)
        dead = DeadLetter.objects.get()
        assert (dead.reason, dead.type) == ("forged_type", sent_as)
        if sent_as != "tests.count":
            with pytest.raises(NotReplayable):
                replay(dead, by="ann", now=DEATH)

    def test_sends_again_what_the_broker_delivered_too_often(self, put: Any, posted: Any) -> None:
        envelope = posted(Count(order_id="o-1"))
        body = json.dumps([[envelope.as_dict()], {}, {}]).encode()
        put(body, **{"x-death": [{"reason": "delivery_limit"}]})
        assert collect(SERVICE) == 1
        again = Outgoing.objects.get()
        assert (str(again.message_id), again.attempt, DeadLetter.objects.count()) == (envelope.id, 0, 0)
        assert again.envelope().sent_at == envelope.sent_at

    def test_counts_an_attempt_of_it_that_was_begun(self, put: Any, posted: Any) -> None:
        for attempt in (0, LAST_ATTEMPT):
            begun = dataclasses.replace(posted(Count(order_id="o-1")), attempt=attempt)
            StartedMessage.begin(Rows(SERVICE), begun, delivery=uuid7(), worker="w1")
            put(json.dumps([[begun.as_dict()], {}, {}]).encode(), **{"x-death": [{"reason": "delivery_limit"}]})
        assert collect(SERVICE) == 2
        assert Outgoing.objects.get().attempt == 1
        dead = DeadLetter.objects.get()
        assert (dead.reason, dead.worker, dead.attempts) == ("killed_its_worker", "w1", 6)
        assert not StartedMessage.objects.using(SERVICE).exists()

    @pytest.mark.usefixtures("counted")
    @pytest.mark.parametrize("order", ["purge first", "collect first"])
    def test_renews_no_memory_of_the_inbox(self, put: Any, posted: Any, hand_over: Any, order: str) -> None:
        """A copy of a handled message lies in the queue for longer than the inbox remembers."""
        envelope = posted(Count(order_id="o-1"))
        hand_over(envelope)
        put(json.dumps([[envelope.as_dict()], {}, {}]).encode(), **{"x-death": [{"reason": "rejected", "time": DEATH}]})
        with time_machine.travel(timezone.now() + 2 * settings.INBOX_RETENTION):
            retention._progress.clear()
            steps = [lambda: retention.purge(SERVICE, now=timezone.now()), lambda: collect(SERVICE)]
            for step in steps if order == "purge first" else reversed(steps):
                step()
            dead = DeadLetter.objects.get()
            if order == "purge first":
                assert dead.reason == "past_dedupe_horizon"
                with pytest.raises(MayHaveBeenHandled):
                    replay(dead, by="ann", now=timezone.now())
            else:
                replay(dead, by="ann", now=timezone.now())
                hand_over(Outgoing.objects.get().envelope())
            assert Incoming.objects.filter(pk=envelope.id).exists() == (order == "collect first")

    def test_takes_many(self, put: Any, channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(collector, "BATCH", 7)
        for number in range(20):
            put(b"%d" % number)
        assert sum(collect(SERVICE) for _ in range(5)) == 20  # a busy broker calls a queue empty that is not
        assert DeadLetter.objects.count() == 20
        assert remaining(channel) == 0

    def test_stores_once_what_it_takes_twice(self, put: Any, channel: Any, interrupted: Any) -> None:
        put(**{"x-death": [{"reason": "rejected", "time": DEATH}]})
        interrupted()
        assert DeadLetter.objects.count() == 1
        assert collect(SERVICE) == 1
        assert DeadLetter.objects.count() == 1
        assert remaining(channel) == 0

    def test_tells_twins_apart(self, put: Any) -> None:
        for _ in range(2):
            put(**{"x-death": [{"reason": "rejected", "time": DEATH}]})
        collect(SERVICE)
        assert DeadLetter.objects.count() == 2

    def test_takes_nothing_without_a_database(self, put: Any, channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        put()

        def gone() -> None:
            raise OperationalError("gone")

        with monkeypatch.context() as patch:
            patch.setattr(connections[SERVICE], "ensure_connection", gone)
            with pytest.raises(OperationalError):
                collect(SERVICE)
        message = channel.basic_get(DLQ)
        assert message.delivery_info["redelivered"] is False
        channel.basic_reject(message.delivery_tag, requeue=True)

    def test_declares_a_queue_that_was_deleted(self, channel: Any) -> None:
        channel.queue_delete(DLQ)
        assert collect(SERVICE) == 0
        assert remaining(channel) == 0


def test_a_broker_that_is_lost_is_no_fault_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has another turn in a few seconds; as an error it would be counted, and the alert would wake somebody."""
    monkeypatch.setattr(settings, "AMQP_URL", "amqp://nobody:nothing@127.0.0.1:1//")
    tasks.collect(SERVICE)
