"""
What the mailbox survives, with real servers and processes: after each bad day every message had its effect once.

Messages go from the outbox of orders to payments, where each leaves a row in the table `counted`
(outbox/tests/examples.py) and some are answered by another message, which leaves a row as well.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import amqp
import psycopg
import pytest
from amqp.exceptions import NotFound

from orders_project.embedded import processes, rabbitmq
from orders_project.tests.running_system import RunningSystem
from outbox import broker
from outbox.envelope import Envelope
from outbox.ids import uuid7
from outbox.relay import BATCH
from outbox.tests.counted import CREATE

pytestmark = pytest.mark.processes

POST = """
    INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt,
        created_at, due_at, publish_attempts, refusals, last_error)
    VALUES (%s, %s, %s, 1, 'o', 'payments', %s, 'c', 0, now(), now() + %s, 0, 0, '')
"""
ALONE, TOGETHER = "tests.count", "tests.count_together"  # types of messages: the second one travels in batches
OLD_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 5,
    "x-overflow": "reject-publish",
    "x-dead-letter-exchange": "dead",
    "x-dead-letter-routing-key": "payments.dlq",
    "x-dead-letter-strategy": "at-least-once",
}
HEADER_BEYOND_TIME = b"\x20\x00\x00\x00\x00\x0b\x01tT" + b"\x7f" * 8  # a time that Python has not
PENDING = "SELECT count(*) FROM outbox_outgoingmessage WHERE published_at IS NULL"
UNANSWERED = """
    SELECT count(*) FROM outbox_outgoingmessage AS answer
    WHERE answer.type = 'tests.echo' AND NOT EXISTS (
        SELECT 1 FROM outbox_incomingmessage AS handled WHERE handled.message_id = answer.message_id
    )
"""


class Stage(RunningSystem):
    """A system whose programs know the messages of the tests, and may crash at a chosen point."""

    _asking: Any = None  # a channel

    def start(self, *names: str, crash: str = "nowhere", **options: Any) -> None:
        point = crash if crash == "nowhere" else f"{crash}={self._note(crash)}"
        for name in names:
            command = [word for word in self.commands[name] if word != "-m"]
            super().start(name, command=["-m", "orders_project.tests.crash_points", point, *command])

    def crashed(self, point: str) -> bool:
        return self._note(point).exists()

    def _note(self, point: str) -> Path:
        return self.home / f"crashed-{point}"

    def gone(self, name: str) -> None:
        """Wait for the end of a process that kills itself."""
        self.running.pop(name).wait(timeout=180)

    def post(self, number: int, *, then: str = "", kind: str = ALONE, due_in: float = 0, every: float = 0) -> list[str]:
        """Post so many messages, one transaction each."""
        ids = []
        with psycopg.connect(self.env["DATABASE_URL_ORDERS"], autocommit=True) as connection:
            for _ in range(number):
                ids.append(str(message_id := uuid7()))
                connection.execute(
                    POST, [message_id, message_id, kind, json.dumps({"then": then}), timedelta(seconds=due_in)]
                )
                connection.execute("NOTIFY outbox")
                time.sleep(every)
        return ids

    def counts(self, ids: list[str]) -> list[int]:
        """How often each of these messages that had its effect has had it."""
        each = "SELECT count(*) FROM counted WHERE message_id = ANY(%s::uuid[]) GROUP BY message_id"
        return [number for (number,) in self.query("payments", each, ids)]

    def undone(self, ids: list[str]) -> int:
        return len(ids) - len(self.counts(ids))

    def settle(self, ids: list[str]) -> None:
        """Wait until nothing is pending; then each had its effect once, and each answer too."""
        self.until(lambda: not self.undone(ids) and not self.pending())
        time.sleep(0.3)  # for a second effect, if there were one
        assert set(self.counts(ids)) == {1}
        assert self.query("payments", "SELECT message_id FROM counted GROUP BY 1 HAVING count(*) > 1") == []
        assert self.dead() == []

    def pending(self) -> int:
        """Messages on their way; of those in the hands of a worker, only what they are answered by is missing."""
        asked = (("orders", PENDING), ("payments", PENDING), ("payments", UNANSWERED))
        stored = sum(self.query(service, question)[0][0] for service, question in asked)
        return stored + sum(self.depth(name) for name in ("payments", "payments.dlq"))

    def depth(self, queue: str) -> int:
        """Messages in a queue, of which none is with a worker if it is zero."""
        for channel in (self._asking, None):  # it is gone if the broker was, or the queue, or if nobody asked for long
            with suppress(OSError, amqp.AMQPError):
                self._asking = channel or broker.connect(self.env["AMQP_URL"]).channel()
                found: int = self._asking.queue_declare(queue, passive=True).message_count
                return found
        raise ConnectionError(f"the broker has not said how many messages are in {queue}")

    def dead(self) -> list[tuple[Any, ...]]:
        return self.query("payments", "SELECT reason, error, message_id FROM outbox_deadletter ORDER BY died_at")

    def channel(self) -> Any:
        connection = broker.connect(self.env["AMQP_URL"])
        channel = connection.channel()
        channel.__class__ = _OneOff
        return channel


class _OneOff(amqp.Channel):
    """A channel whose connection ends with it."""

    def __exit__(self, *exception: object) -> None:
        self.connection.close()


@pytest.fixture(scope="module")
def standing() -> Iterator[Stage]:
    with Stage() as system:
        system.query("payments", CREATE)
        yield system


@pytest.fixture
def stage(standing: Stage) -> Stage:
    """The system with what runs in each test, whatever a test before has stopped and not started."""
    standing.start(*(name for name in ("relay", "payments", "beat") if name not in standing.running))
    return standing


def test_a_relay_is_killed_between_publish_and_stamp(stage: Stage) -> None:
    stage.stop("relay")
    stage.start("relay", crash="published")
    ids = stage.post(BATCH + 1) + stage.post(20, then="echo") + stage.post(60, kind=TOGETHER)
    stage.gone("relay")
    assert stage.crashed("published")
    assert stage.query("orders", PENDING)[0][0] > 0
    stage.start("relay")
    stage.settle(ids)


def test_a_worker_is_killed_between_commit_and_acknowledgement(stage: Stage) -> None:
    stage.stop("payments")
    stage.start("payments", crash="committed")
    ids = stage.post(20, then="echo") + stage.post(20, then="echo", kind=TOGETHER)
    stage.gone("payments")
    assert stage.crashed("committed")
    stage.start("payments")
    stage.settle(ids)
    assert stage.query("payments", "SELECT count(*) FROM counted")[0][0] >= 80


def test_six_workers_are_killed_that_hold_a_hundred_messages(stage: Stage) -> None:
    stage.stop("payments")
    ids = stage.post(100, then="sleep")
    stage.until(lambda: stage.depth("payments") >= 100)  # and what a worker has handed back
    for _ in range(6):
        stage.start("payments")
        stage.until(lambda: stage.depth("payments") <= stage.undone(ids) - 12)  # it holds 16, two or so of them done
        stage.kill("payments")
        stage.until(lambda: stage.depth("payments") >= stage.undone(ids))
    stage.start("payments")
    stage.settle(ids)


def test_workers_are_killed_that_handle_batches(stage: Stage) -> None:
    stage.stop("payments")
    stage.stop("relay")
    ids = stage.post(60, then="nap", kind=TOGETHER)
    stage.start("relay")
    stage.until(lambda: stage.depth("payments") == 3)  # of 25 messages at most
    for _ in range(2):
        stage.start("payments")
        stage.until(lambda: stage.depth("payments") == 0)
        stage.kill("payments")
        stage.until(lambda: stage.depth("payments") >= 1)
    stage.start("payments")
    stage.settle(ids)


def test_a_queue_of_an_earlier_release_keeps_its_limit_and_loses_no_message(stage: Stage) -> None:
    """What it gives up on after five deliveries was held by workers that died, and handled by none."""
    stage.stop("payments")
    with stage.channel() as channel:
        channel.queue_delete("payments")
        channel.queue_declare(
            "payments",
            durable=True,
            auto_delete=False,
            arguments=OLD_ARGUMENTS,
        )
    stage.manage("declare_topology")
    ids = stage.post(20)
    for _ in range(6):
        stage.until(lambda: stage.depth("payments") == 20)
        connection = broker.connect(stage.env["AMQP_URL"])
        connection.channel().basic_consume("payments", callback=lambda message: None)
        stage.until(lambda: stage.depth("payments") == 0)
        connection.collect()  # its socket is closed, as that of a process that is killed
    stage.until(lambda: stage.depth("payments") == 0)
    stage.start("payments")
    stage.settle(ids)
    with stage.channel() as channel:
        channel.queue_delete("payments")
    stage.stop("payments")
    stage.manage("declare_topology")
    stage.start("payments")


def test_no_queue_is_declared_that_nobody_uses(stage: Stage) -> None:
    with stage.channel() as channel, pytest.raises(NotFound):
        channel.queue_declare("celery_delayed_0", passive=True)


def test_postgresql_restarts_under_load(stage: Stage) -> None:
    ids = stage.post(40, then="sleep") + stage.post(40, then="echo")
    stage.services.postgres.stop()  # type: ignore[union-attr]
    time.sleep(1)
    stage.services.postgres.start()  # type: ignore[union-attr]
    stage.settle(ids)


def test_a_worker_is_told_to_stop_while_postgresql_is_away(stage: Stage) -> None:
    """It returns what it holds, in place of waiting for the database as long as it is allowed to live."""
    stage.stop("payments")
    ids = stage.post(40, then="nap", every=0.02) + stage.post(40, then="nap", kind=TOGETHER)
    stage.until(lambda: stage.depth("payments") > 0)
    log = stage.log("payments")
    size = log.stat().st_size
    stage.start("payments")
    stage.until(lambda: stage.undone(ids) < len(ids))
    stage.services.postgres.stop()  # type: ignore[union-attr]
    stage.until(lambda: b"payments, waiting" in log.read_bytes()[size:])
    worker = stage.running.pop("payments")
    worker.terminate()
    try:
        assert worker.wait(timeout=20) == 0
    finally:
        processes.end(worker, grace=0)
        stage.services.postgres.start()  # type: ignore[union-attr]
    stage.start("payments")
    stage.settle(ids)


def test_a_queue_is_deleted_while_rows_are_pending(stage: Stage) -> None:
    stage.stop("relay")
    stage.stop("payments")
    ids = stage.post(40, then="echo")
    with stage.channel() as channel:
        channel.queue_delete("payments")
    stage.start("relay")
    stage.until(lambda: stage.query("orders", PENDING)[0][0] == 0)
    stage.start("payments")
    stage.settle(ids)


def test_each_message_is_delivered_ten_times(stage: Stage) -> None:
    envelopes = [
        Envelope(
            id=str(uuid7()), source="/orders", type="tests.count", subject="o", time=datetime.now(UTC).isoformat(),
            schemaversion=1, correlationid="c", data={"then": "echo"},
        )
        for _ in range(20)
    ]  # fmt: skip
    publisher = broker.Publisher(stage.env["AMQP_URL"])
    for _ in range(10):
        assert len(publisher.publish([([envelope], "payments") for envelope in envelopes]).confirmed) == 20
    publisher.close()
    stage.settle([envelope.id for envelope in envelopes])
    answered = stage.query(
        "payments",
        "SELECT count(*) FROM outbox_outgoingmessage WHERE causation_id = ANY(%s)",
        [envelope.id for envelope in envelopes],
    )
    assert answered == [(20,)]


def test_two_beats_run_and_no_relay(stage: Stage) -> None:
    stage.stop("relay")
    stage.commands["beat2"] = stage.commands["beat"]
    stage.start("beat2", "orders")
    stage.settle(stage.post(40, then="echo"))
    stage.stop("beat2")
    stage.stop("orders")
    stage.start("relay")


def test_timers_keep_time_under_load(stage: Stage) -> None:
    listening = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN outbox'"
    stage.until(lambda: stage.query("orders", listening))
    timers = [stage.post(1, due_in=2 + n / 10)[0] for n in range(20)]
    load = stage.post(40, then="echo", every=0.1)
    stage.settle(timers + load)
    due = dict(stage.query("orders", "SELECT message_id, due_at FROM outbox_outgoingmessage"))
    handled = dict(stage.query("payments", "SELECT message_id, at FROM counted"))
    assert all(handled[timer] >= due[timer] for timer in map(UUID, timers))
    # However slow the machine is: who was due a second later comes later. Two may have been in the hands of workers.
    overtaken = {
        timer
        for timer in map(UUID, timers)
        for message in map(UUID, load)
        if due[message] >= due[timer] + timedelta(seconds=1) and handled[message] < handled[timer]
    }
    assert len(overtaken) <= 2


class TestTheDeadLetterQueue:
    """What no consumer can account for; the collector takes it every five seconds."""

    def publish(self, stage: Stage, body: bytes, *, headers: dict[str, Any], content_type: str) -> None:
        with stage.channel() as channel:
            channel.basic_publish_confirm(
                amqp.Message(
                    body, content_type=content_type, content_encoding="utf-8", application_headers=headers,
                    delivery_mode=2,
                ),
                routing_key="payments",
            )  # fmt: skip

    def test_takes_what_nobody_can_read(self, stage: Stage) -> None:
        task = {"task": "tests.count", "id": str(uuid7()), "lang": "py"}
        empty: dict[str, Any] = {}
        envelope = {"specversion": "1.0", "id": str(uuid7()), "data": {"padding": "x" * 300_000}}
        for body, headers, content_type in (
            (b"[[{}], {}, {}]", task | {"task": "payments.chrage"}, "application/json"),
            (b"{not json", task, "application/json"),
            (b"\xff\xfe\x00", task, "application/json"),
            (b"[[{}], {}, {}]", task, "application/x-python-serialize"),
            (b"hello", task, "text/plain"),
            (b"[[{}], {}, {}]", empty, "application/json"),
            (b"{}", empty, "application/json"),
            (b"[[], {}, {}]", task, "application/json"),
            (b"[[1, 2, 3], {}, {}]", task, "application/json"),
            (b"17", task, "application/json"),
            (b"[[{}], {}, {}]", task | {"task": {"a": 1}}, "application/json"),
            (b"[[{}], {}, {}]", task | {"eta": "soon", "timelimit": "x"}, "application/json"),
            (b"[" * 100_000, task, "application/json"),
            (json.dumps([[envelope], {}, {}]).encode(), task, "application/json"),
            (b"[[{}], {}, {}]", task, "application/json"),
        ):
            self.publish(stage, body, headers=headers, content_type=content_type)  # [1, 2, 3] are three messages
        with stage.channel() as channel:
            beyond_time = amqp.Message(b"[[{}], {}, {}]")
            beyond_time._serialize_properties = lambda: HEADER_BEYOND_TIME
            channel.basic_publish_confirm(beyond_time, routing_key="payments")
        fine = stage.post(20)
        stage.until(lambda: len(stage.dead()) >= 18 and not stage.pending())
        found = sorted(reason for reason, _, _ in stage.dead())
        assert found == sorted(["unknown_type", "too_large", *["undecodable"] * 6, *["malformed"] * 10]), found
        kept = stage.query("payments", "SELECT body, headers FROM outbox_deadletter WHERE reason = 'unknown_type'")
        assert bytes(kept[0][0]) == b"[[{}], {}, {}]"
        assert kept[0][1]["task"] == "payments.chrage"
        assert kept[0][1]["x-death"][0]["reason"] == "rejected"
        stage.query("payments", "DELETE FROM outbox_deadletter")
        stage.settle(fine)

    @pytest.mark.parametrize("kind", [ALONE, TOGETHER])
    def test_takes_what_kills_its_worker_and_the_others_flow(self, stage: Stage, kind: str) -> None:
        stage.stop("relay")
        fine = stage.post(10, kind=kind)
        (killer,) = stage.post(1, then="kill", kind=kind)
        fine += stage.post(40, kind=kind)
        stage.start("relay")
        stage.until(lambda: len(stage.dead()) == 1)
        assert stage.dead()[0][::2] == ("killed_its_worker", UUID(killer))
        assert stage.query("payments", "SELECT attempts, origin FROM outbox_deadletter") == [(6, "consumer")]
        assert stage.query("payments", "SELECT * FROM outbox_startedmessage") == []
        assert stage.counts([killer]) == []
        ((dead_letter_id,),) = stage.query("payments", "SELECT id FROM outbox_deadletter")
        assert json.loads(stage.manage("dlq", "show", str(dead_letter_id), "--json"))["replayable"] is True
        stage.manage("dlq", "discard", str(dead_letter_id), "--why", "a test")
        stage.query("payments", "DELETE FROM outbox_deadletter")
        stage.settle(fine)


def test_the_broker_stands_still_for_longer_than_it_may_take(stage: Stage) -> None:
    """However long it takes to answer: while its connection lives, nothing is sent a second time."""
    stage.settle(stage.post(1))
    broker_process = stage.services.rabbitmq.process.pid  # type: ignore[union-attr]
    os.kill(broker_process, signal.SIGSTOP)
    try:
        ids = stage.post(50)
        asked_again = "SELECT 1 FROM outbox_outgoingmessage WHERE published_at IS NULL AND publish_attempts > 0"
        stage.until(lambda: stage.query("orders", asked_again))
    finally:
        os.kill(broker_process, signal.SIGCONT)
    stage.settle(ids)
    log = stage.log("payments").read_text()
    assert not [one for one in ids if any(one in line and "handled before" in line for line in log.splitlines())]


def test_the_broker_is_away_for_twenty_seconds_under_load(stage: Stage) -> None:
    ids = stage.post(40, then="echo")
    stage.services.rabbitmq.stop()  # type: ignore[union-attr]
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        ids += stage.post(10, then="echo", every=0.1)
    stage.services.rabbitmq.start()  # type: ignore[union-attr]
    stage.settle(ids)
    attempts = stage.query("orders", "SELECT max(refusals) FROM outbox_outgoingmessage")
    assert attempts[0][0] <= 1


def test_the_broker_loses_all_that_it_had(stage: Stage) -> None:
    """Its disk, say: queues, exchanges and what was in them. The outboxes still know what was sent."""
    ((since,),) = stage.query("orders", "SELECT clock_timestamp()")
    lost = ["resend", "--grace", "0s", "--since", since.isoformat()]
    stage.stop("payments")
    ids = stage.post(100, then="echo")
    stage.until(lambda: stage.depth("payments") >= 100)
    broker_process = stage.services.rabbitmq
    assert broker_process is not None
    broker_process.kill()
    shutil.rmtree(rabbitmq.data_of(broker_process.home))
    broker_process.start()
    stage.manage("declare_topology")
    ids += stage.post(10, then="echo")
    stage.start("payments")
    stage.until(lambda: stage.undone(ids) == 100 and not stage.query("orders", PENDING)[0][0])
    assert "    100  orders to payments: tests.count\n" in stage.manage(*lost)  # and echoes that are on their way
    stage.settle(ids)
    assert "Nothing is lost." in stage.manage(*lost)
