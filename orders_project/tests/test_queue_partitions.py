"""
A system whose services have several queues each: real workers of all or of some of them, and their number changes.

A queue that copies everything that is sent between the services tells which way each message went.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import amqp
import pytest
import requests

from orders import messages
from orders_project.embedded.services import Services
from orders_project.tests.running_system import RunningSystem
from outbox import broker, partitions
from outbox.envelope import Envelope
from outbox.ids import uuid7
from outbox.message import REGISTRY

pytestmark = pytest.mark.processes

SERVICES = ("orders", "payments", "processing")
ASIDE = {"orders.webhooks"}
QUEUES = 4
MOST_OPEN = 40  # so that each queue has some of them
PARTS = {"left": "0,1", "right": "2,3"}  # two workers of every service, and which of its queues each consumes
Sent = list[tuple[str, list[dict[str, Any]]]]  # routing keys, and the messages that traveled by each
DONE = "SELECT order_id FROM orders_order WHERE status = 'done'"
OPEN = "SELECT order_id FROM orders_order WHERE status NOT IN ('done', 'canceled', 'failed')"
FOUND = """
SELECT order_id FROM orders_orderevent GROUP BY 1
HAVING count(*) <> max(version) OR count(*) FILTER (WHERE status = 'done') <> 1
"""
CHARGED = "SELECT order_id FROM payments_entry WHERE kind = 'charge' GROUP BY 1 HAVING count(*) <> 1"
DEAD = "SELECT count(*) FROM outbox_deadletter WHERE status = 'dead'"
UNSENT = "SELECT count(*) FROM outbox_outgoingmessage WHERE published_at IS NULL AND due_at < now()"


class Partitioned(RunningSystem):
    """A system without beat and the gateway, whose workers are workers of every service."""

    def start(self, *names: str, queues: int = QUEUES, part: str = "", **options: Any) -> None:
        """Start processes that find so many queues; workers of which a `part` is named consume that one."""
        for name in names:
            command = self.commands.get(name.rstrip("0123456789")) or [
                "-m", "celery", "-q", "-A", "orders_project", "worker", "-Q", f"{','.join(SERVICES)},orders.webhooks",
                "-c", "2", "-n", f"{name}@%h", "--without-gossip", "--without-mingle", "-l", "INFO",
            ]  # fmt: skip
            env = {"ORDERS_QUEUES": str(queues), "WORKER_QUEUES": part}
            super().start(name, command=command, env=env, **options)

    def place(self, number: int = 1) -> list[str]:
        """Place so many orders; their ids."""
        found = []
        for _ in range(number):
            order = {"user_id": "ann", "amount": "1.00", "description": "x"}
            answer = requests.post(self.url("/orders"), json=order, timeout=60)
            assert answer.status_code == 201, answer.text
            found.append(str(answer.json()["order_id"]))
        return found

    def done(self, orders: list[str]) -> set[str]:
        """Those of these orders that are done."""
        return {found for (found,) in self.query("orders", DONE)} & set(orders)

    def sent_all(self, service: str) -> bool:
        """Whether the broker has all that this service has posted and that is due."""
        return self.query(service, UNSENT) == [(0,)]

    def depth(self, queue: str) -> int:
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)

    def delete(self, queues: set[str]) -> None:
        with self.channel() as channel:
            for name in queues:
                channel.queue_delete(name)

    def channel(self) -> Any:
        connection = broker.connect(self.env["AMQP_URL"])
        channel = connection.channel()
        channel.__class__ = _OneOff
        return channel

    def consumed(self) -> dict[str, set[str]]:
        """Which queues each worker says that it consumes."""
        workers = json.loads(self.ask("workers", "--json")[0])["workers"]
        return {worker["name"].partition("@")[0]: set(worker["queues"]) for worker in workers}

    def check(self) -> None:
        """Everything has ended, once: each step, each charge, each message; and nothing is a dead letter."""
        self.until(lambda: not self.query("orders", OPEN))
        for service in SERVICES:
            self.until(partial(self.sent_all, service))
            assert self.query(service, DEAD) == [(0,)]
        assert self.query("orders", FOUND) == []
        assert self.query("payments", CHARGED) == []
        self.manage("history", "--check")
        self.until(lambda: self.ask("audit")[1] == 0)


class Shop:
    """A customer who places one order after the other for as long as this is entered, unless too many are open."""

    def __init__(self, system: Partitioned) -> None:
        self.system, self.orders = system, list[str]()
        self.number_done = 0
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._shop)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _shop(self) -> None:
        while not self._stop.wait(0.1):
            if len(self.orders) - self.number_done < MOST_OPEN:
                self.orders += self.system.place()

    def await_orders(self, number: int) -> None:
        """Wait until so many orders are done that are placed from now on."""
        known = len(self.orders)
        self.until(lambda: len(self.system.done(self.orders[known:])) >= number)

    def until(self, done: Callable[[], Any]) -> None:
        """Wait until this is true, and keep account of the orders that are done."""

        def look() -> Any:
            self.number_done = len(self.system.done(self.orders))
            return done()

        self.system.until(look)


class _OneOff(amqp.Channel):
    """A channel whose connection ends with it."""

    def __exit__(self, *exception: object) -> None:
        self.connection.close()


@pytest.fixture(scope="module")
def standing(given: Callable[[str], Services]) -> Iterator[Partitioned]:
    with Partitioned({"ORDERS_QUEUES": str(QUEUES)}, given=given("queues")) as system:
        system.start("web")
        requests.post(system.url("/accounts"), params={"user_id": "ann"}, timeout=60)
        answer = requests.post(system.url("/accounts/ann/deposit"), json={"amount": "1000000"}, timeout=60)
        assert answer.ok, answer.text
        yield system


@pytest.fixture
def system(standing: Partitioned) -> Iterator[Partitioned]:
    """The system with its web alone, and its queues; whatever a test starts besides ends with it."""
    standing.manage("declare_topology")
    yield standing
    for name in set(standing.running) - {"web"}:
        standing.stop(name)


@pytest.fixture
def sent(system: Partitioned) -> Iterator[Callable[[], Sent]]:
    """What was sent between the services since last asked: the routing key, and the messages that traveled by it."""
    with system.channel() as channel:
        copies = channel.queue_declare(exclusive=True).queue
        channel.queue_bind(copies, "messages", "#")

        def take() -> list[tuple[str, list[dict[str, Any]]]]:
            found = []
            while (message := channel.basic_get(copies, no_ack=True)) is not None:
                is_readable = message.properties.get("content_type") == "application/json"
                found.append((message.delivery_info["routing_key"], json.loads(message.body)[0] if is_readable else []))
            return found

        yield take


def of_queue(orders: list[str], *numbers: int) -> set[str]:
    """Those of these orders whose messages wait in the queues of these numbers."""
    return {order for order in orders if partitions.number_of(order, QUEUES) in numbers}


def names(*numbers: int) -> set[str]:
    """The queues of these numbers, of every service."""
    return {partitions.name_of(service, number) for number in numbers for service in SERVICES}


def queue_of(message: dict[str, Any]) -> str:
    """The queue in which this message is to wait."""
    return partitions.name_of(REGISTRY[message["type"]].to, partitions.number_of(message["subject"], QUEUES))


def queues_of(sent: Sent) -> set[str]:
    """The queues to which something was sent."""
    return {key.partition(".")[0].replace("-", ".") for key, _ in sent}


def test_all_orders_end_and_each_queue_has_had_its_own(system: Partitioned, sent: Callable[[], Sent]) -> None:
    orders = system.place(30)  # they wait, so that there are batches
    system.start("relay", "worker")
    orders += system.place(10)
    system.until(lambda: len(system.done(orders)) == len(orders))
    traveled = sent()
    for key, together in traveled:
        for one in together:
            assert key == broker.address(queue_of(one), one["type"])[1]
    assert queues_of(traveled) == names(*range(QUEUES))
    assert max(len(messages) for _, messages in traveled) > 1  # and no batch mixes them
    assert system.consumed() == {"worker": names(*range(QUEUES)) | ASIDE}
    system.check()


def test_a_worker_that_is_killed_delays_the_orders_of_its_queues_alone(system: Partitioned) -> None:
    for name, part in PARTS.items():
        system.start(name, part=part)
    system.until(lambda: len(system.consumed()) == len(PARTS))
    assert system.consumed() == {"left": names(0, 1) | ASIDE, "right": names(2, 3) | ASIDE}
    system.start("relay")
    before = system.place(20)
    system.until(lambda: system.done(before))
    system.kill("right")
    orders = system.place(20)
    near, far = of_queue(orders, 0, 1), of_queue(orders, 2, 3)
    assert near
    assert far
    system.until(lambda: system.done(orders) == near and of_queue(before, 0, 1) <= system.done(before))
    assert set(re.findall(r"no worker consumes the queue (\S+)", system.ask("status")[0])) == names(2, 3)
    system.start("right", part=PARTS["right"])
    system.until(lambda: len(system.done(orders + before)) == len(orders + before))
    system.check()


def test_their_number_changes_under_load(system: Partitioned, sent: Callable[[], Sent]) -> None:
    """From one to four and down to two: nothing is lost or done twice, and what is left in a queue is handled."""
    left_over = [name for name in names(2, 3) if name.startswith("payments")]
    system.delete(names(1, 2, 3))
    with Shop(system) as shop:
        system.start("relay1", "worker1", queues=1)
        shop.await_orders(5)
        assert queues_of(sent()) == names(0)
        system.manage("declare_topology")
        system.start("relay4", queues=4)  # in the worst order: what it sends waits for the workers
        shop.until(lambda: all(system.depth(name) for name in left_over))
        system.start("worker4", queues=4)
        shop.await_orders(5)
        system.stop("relay1")
        system.stop("worker1")
        shop.await_orders(5)
        assert queues_of(sent()) == names(*range(4))
        system.stop("worker4")
        shop.until(lambda: all(system.depth(name) for name in left_over))
        system.start("relay2", queues=2)
        system.stop("relay4")
        sent()
        system.start("left", queues=2, part="0")
        system.start("right", queues=2, part="1")
        shop.await_orders(5)
    system.until(lambda: len(system.done(shop.orders)) == len(shop.orders))
    assert queues_of(sent()) == names(0, 1)
    assert [system.depth(name) for name in names(*range(4))] == [0] * 12
    assert system.consumed() == {"left": names(0, 2) | ASIDE, "right": names(1, 3) | ASIDE}
    system.check()

    system.delete(names(2, 3))
    orders = system.place(10)
    system.until(lambda: len(system.done(orders)) == len(orders))
    system.until(lambda: system.consumed() == {"left": names(0) | ASIDE, "right": names(1) | ASIDE})
    system.check()


def test_what_the_broker_loses_with_a_queue_is_sent_again(system: Partitioned) -> None:
    orders = system.place(20)
    lost, others = of_queue(orders, 2), of_queue(orders, 0, 1, 3)
    assert lost
    system.start("relay")
    system.until(lambda: all(system.depth(name) for name in partitions.names("payments", QUEUES)))
    system.until(lambda: system.sent_all("orders"))
    system.delete({"payments.2"})
    system.start("worker")  # which declares it anew
    system.until(lambda: system.done(orders) == others)
    system.manage("resend", "--grace", "0s")
    system.until(lambda: len(system.done(orders)) == len(orders))
    system.check()


def test_dead_letters_of_every_queue_are_collected_and_replayed(
    system: Partitioned, sent: Callable[[], Sent], settings: Any, tmp_path: Path
) -> None:
    settings.OUTBOX_QUEUES = QUEUES
    system.start("relay", "worker", "beat")
    orders = system.place(8)
    system.until(lambda: len(system.done(orders)) == len(orders))
    (order, *_) = of_queue(orders, 1, 2, 3)
    kind = messages.Overdue.name
    malformed = Envelope(
        id=str(uuid7()), source="/orders", type=kind, subject=order, time=datetime.now(UTC).isoformat(),
        schemaversion=1, correlationid="c", data={"order_id": 7},
    )  # fmt: skip
    exchange, key, message = broker.encode(malformed, to="orders")
    assert key == broker.address(queue_of(malformed.as_dict()), kind)[1] != f"orders.{kind}"
    with system.channel() as channel:  # which may be closed before the broker has looked at what it does not confirm
        channel.basic_publish_confirm(message, exchange, key)
        channel.basic_publish_confirm(amqp.Message(b"no JSON"), exchange, key)

    found = "SELECT id, reason FROM outbox_deadletter WHERE status = 'dead' ORDER BY reason"
    system.until(lambda: len(system.query("orders", found)) == 2)
    (readable, why), (other, other_why) = system.query("orders", found)
    assert (why, other_why) == ("malformed", "undecodable")
    (file := tmp_path / "data.json").write_text(json.dumps({"order_id": order}))
    sent()
    system.manage("dlq", "replay", str(readable), "--data", str(file), "--why", "a test")
    handled = "SELECT 1 FROM outbox_incomingmessage WHERE message_id = %s"
    system.until(lambda: system.query("orders", handled, malformed.id))
    assert key in {one for one, _ in sent()}
    system.manage("dlq", "discard", str(other), "--why", "a test")
    system.check()
