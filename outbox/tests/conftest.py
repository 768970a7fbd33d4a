"""Fixtures: the queues of the broker, a table that counts effects, a connection that can be cut."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import amqp
import pytest
from django.conf import settings
from django.db import connections, transaction
from django.utils.module_loading import import_string

from outbox import broker
from outbox.consumers import receive
from outbox.envelope import Envelope
from outbox.message import Message
from outbox.services import model_of
from outbox.tests.counted import CREATE
from outbox.tests.examples import SERVICE
from outbox.tests.proxy import Proxy


@pytest.fixture(scope="session")
def topology() -> None:
    import_string(settings.BROKER_TOPOLOGY)()


@pytest.fixture
def channel(topology: None) -> Iterator[Any]:
    """A channel of a broker whose queues exist and are empty."""
    connection = broker.connect()
    channel = connection.channel()
    for service in settings.SERVICES:
        channel.queue_purge(service)
        channel.queue_purge(f"{service}.dlq")
    yield channel
    connection.close()


@pytest.fixture
def take(channel: Any) -> Callable[..., list[amqp.Message]]:
    """Take all the messages out of a queue."""

    def take_all(queue: str = SERVICE) -> list[amqp.Message]:
        taken = []
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            taken.append(message)
        return taken

    return take_all


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A connection to the broker that can be blocked and cut."""
    parts = urlsplit(settings.AMQP_URL)
    with Proxy(str(parts.hostname), parts.port or 5672) as proxy:
        proxy.url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl()
        yield proxy


@pytest.fixture
def counted(db: Any) -> Iterator[Callable[[], list[str]]]:
    """The ids of the messages that had their effect, once for each time they had it."""
    connection = connections[SERVICE]
    with connection.cursor() as cursor:
        cursor.execute(CREATE)

    def ids() -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT message_id FROM counted ORDER BY at")
            return [str(row[0]) for row in cursor.fetchall()]

    yield ids
    if not connection.in_atomic_block:  # else the test's rollback takes it away
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE counted")


@pytest.fixture
def posted(db: Any) -> Callable[..., Envelope]:
    """Post a message and take its envelope from the outbox, as a relay would."""

    def envelope_of(message: Message, **options: Any) -> Envelope:
        with transaction.atomic(using=SERVICE):
            (row,) = model_of(SERVICE, "Outgoing").post(message, **options)
            row.delete()
        return row.envelope()

    return envelope_of


@pytest.fixture
def hand_over() -> Callable[..., None]:
    """Have the service handle what arrives in this envelope, as a worker would."""

    def deliver(arrived: Envelope | Any, *, times: int = 1, redelivered: bool = False) -> None:
        raw = arrived.as_dict() if isinstance(arrived, Envelope) else arrived
        headers = {"task": "tests.count"} | ({"delivery_info": {"redelivered": True}} if redelivered else {})
        for _ in range(times):
            receive(SERVICE, json.loads(json.dumps(raw)), headers=headers, worker="w1")

    return deliver


@pytest.fixture
def in_thread() -> Iterator[Callable[..., threading.Thread]]:
    """Run something in a thread of its own, with database connections of its own."""
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def start(work: Callable[..., Any], *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                failures.append(error)
            finally:
                connections.close_all()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    if failures:
        raise failures[0]
