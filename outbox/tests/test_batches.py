"""Messages of one type travel and are handled together, and none of them suffers from another."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import amqp
import pytest
from django.db import OperationalError, connections, transaction
from django.utils import timezone

from outbox import batches, checks, context
from outbox.arrivals import Arrived
from outbox.attempts import LAST_ATTEMPT
from outbox.batches import MAX_MESSAGES, packed
from outbox.collector import MAX_IN_A_BATCH, collect
from outbox.consumers import CONSUMERS, receive_all
from outbox.envelope import Envelope
from outbox.errors import Undeliverable
from outbox.ids import uuid7
from outbox.models import StartedMessage
from outbox.relay import Relay
from outbox.services import model_of
from outbox.store import Rows
from outbox.tests.examples import BEHAVIORS, SERVICE, Count, CountTogether

Outgoing, Incoming, DeadLetter = (model_of(SERVICE, name) for name in ("Outgoing", "Incoming", "DeadLetter"))
DLQ = f"{SERVICE}.dlq"
NAME = CountTogether.name


def post(number: int = 1, **fields: Any) -> list[Any]:
    with transaction.atomic(using=SERVICE):
        rows: list[Any] = Outgoing.post(*(CountTogether(**{"order_id": f"o-{n}"} | fields) for n in range(number)))
    return rows


@pytest.fixture
def batch(posted: Any) -> Callable[..., list[Envelope]]:
    """Envelopes of so many messages, which behave so."""

    def made(*behaviors: str) -> list[Envelope]:
        return [posted(CountTogether(order_id=f"o-{n}", then=then)) for n, then in enumerate(behaviors)]

    return made


@pytest.fixture
def hand_over_all() -> Callable[..., Any]:
    """Have the service handle these in one delivery, as a worker would."""

    def deliver(arrived: Sequence[Envelope | Any], *, redelivered: bool = False) -> Any:
        raws = [one.as_dict() if isinstance(one, Envelope) else one for one in arrived]
        headers = {"task": NAME} | ({"delivery_info": {"redelivered": True}} if redelivered else {})
        return receive_all(CONSUMERS[NAME], json.loads(json.dumps(raws)), headers=headers, worker="w1")

    return deliver


def transactions() -> int:
    """In how many transactions the effects happened."""
    with connections[SERVICE].cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT xmin::text) FROM counted")
        return int(cursor.fetchone()[0])


@pytest.mark.django_db
class TestPacking:
    def groups(self, *rows: Any) -> list[int]:
        return [len(group) for group in packed(rows)]

    def test_puts_those_together_that_are_claimed_together(self) -> None:
        rows = post(2 * MAX_MESSAGES + 1)
        assert self.groups(*rows) == [MAX_MESSAGES, MAX_MESSAGES, 1]
        assert [row for group in packed(rows) for row in group] == rows

    def test_keeps_types_apart_and_leaves_others_alone(self) -> None:
        with transaction.atomic(using=SERVICE):
            others = Outgoing.post(Count(), Count())
        first, second = post(2)
        assert packed([others[0], first, others[1], second]) == [[others[0]], [first, second], [others[1]]]

    def test_sends_alone_what_has_failed_before(self) -> None:
        rows = post(5)
        rows[0].attempt, rows[1].publish_attempts, rows[2].waiting_since = 1, 1, timezone.now()
        assert self.groups(*rows) == [1, 1, 1, 2]

    def test_makes_none_that_is_large(self) -> None:
        assert self.groups(*post(5, padding="x" * 30_000)) == [2, 2, 1]
        assert self.groups(*post(2, padding="x" * 70_000), *post(2)) == [1, 1, 2]

    def test_makes_none_while_the_release_before_runs(self, settings: Any) -> None:
        settings.OUTBOX_WITHHOLDS = True
        assert self.groups(*post(3)) == [1, 1, 1]


@pytest.mark.django_db
class TestARelay:
    @pytest.fixture
    def relay(self, channel: Any) -> Any:
        relay = Relay(SERVICE)
        yield relay
        relay.publisher.close()

    def test_sends_one_message_and_stamps_all(self, relay: Relay, take: Any) -> None:
        rows = post(10)
        relay.drain()
        (sent,) = take()
        arguments, named, _follows = json.loads(sent.body)
        assert (arguments, named) == ([row.envelope().as_dict() for row in rows], {})
        assert sent.properties["application_headers"]["task"] == NAME
        assert not Outgoing.objects.filter(published_at=None).exists()

    def test_puts_all_off_that_were_refused_and_sends_each_alone(
        self, relay: Relay, channel: Any, take: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post(3)
        with monkeypatch.context() as patched:
            patched.setattr("outbox.broker.address", lambda queue, kind: ("", "nowhere"))
            relay.send_batch(now=timezone.now())
        put_off = Outgoing.objects.filter(published_at=None, publish_attempts=1, refusals=1)
        assert put_off.count() == 3
        put_off.update(due_at=timezone.now())
        relay.drain()
        assert len(take()) == 3
        assert not Outgoing.objects.filter(published_at=None).exists()


@pytest.mark.django_db(transaction=True, databases=[SERVICE])
class TestHandling:
    def test_is_one_transaction_in_which_each_has_its_effect(
        self, batch: Any, hand_over_all: Any, counted: Any
    ) -> None:
        envelopes = batch(*[""] * 10)
        assert hand_over_all(envelopes).error is None
        assert counted() == [one.id for one in envelopes]
        assert transactions() == 1
        assert Incoming.objects.count() == 10

    def test_gives_each_its_own_context(self, batch: Any, hand_over_all: Any, counted: Any) -> None:
        envelopes = batch("echo", "", "echo")
        hand_over_all(envelopes)
        replies = {row.causation_id: row.correlation_id for row in Outgoing.objects.all()}
        assert replies == {one.id: one.correlationid for one in (envelopes[0], envelopes[2])}
        assert context.peek() is None

    def test_does_nothing_for_copies(self, batch: Any, hand_over_all: Any, counted: Any) -> None:
        envelopes = batch(*[""] * 4)
        hand_over_all(envelopes[:2])
        shouted = dataclasses.replace(envelopes[2], id=envelopes[2].id.upper())
        hand_over_all([*envelopes, *envelopes, shouted])
        hand_over_all([shouted, *envelopes])
        assert sorted(counted()) == sorted(one.id for one in envelopes)
        assert transactions() == 2

    def test_lets_one_that_fails_fail_alone(self, batch: Any, hand_over_all: Any, counted: Any) -> None:
        envelopes = batch("", "fail", "echo")
        assert isinstance(hand_over_all(envelopes).error, RuntimeError)
        assert counted() == [envelopes[0].id, envelopes[2].id]
        retry = Outgoing.objects.get(type=NAME)
        assert (str(retry.message_id), retry.attempt) == (envelopes[1].id, 1)
        assert packed([retry, *post(1)])[0] == [retry]
        assert Outgoing.objects.filter(type="tests.echo").count() == 1

    def test_keeps_a_dead_letter_of_one_alone(
        self, batch: Any, hand_over_all: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(message: Any) -> None:
            raise Undeliverable("out_of_turn", "Not now, not ever.")

        monkeypatch.setitem(BEHAVIORS, "refuse", refuse)
        envelopes = batch("", "refuse", "")
        hand_over_all([*envelopes, {"no": "envelope"}, 17])
        assert counted() == [envelopes[0].id, envelopes[2].id]
        assert sorted(DeadLetter.objects.values_list("reason", flat=True)) == ["malformed", "malformed", "out_of_turn"]
        dead = DeadLetter.objects.get(reason="out_of_turn")
        assert (str(dead.message_id), bytes(dead.body)) == (envelopes[1].id, envelopes[1].encode())

    def test_takes_a_batch_apart_that_comes_again(
        self, batch: Any, hand_over_all: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its worker may have been killed by one of them, so each says that it is begun before it is handled."""
        begun: list[Any] = []
        monkeypatch.setitem(
            BEHAVIORS, "look", lambda message: begun.append(StartedMessage.objects.using(SERVICE).count())
        )
        hand_over_all(batch("look", "look", "look"), redelivered=True)
        assert (begun, transactions(), len(counted())) == ([1, 1, 1], 3, 3)
        assert not StartedMessage.objects.using(SERVICE).exists()

    def test_blames_only_the_one_that_killed_its_worker(self, batch: Any, hand_over_all: Any, counted: Any) -> None:
        envelopes = batch("", "", "")
        StartedMessage.begin(Rows(SERVICE), envelopes[1], delivery=uuid7(), worker="w0")
        hand_over_all(envelopes, redelivered=True)
        assert counted() == [envelopes[0].id, envelopes[2].id]
        assert [(str(row.message_id), row.attempt) for row in Outgoing.objects.all()] == [(envelopes[1].id, 1)]

    def test_takes_another_turn_when_the_database_ends_it_in_favor_of_another(
        self, batch: Any, hand_over_all: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from psycopg.errors import DeadlockDetected

        times: list[int] = []

        def lose_once(message: Any) -> None:
            times.append(1)
            if len(times) == 1:
                raise OperationalError("deadlock detected") from DeadlockDetected("deadlock detected")

        monkeypatch.setitem(BEHAVIORS, "lose", lose_once)
        envelopes = batch("", "lose")
        hand_over_all(envelopes)
        assert (counted(), transactions(), len(times)) == ([one.id for one in envelopes], 1, 2)

    def test_waits_for_a_database_that_is_away(
        self, batch: Any, hand_over_all: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from psycopg.errors import AdminShutdown

        real, away = batches._commit, [True, True]

        def fail_first(*arguments: Any, **options: Any) -> Any:
            if away.pop():
                raise OperationalError("the server is going down") from AdminShutdown("going down")
            return real(*arguments, **options)

        monkeypatch.setattr(batches, "_commit", fail_first)
        envelopes = batch("", "")
        hand_over_all(envelopes)
        assert counted() == [one.id for one in envelopes]

    def test_commits_what_it_has_when_calls_take_long(
        self, batch: Any, counted: Any, hand_over_all: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        told: list[Any] = []

        def ask(message: Any) -> str:
            asked.append(message.order_id)
            return f"answer to {message.order_id}"

        def handle(arrived: Sequence[Arrived]) -> None:
            told.append([one.answer for one in arrived])

        monkeypatch.setitem(
            CONSUMERS, NAME, dataclasses.replace(CONSUMERS[NAME], first=partial(map, ask), together=handle)
        )
        monkeypatch.setattr(batches, "FIRST_SECONDS", 0.0)
        envelopes = batch("", "", "")
        hand_over_all(envelopes)
        hand_over_all(envelopes)
        assert asked == ["o-0", "o-1", "o-2"]  # and never again
        assert told == [["answer to o-0"], ["answer to o-1"], ["answer to o-2"]]

    def test_is_as_before_without_a_handler_of_many(
        self, batch: Any, hand_over_all: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(CONSUMERS, NAME, dataclasses.replace(CONSUMERS[NAME], together=None))
        envelopes = batch("", "")
        hand_over_all(envelopes)
        assert (counted(), transactions()) == ([one.id for one in envelopes], 2)


@pytest.mark.django_db
class TestADeadBatch:
    @pytest.fixture
    def put(self, channel: Any) -> Callable[..., None]:
        def publish(arguments: Sequence[Any], *, reason: str = "delivery_limit", task: str = NAME) -> None:
            headers = {"task": task, "x-death": [{"reason": reason}]}
            body = json.dumps([arguments, {}, {}]).encode()
            message = amqp.Message(body, content_type="application/json", application_headers=headers)
            channel.basic_publish_confirm(message, routing_key=DLQ)

        return publish

    def test_is_taken_apart_and_sent_again(self, put: Any, batch: Any) -> None:
        envelopes = batch("", "", "")
        killers = [dataclasses.replace(*batch(""), attempt=attempt) for attempt in (0, LAST_ATTEMPT)]
        for one in killers:
            StartedMessage.begin(Rows(SERVICE), one, delivery=uuid7(), worker="w1")
        put([one.as_dict() for one in (*envelopes, *killers)])
        assert collect(SERVICE) == 1
        again = {str(row.message_id): row.attempt for row in Outgoing.objects.all()}
        assert again == {one.id: 0 for one in envelopes} | {killers[0].id: 1}
        assert DeadLetter.objects.get().reason == "killed_its_worker"

    def test_has_a_dead_letter_for_each_of_its_messages(self, put: Any, batch: Any) -> None:
        envelopes = batch("", "")
        put([one.as_dict() for one in envelopes] + [{"no": "envelope"}], reason="rejected")
        assert collect(SERVICE) == 1
        found = {str(dead.message_id): dead for dead in DeadLetter.objects.all()}
        assert found.keys() == {*(one.id for one in envelopes), "None"}
        assert [found[one.id].envelope() for one in envelopes] == envelopes

    @pytest.mark.parametrize("others", [[{}] * MAX_IN_A_BATCH, [{}, 17], [["celery.map"]]], ids=["many", "n", "list"])
    def test_is_kept_whole_if_no_relay_made_it(self, put: Any, batch: Any, others: list[Any]) -> None:
        (one,) = batch("")
        put([one.as_dict(), *others], reason="rejected")
        assert collect(SERVICE) == 1
        dead = DeadLetter.objects.get()
        assert (dead.message_id, dead.reason, Outgoing.objects.count()) == (None, "malformed", 0)


class TestTheCheck:
    def test_is_fine_with_this_project(self) -> None:
        assert list(checks.every_batch_has_a_handler(None)) == []

    @pytest.mark.parametrize(("name", "together"), [(NAME, None), (Count.name, print)])
    def test_finds_a_message_that_does_not_fit_its_handler(
        self, name: str, together: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(CONSUMERS, name, dataclasses.replace(CONSUMERS[name], together=together))
        (problem,) = checks.every_batch_has_a_handler(None)
        assert (problem.id, problem.msg.split()[0]) == ("outbox.E006", name)
