"""Which of its service's queues a message waits in."""

import json
from collections import Counter
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from outbox import broker, partitions
from outbox.batches import packed
from outbox.ids import uuid7
from outbox.message import EVENTS, REGISTRY, Message
from outbox.relay import Relay
from outbox.services import model_of
from outbox.tests.examples import SERVICE, Count, CountTogether

Outgoing = model_of(SERVICE, "Outgoing")


def queue_of(kind: type[Message], *, subject: str = "o-1", id: str = "") -> str:
    return partitions.queue_of(kind.name, to=kind.to, subject=subject, id=id)


@pytest.fixture
def four(settings: Any) -> None:
    settings.OUTBOX_QUEUES = 4


def test_it_is_the_one_queue_of_the_service_by_default() -> None:
    assert {queue_of(Count, subject=f"o-{number}") for number in range(100)} == {SERVICE}


@pytest.mark.usefixtures("four")
class TestWithSeveralQueues:
    def test_every_process_and_every_release_finds_the_same_one(self) -> None:
        """These are what messages wait in already: they never change."""
        assert [queue_of(Count, subject=f"o-{number}") for number in range(6)] == [
            "payments", "payments.2", "payments", "payments.2", "payments.1", "payments.3",
        ]  # fmt: skip

    @pytest.mark.parametrize("subject", ["o-{}", "ORD-2026-{:08}", "{}"])
    def test_each_gets_its_share(self, subject: str) -> None:
        shares = Counter(queue_of(Count, subject=subject.format(number)) for number in range(4000))
        assert len(shares) == 4
        assert all(900 < share < 1100 for share in shares.values()), shares

    def test_what_is_about_nothing_is_spread_and_stays_where_it_was(self) -> None:
        ids = [str(uuid7()) for _ in range(100)]
        found = [queue_of(Count, subject="", id=one) for one in ids]
        assert set(found) == set(partitions.names(SERVICE, 4))
        assert found == [queue_of(Count, subject="", id=one) for one in ids]

    @pytest.mark.parametrize(("to", "queue"), [(SERVICE, "payments.aside"), (EVENTS, "")])
    def test_a_queue_of_its_own_stays_one_and_so_do_events(
        self, to: str, queue: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind = type("Slow", (Message,), {}, name="tests.slow", to=to, queue=queue)
        del REGISTRY["tests.slow"]
        monkeypatch.setitem(REGISTRY, "tests.slow", kind)  # for this test alone
        assert {queue_of(kind, subject=f"o-{number}") for number in range(100)} == {queue or to}

    @pytest.mark.django_db
    def test_no_batch_mixes_them(self) -> None:
        with transaction.atomic(using=SERVICE):
            rows = Outgoing.post(*(CountTogether(order_id=f"o-{number}") for number in range(200)))
        groups = packed(rows)
        assert all(len({queue_of(CountTogether, subject=row.subject) for row in group}) == 1 for group in groups)
        assert sorted(row.subject for group in groups for row in group) == sorted(row.subject for row in rows)
        assert len(groups) < 20  # they are batches all the same

    @pytest.mark.django_db
    def test_a_relay_sends_each_to_its_own(self, channel: Any, take: Any) -> None:
        for name in partitions.names(SERVICE, 4)[1:]:
            channel.queue_declare(name, durable=True, auto_delete=False)
            channel.queue_bind(name, settings.OUTBOX_EXCHANGE, broker.binding(name))
        try:
            with transaction.atomic(using=SERVICE):
                Outgoing.post(*(CountTogether(order_id=f"o-{number}") for number in range(40)), Count(order_id=""))
            relay = Relay(SERVICE)
            relay.drain()
            relay.publisher.close()
            assert not Outgoing.objects.filter(published_at=None).exists()
            found = 0
            for name in partitions.names(SERVICE, 4):
                for message in take(name):
                    for one in json.loads(message.body)[0]:
                        found += 1
                        about = partitions.queue_of(one["type"], to=SERVICE, subject=one["subject"], id=one["id"])
                        assert about == name
            assert found == 41
        finally:
            for name in partitions.names(SERVICE, 4)[1:]:
                channel.queue_delete(name)
