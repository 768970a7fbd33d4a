"""From the outbox to the broker: confirmed or tried again, by one relay or several."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import time_machine
from celery import current_app
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from outbox import broker, context, metrics, tasks
from outbox import relay as relays
from outbox.broker import Publisher
from outbox.notifications import CHANNEL
from outbox.relay import Relay
from outbox.rest import Rest
from outbox.services import model_of
from outbox.stream import Reader
from outbox.tasks import tick
from outbox.tests.examples import SERVICE, Count, CountTogether, Echo
from outbox.tests.proxy import Proxy

Outgoing, DeadLetter = model_of(SERVICE, "Outgoing"), model_of(SERVICE, "DeadLetter")


def post(number: int = 1, **options: Any) -> list[Any]:
    with transaction.atomic(using=SERVICE):
        return Outgoing.post(*(Count(order_id=f"o-{n}") for n in range(number)), **options)


def lag_of_relays() -> float:
    return metrics.REGISTRY.get_sample_value("relay_lag_seconds_sum", {"service": SERVICE}) or 0.0


@contextmanager
def put_off(row: Any, *, by: float) -> Iterator[None]:
    """What happens inside makes a row due so many seconds later, and up to a quarter more."""
    began = timezone.now()
    yield
    row.refresh_from_db()
    assert began + timedelta(seconds=by) <= row.due_at <= timezone.now() + timedelta(seconds=1.25 * by)


@pytest.fixture
def relay(channel: Any) -> Iterator[Relay]:
    relay = Relay(SERVICE)
    yield relay
    relay.publisher.close()


@pytest.mark.django_db
class TestABatch:
    def test_is_published_as_tasks_and_stamped(self, relay: Relay, take: Any) -> None:
        rows = post(500)
        relay.drain()
        assert not Outgoing.objects.filter(published_at=None).exists()
        taken = take()
        assert [message.properties["message_id"] for message in taken] == [str(row.message_id) for row in rows]
        one = taken[0]
        assert one.properties["application_headers"]["task"] == "tests.count"
        assert (one.properties["content_type"], one.properties["delivery_mode"]) == ("application/json", 2)
        assert json.loads(one.body)[0] == [rows[0].envelope().as_dict()]

    def test_leaves_what_is_not_due(self, relay: Relay, take: Any) -> None:
        due_at = timezone.now() + timedelta(minutes=1)
        (later,) = post(due_at=due_at)
        (now,) = post()
        assert relay.drain() == due_at
        assert [message.properties["message_id"] for message in take()] == [str(now.message_id)]
        later.refresh_from_db()
        assert later.published_at is None

    def test_is_as_late_as_it_has_been_due_however_often_it_was_put_off(self, relay: Relay) -> None:
        post(2)
        (put_off, _) = Outgoing.objects.order_by("pk")
        Outgoing.objects.filter(pk=put_off.pk).update(publish_attempts=100, due_at=timezone.now())
        before = lag_of_relays()
        relay.drain()
        assert lag_of_relays() - before > 100 * 10

    def test_goes_out_in_the_order_it_was_posted(self, relay: Relay, take: Any) -> None:
        ids = [str(row.message_id) for _ in range(20) for row in post(3)]
        relay.drain()
        assert [message.properties["message_id"] for message in take()] == ids


@pytest.mark.django_db(transaction=True)
def test_nothing_but_the_stamp_may_be_lost_in_a_crash(relay: Relay, take: Any) -> None:
    post()
    connection = connections[SERVICE]
    with CaptureQueriesContext(connection) as run:
        relay.drain()
    assert len(take()) == 1
    (stamp,) = [one["sql"] for one in run if "synchronous_commit" in one["sql"]]
    unhurried, update = stamp.split(";\n")
    assert unhurried.startswith("SET LOCAL ")
    assert update.startswith('UPDATE "outbox_outgoingmessage" SET "published_at" = ')
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("on",)


@pytest.mark.django_db
class TestARefusal:
    @pytest.fixture
    def full(self, channel: Any) -> Iterator[str]:
        """A queue that takes one message and refuses the rest."""
        channel.queue_declare(
            "tests.full",
            durable=True,
            auto_delete=False,
            arguments={"x-max-length": 1, "x-overflow": "reject-publish"},
        )
        channel.queue_bind("tests.full", settings.OUTBOX_EXCHANGE, broker.binding("tests.full"))
        yield "tests.full"
        channel.queue_delete("tests.full")

    def test_of_some_leaves_the_others_stamped(self, relay: Relay, full: str) -> None:
        rows = post(10)
        Outgoing.objects.filter(pk__in=[row.pk for row in rows[::2]]).update(to=full)
        relay.send_batch(now=timezone.now())
        unsent = Outgoing.objects.filter(published_at=None)
        assert len(unsent) == 4  # the queue took one of five
        assert {row.to for row in unsent} == {full}
        assert {(row.refusals, row.last_error) for row in unsent} == {(0, "nack: the broker did not accept it")}

    def test_because_the_queue_is_full_makes_no_dead_letters(self, relay: Relay, full: str, channel: Any) -> None:
        post(3)
        Outgoing.objects.update(to=full)
        for _ in range(8):
            relay.send_batch(now=timezone.now())
            Outgoing.objects.filter(published_at=None).update(due_at=timezone.now())
        assert Outgoing.objects.filter(published_at=None).count() == 2
        assert not DeadLetter.objects.exists()
        channel.queue_purge(full)
        relay.send_batch(now=timezone.now())
        assert Outgoing.objects.filter(published_at=None).count() == 1

    def test_goes_on_at_another_node_when_one_has_declined_it(
        self, relay: Relay, full: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a node of a cluster was lost, a channel or a node may decline for ever what any other one may send."""
        same = settings.AMQP_URL
        monkeypatch.setattr(settings, "AMQP_URL", f"{same};{same}?another")
        post(2)
        Outgoing.objects.update(to=full)
        relay.send_batch(now=timezone.now())
        connection = relay.publisher._connection
        assert broker.answering_first(settings.AMQP_URL).startswith(f"{same};")
        relay.publisher.open()
        assert relay.publisher._connection is not connection
        assert broker.answering_first(settings.AMQP_URL).startswith(f"{same}?another;")

    def test_puts_the_row_off_longer_each_time_until_it_is_dead(self, relay: Relay) -> None:
        (row,) = post()
        Outgoing.objects.update(to="tests.nowhere")
        for seconds in (1, 2, 4, 8, 16):
            with put_off(row, by=seconds):
                relay.send_batch(now=timezone.now())
            Outgoing.objects.update(due_at=timezone.now())
        relay.send_batch(now=timezone.now())
        assert not Outgoing.objects.exists()
        dead = DeadLetter.objects.get()
        assert (dead.origin, dead.reason, dead.attempts, dead.queue) == ("relay", "unpublishable", 6, "tests.nowhere")
        assert dead.error == "returned: no queue for messages/tests-nowhere.tests.count"
        assert dead.envelope() == row.envelope()

    def test_of_a_deleted_queue_ends_when_it_is_declared(self, relay: Relay, channel: Any, take: Any) -> None:
        channel.queue_delete(SERVICE)
        (row,) = post()
        relay.send_batch(now=timezone.now())
        row.refresh_from_db()
        assert row.published_at is None
        Outgoing.objects.update(due_at=timezone.now())
        relay.send_batch(now=timezone.now())  # the queue was declared again
        assert [message.properties["message_id"] for message in take()] == [str(row.message_id)]

    def test_of_a_missing_exchange_concerns_its_own_messages_and_ends(
        self, relay: Relay, channel: Any, take: Any, settings: Any
    ) -> None:
        settings.EVENTS_STREAM = "tests.stream.exchange"
        channel.exchange_delete("events")
        rows = post(6)
        Outgoing.objects.filter(pk__in=[row.pk for row in rows[::2]]).update(to="events")
        relay.send_batch(now=timezone.now())
        unsent = Outgoing.objects.filter(published_at=None)
        assert {(row.to, row.refusals, row.last_error) for row in unsent} == {
            ("events", 1, "refused: there is no exchange events")
        }
        Outgoing.objects.update(due_at=timezone.now())
        relay.send_batch(now=timezone.now())  # the exchange was declared again
        assert not unsent.all().exists()
        assert len(take()) == 3
        kept: set[int] = set()
        with Reader("first") as reader:
            while kept != {0, 1, 2}:
                kept |= {one.offset for one in reader.read(wait=60)}
        channel.queue_delete(settings.EVENTS_STREAM)


@pytest.mark.django_db
class TestALostBroker:
    @pytest.fixture
    def distant(self, proxy: Proxy, channel: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
        monkeypatch.setattr("outbox.broker.CONFIRM_TIMEOUT", 5.0)  # for closing the connection, too
        distant = Relay(SERVICE, Publisher(proxy.url))
        distant.publisher.open()
        yield distant
        distant.publisher.close()

    def test_that_never_answers_makes_no_dead_letter(
        self, distant: Relay, proxy: Proxy, take: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (row,) = post()
        proxy.silent.set()
        monkeypatch.setattr("outbox.broker.CONFIRM_TIMEOUT", 0.5)
        distant.send_batch(now=timezone.now())
        row.refresh_from_db()
        assert (row.published_at, row.publish_attempts, row.refusals) == (None, 1, 0)
        assert row.last_error == "The broker has not answered yet."
        monkeypatch.setattr("outbox.broker.CONFIRM_TIMEOUT", 60.0)
        proxy.silent.clear()
        proxy.cut()
        while row.publish_attempts < 2:  # what was sent on a connection that is lost will not be answered
            distant.settle()
            row.refresh_from_db()
        assert (row.publish_attempts, row.refusals) == (2, 0)
        Outgoing.objects.update(publish_attempts=1000, due_at=timezone.now())
        distant.send_batch(now=timezone.now())
        assert not Outgoing.objects.filter(published_at=None).exists()
        assert not DeadLetter.objects.exists()
        assert {message.properties["message_id"] for message in take()} == {str(row.message_id)}

    def test_that_cuts_the_connection_is_tried_again(self, distant: Relay, proxy: Proxy, take: Any) -> None:
        (row,) = post()
        proxy.cut()
        with put_off(row, by=1):
            distant.send_batch(now=timezone.now())
        Outgoing.objects.update(due_at=timezone.now())
        distant.send_batch(now=timezone.now())
        row.refresh_from_db()
        assert row.published_at is not None
        assert len(take()) == 1

    def test_that_is_slow_gets_no_copy(
        self, distant: Relay, proxy: Proxy, take: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post()
        distant.drain()
        monkeypatch.setattr("outbox.broker.CONFIRM_TIMEOUT", 0.1)
        proxy.answers.clear()
        began = timezone.now()
        rows = post(50)
        for seconds in range(0, 120, 10):  # its lease is renewed, so that no other relay sends it either
            with time_machine.travel(began + timedelta(seconds=seconds), tick=False):
                distant.settle()
                distant.send_batch(now=timezone.now())
                assert Relay(SERVICE).send_batch(now=timezone.now()) == 0
        assert Outgoing.objects.filter(published_at=None).count() == 50
        proxy.answers.set()
        give_up_at = time.monotonic() + 120
        while Outgoing.objects.filter(published_at=None).exists():
            assert time.monotonic() < give_up_at
            distant.settle()
        assert [message.properties["message_id"] for message in take()][1:] == [str(row.message_id) for row in rows]

    def test_that_is_slow_gets_no_more_than_it_answers(
        self, distant: Relay, proxy: Proxy, take: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post()
        distant.drain()
        monkeypatch.setattr("outbox.broker.CONFIRM_TIMEOUT", 0.1)
        proxy.answers.clear()
        with transaction.atomic(using=SERVICE):
            rows = Outgoing.post(*(Count(padding="x" * 100_000) for _ in range(8)))
        distant.send_batch(now=timezone.now())
        assert Outgoing.objects.filter(published_at=None, publish_attempts=1).count() == 2
        assert Outgoing.objects.filter(published_at=None, publish_attempts=0).count() == 6
        monkeypatch.setattr("outbox.broker.CONFIRM_TIMEOUT", 60.0)
        proxy.answers.set()
        while Outgoing.objects.filter(published_at=None).exists():
            distant.drain()
        assert len(take()) == 1 + len(rows)

    def test_is_not_asked_with_rows_in_hand(self, distant: Relay, proxy: Proxy) -> None:
        post()
        distant.publisher.close()
        proxy.__exit__()
        with pytest.raises(OSError, match="refused"):
            distant.drain()
        assert set(Outgoing.objects.values_list("publish_attempts", flat=True)) == {0}


@pytest.mark.django_db(transaction=True)
class TestSideBySide:
    def test_relays_share_the_rows(self, channel: Any, take: Any, in_thread: Any) -> None:
        rows = post(800)
        for thread in [in_thread(Relay(SERVICE).drain) for _ in range(4)]:
            thread.join()
        Relay(SERVICE).drain()
        sent = [message.properties["message_id"] for message in take()]
        assert sorted(sent) == sorted(str(row.message_id) for row in rows)  # each of them once

    def test_a_relay_that_finds_all_in_hand_lets_go(self, relay: Relay, in_thread: Any) -> None:
        post(3)
        locked, done = threading.Event(), threading.Event()

        def hold() -> None:
            with transaction.atomic(using=SERVICE):
                list(Outgoing.objects.select_for_update())
                locked.set()
                done.wait(120)

        in_thread(hold)
        assert locked.wait(120)
        assert relay.drain() is None
        done.set()

    def test_rows_that_commit_late_are_not_skipped(self, relay: Relay, take: Any, in_thread: Any) -> None:
        written, commit = threading.Event(), threading.Event()
        early = []

        def slow() -> None:
            with transaction.atomic(using=SERVICE):
                early.extend(Outgoing.post(Count(order_id="early")))
                written.set()
                commit.wait(120)

        thread = in_thread(slow)
        assert written.wait(120)
        (late,) = post()
        relay.drain()
        commit.set()
        thread.join()
        relay.drain()
        assert [message.properties["message_id"] for message in take()] == [
            str(late.message_id),
            str(early[0].message_id),
        ]


@pytest.mark.django_db(transaction=True)
class TestARunningRelay:
    @pytest.fixture
    def running(self, channel: Any, in_thread: Any) -> Iterator[Relay]:
        stop, relay = threading.Event(), Relay(SERVICE)
        in_thread(relay.run, stop)
        self.wait(self.listens)
        yield relay
        stop.set()
        with connections[SERVICE].cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")

    @pytest.fixture
    def without_polling(self, running: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
        """The relay doesn't poll while the test runs."""
        monkeypatch.setattr(relays, "POLL", 3600.0)
        post()
        self.wait(self.sent)

    def wait(self, until: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + 120
        while not until():
            assert time.monotonic() < give_up_at
            time.sleep(0.005)

    def listens(self) -> bool:
        with connections[SERVICE].cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query = %s",
                [f"LISTEN {CHANNEL}"],
            )
            return cursor.fetchone() is not None

    def sent(self) -> bool:
        return not Outgoing.objects.filter(published_at=None).exists()

    @pytest.mark.usefixtures("without_polling")
    def test_is_woken_by_a_commit(self) -> None:
        for _ in range(5):
            post()
            self.wait(self.sent)

    @pytest.mark.usefixtures("without_polling")
    def test_sends_replies_while_it_rests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Rest, "after", lambda self, messages, took, quiet: 3600.0)
        post()
        self.wait(self.sent)
        (alone,) = post()
        with context.acting(context.Context("c-1", causation_id="m-1")), transaction.atomic(using=SERVICE):
            replies = [*Outgoing.post(Echo(), Echo()), *Outgoing.post(CountTogether())]
        self.wait(lambda: Outgoing.objects.filter(published_at=None).count() == 1)
        assert Outgoing.objects.get(published_at=None) == alone
        sent = Outgoing.objects.exclude(published_at=None)
        assert sent.filter(pk__in=[row.pk for row in replies]).count() == 3

    def test_polls_where_no_notification_arrives(self, running: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("outbox.notifications.WakeUp.__call__", lambda self: None)
        post()
        self.wait(self.sent)

    @pytest.mark.usefixtures("without_polling")
    def test_keeps_time(self) -> None:
        due_at = timezone.now() + timedelta(seconds=1.3)
        (timer,) = post(due_at=due_at)
        assert len(post(600)) == 600
        self.wait(self.sent)
        timer.refresh_from_db()
        assert timer.published_at >= due_at

    def test_comes_back_after_losing_the_database(self, running: Relay) -> None:
        with connections[SERVICE].cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert cursor.rowcount >= 1
        post()
        self.wait(self.sent)

    def test_hardly_asks_when_idle(self, running: Relay) -> None:
        asked: list[float] = []
        wanted = Relay.next_due

        def noted(relay: Relay) -> Any:
            asked.append(time.monotonic())
            return wanted(relay)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relays.Relay, "next_due", noted)
            self.wait(lambda: len(asked) >= 4)
        assert all(later - earlier > 0.95 * relays.POLL for earlier, later in pairwise(asked))


@pytest.mark.django_db
class TestTheTick:
    def test_is_a_relay_where_there_is_none(self, channel: Any, take: Any) -> None:
        (row,) = post(due_at=timezone.now() - timedelta(seconds=2))
        tick(SERVICE)
        assert [message.properties["message_id"] for message in take()] == [str(row.message_id)]

    def test_leaves_to_a_running_relay_what_has_just_come(self, channel: Any, take: Any) -> None:
        with time_machine.travel(timezone.now(), tick=False):
            post()
            tick(SERVICE)
        assert take() == []

    def test_asks_one_question_if_nothing_is_due(
        self, django_assert_num_queries: Any, channel: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks, "_relays", {})  # that of another test may know partitions by day: it asks more
        with django_assert_num_queries(1, using=SERVICE):
            tick(SERVICE)


def test_every_service_has_a_tick() -> None:
    assert {entry["args"] for entry in current_app.conf.beat_schedule.values() if entry["task"] == "outbox.tick"} == {
        (service,) for service in settings.SERVICES
    }


def test_a_relay_of_no_service_does_not_start() -> None:
    with pytest.raises(CommandError, match=f"^There is no service nope: there are .*{SERVICE}"):
        call_command("relay", SERVICE, "nope")
