"""What the world hears of orders: read from outside, by a consumer that knows AMQP and CloudEvents and nothing else."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import kombu
import pytest
from django.conf import settings
from django.db import connections, transaction
from django.utils import timezone

from orders import services
from orders.messages import OrderFact
from orders.models import Outgoing
from orders_project.celery import declare_topology
from outbox import stream
from outbox.relay import Relay

pytestmark = pytest.mark.django_db


@pytest.fixture
def connection() -> Iterator[kombu.Connection]:
    declare_topology()
    with kombu.Connection(settings.AMQP_URL) as connection:
        yield connection


def place() -> Any:
    new = services.NewOrder(lines=(services.Line(quantity=1, price=1250),), user_id="ann")
    return services.place_order(new=new, now=timezone.now())[0]


def relay_orders() -> None:
    relay = Relay("orders")
    relay.drain()
    relay.publisher.close()


def hear(connection: kombu.Connection, queue: kombu.Queue, *, until: str) -> dict[str, Any]:
    """The first event about this order."""
    heard: list[tuple[dict[str, Any], kombu.Message]] = []

    def note(message: kombu.Message) -> None:
        body = message.body if isinstance(message.body, str) else bytes(message.body).decode()
        heard.append((json.loads(body), message))
        message.ack()

    ends = time.monotonic() + 60
    with kombu.Consumer(connection, [queue], on_message=note, auto_declare=False):
        while not any(event["subject"] == until for event, _ in heard):
            assert time.monotonic() < ends
            connection.drain_events(timeout=60)
    event, message = next((event, message) for event, message in heard if event["subject"] == until)
    assert message.content_type == "application/cloudevents+json"
    assert message.delivery_info["routing_key"] == event["type"]
    return event


def test_an_order_is_told_as_a_cloud_event(connection: kombu.Connection) -> None:
    queue = kombu.Queue("", kombu.Exchange("events", type="topic", passive=True), "order.*", exclusive=True)
    bound = queue(connection.channel())
    bound.declare()
    order = place()
    relay_orders()
    event = hear(connection, bound, until=order.order_id)
    assert {name: event[name] for name in ("specversion", "source", "type", "subject", "datacontenttype")} == {
        "specversion": "1.0",
        "source": "/orders",
        "type": "order.created",
        "subject": order.order_id,
        "datacontenttype": "application/json",
    }
    assert UUID(event["id"]).version == 7
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    assert event["sequence"] == "0000000001"
    told = {"order_id": order.order_id, "status": "pending", "total": 1250, "version": 1}
    assert told.items() <= event["data"].items()
    # Attributes as CloudEvents allows them: lower-case a to z and digits, strings and integers.
    assert all(name.isalnum() and name.islower() for name in event)
    assert all(isinstance(value, str | int) for name, value in event.items() if name != "data")


def test_what_nobody_hears_is_kept_for_a_while(connection: kombu.Connection) -> None:
    """Where the broker keeps no stream of events."""
    channel = connection.channel()
    channel.queue_delete(settings.EVENTS_STREAM)
    try:
        channel.queue_purge("events.unheard")
        order = place()
        relay_orders()
        unheard = kombu.Queue("events.unheard", no_declare=True)
        assert hear(connection, unheard(channel), until=order.order_id)["type"] == "order.created"
    finally:
        declare_topology()


@pytest.mark.django_db(transaction=True)
def test_two_relays_side_by_side_tell_every_version_and_a_reader_can_order_them(
    connection: kombu.Connection, settings: Any
) -> None:
    settings.EVENTS_STREAM = f"tests.stream.{uuid4()}"
    declare_topology()
    told = {(f"o-{n}", version) for n in range(60) for version in range(1, 6)}
    for version in range(1, 6):
        facts = (
            OrderFact(order_id=order_id, fact="paid", order={"order_id": order_id, "version": version})
            for order_id, of_order in sorted(told)
            if of_order == version
        )
        with transaction.atomic(using="orders"):
            Outgoing.post(*facts)
    relays = [Relay("orders"), Relay("orders")]

    def send(relay: Relay) -> None:
        # Small batches that alternate, as those of two busy relays do.
        while Outgoing.objects.filter(published_at=None).exists():
            relay.send_batch(now=timezone.now())
        relay.publisher.close()
        connections["orders"].close()

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as threads:
        patch.setattr("outbox.relay.BATCH", 20)
        for done in [threads.submit(send, relay) for relay in relays]:
            done.result()
    found: list[dict[str, Any]] = []
    with stream.Reader("first") as reader:
        while len(found) < len(told):
            found += [kept.event for kept in reader.read(wait=60)]
    connection.channel().queue_delete(settings.EVENTS_STREAM)
    assert {(event["subject"], int(event["sequence"])) for event in found} == told
    assert all(len(event["sequence"]) == 10 and int(event["sequence"]) == event["data"]["version"] for event in found)
    newest: dict[str, str] = {}
    for event in found:
        newest[event["subject"]] = max(event["sequence"], newest.get(event["subject"], ""))
    assert set(newest.values()) == {"0000000005"}
