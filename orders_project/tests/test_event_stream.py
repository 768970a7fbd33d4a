"""What the world hears of orders: read from outside, by a consumer that knows AMQP and CloudEvents and nothing else."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import kombu
import pytest
from django.conf import settings
from django.utils import timezone

from orders import services
from orders_project.celery import declare_topology
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
    told = {"order_id": order.order_id, "status": "pending", "total": 1250, "version": 1}
    assert told.items() <= event["data"].items()
    # Attributes as CloudEvents allows them: lower-case a to z and digits, strings and integers.
    assert all(name.isalnum() and name.islower() for name in event)
    assert all(isinstance(value, str | int) for name, value in event.items() if name != "data")


def test_what_nobody_hears_is_kept_for_a_while(connection: kombu.Connection) -> None:
    order = place()
    relay_orders()
    unheard = kombu.Queue("events.unheard", no_declare=True)
    assert hear(connection, unheard(connection.channel()), until=order.order_id)["type"] == "order.created"
