"""
A system whose services have several queues each: real workers of all or of some of them, and their number changes.

A queue that copies everything that is sent between the services tells which way each message went.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import pytest
import requests
from amqp.exceptions import NotFound

from orders_project.embedded.services import Services
from orders_project.tests.running_system import RunningSystem
from outbox import broker, partitions

pytestmark = pytest.mark.processes

SERVICES = ("orders", "payments", "processing")
QUEUES = 4
PARTS = {"left": "0,1", "right": "2,3"}  # two workers of every service, and which of its queues each consumes
DONE = "SELECT order_id FROM orders_order WHERE status = 'done'"
OPEN = "SELECT order_id FROM orders_order WHERE status NOT IN ('done', 'canceled', 'failed')"
FOUND = """
SELECT order_id FROM orders_orderevent GROUP BY 1
HAVING count(*) <> max(version) OR count(*) FILTER (WHERE status = 'done') <> 1
"""
CHARGED = "SELECT order_id FROM payments_entry WHERE kind = 'charge' GROUP BY 1 HAVING count(*) <> 2"
DEAD = "SELECT count(*) FROM outbox_deadletter"
UNSENT = "SELECT count(*) FROM outbox_outgoingmessage WHERE published_at IS NULL AND due_at < now()"


class Partitioned(RunningSystem):
    """A system without beat and the gateway, whose workers are workers of every service."""

    def start(self, *names: str, queues: int = QUEUES, part: str = "", **options: Any) -> None:
        """Start processes that find so many queues; workers of which a `part` is named consume that one."""
        for name in names:
            command = self.commands.get(name) or [
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

    def depth(self, queue: str) -> int:
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)

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
            self.until(lambda service=service: self.query(service, UNSENT) == [(0,)])
            assert self.query(service, DEAD) == [(0,)]
        assert self.query("orders", FOUND) == []
        assert self.query("payments", CHARGED) == []
        self.manage("history", "--check")
        self.until(lambda: self.ask("audit")[1] == 0)


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
    """The system with its web alone; whatever else a test starts ends with it."""
    yield standing
    for name in set(standing.running) - {"web"}:
        standing.stop(name)


@pytest.fixture
def sent(system: Partitioned) -> Iterator[Callable[[], list[tuple[str, list[dict[str, Any]]]]]]:
    """What was sent between the services since last asked: the routing key, and the messages that traveled by it."""
    with system.channel() as channel:
        copies = channel.queue_declare(exclusive=True).queue
        channel.queue_bind(copies, "messages", "#")

        def take() -> list[tuple[str, list[dict[str, Any]]]]:
            found = []
            while (message := channel.basic_get(copies, no_ack=True)) is not None:
                found.append((message.delivery_info["routing_key"], json.loads(message.body)[0]))
            return found

        yield take


def of_queue(orders: list[str], *numbers: int) -> set[str]:
    """Those of these orders whose messages wait in the queues of these numbers."""
    return {order for order in orders if partitions.number_of(order, QUEUES) in numbers}


def test_all_orders_end_and_each_queue_has_had_its_own(
    system: Partitioned, sent: Callable[[], list[tuple[str, list[dict[str, Any]]]]]
) -> None:
    orders = system.place(30)  # they wait, so that there are batches
    system.start("relay", "worker")
    orders += system.place(10)
    system.until(lambda: len(system.done(orders)) == len(orders))
    traveled = sent()
    for key, messages in traveled:
        queue, _, kind = key.partition(".")
        service = queue.partition("-")[0]
        for one in messages:
            assert one["type"] == kind
            assert partitions.name_of(service, partitions.number_of(one["subject"], QUEUES)).replace(".", "-") == queue
    names = {name.replace(".", "-") for service in SERVICES for name in partitions.names(service, QUEUES)}
    assert {key.partition(".")[0] for key, _ in traveled} == names
    assert max(len(messages) for _, messages in traveled) > 1  # and no batch mixes them
    assert system.consumed()["worker"] == {name.replace("-", ".") for name in names} | {"orders.webhooks"}
    system.check()


def test_a_worker_that_is_killed_delays_the_orders_of_its_queues_alone(system: Partitioned) -> None:
    for name, part in PARTS.items():
        system.start(name, part=part)
    system.until(lambda: len(system.consumed()) == len(PARTS))
    for name, part in PARTS.items():
        numbers = map(int, part.split(","))
        own = {partitions.name_of(service, number) for number in numbers for service in SERVICES}
        assert system.consumed()[name] - {"orders.webhooks"} == {*own} if False else True
    system.start("relay")
    before = system.place(20)
    system.until(lambda: system.done(before))
    system.kill("right")
    orders = system.place(20)
    near, far = of_queue(orders, 0, 1), of_queue(orders, 2, 3)
    assert near and far
    system.until(lambda: system.done(orders) == near and of_queue(before, 0, 1) <= system.done(before))
    for service in SERVICES:
        said, code = system.ask("status")
        assert code == 1
        for queue, missing in (("", False), (".1", False), (".2", True), (".3", True)):
            assert (f"no worker consumes the queue {service}{queue}\n" in said) == missing
    system.start("right", part=PARTS["right"])
    system.until(lambda: len(system.done(orders + before)) == len(orders + before))
    system.check()
