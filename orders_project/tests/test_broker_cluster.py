"""
Three nodes of RabbitMQ, of which one is lost, while customers come: what was accepted ends, once, and it goes on soon.

The system is told all nodes in `AMQP_URL`, and nothing else.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import amqp
import pytest

from orders_project.embedded.rabbitmq import NoRabbitMQ
from orders_project.embedded.services import Services
from outbox import broker

from .broker_cluster import Cluster
from .under_load import TIMEOUT, UnderLoad

pytestmark = pytest.mark.processes
RUBBISH = 20


class Shop(UnderLoad):
    """The system on a cluster of brokers."""

    def __init__(self, given: Services, cluster: Cluster) -> None:
        super().__init__(given, rate=1)
        self.cluster = cluster

    def until_all_are_members(self) -> None:
        for node in self.cluster.nodes:
            node.await_ready()
        self.system.until(self.cluster.is_whole, timeout=TIMEOUT)


@pytest.fixture(scope="module")
def shop(given: Callable[..., Services]) -> Iterator[Shop]:
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(Cluster())
        except NoRabbitMQ as refusal:
            pytest.skip(f"NO CLUSTER HERE, the loss of a node is not tested: {refusal}")
        services = given("cluster")
        services.env["AMQP_URL"] = cluster.url
        yield stack.enter_context(Shop(services, cluster))


def test_the_leader_of_a_queue_is_killed(shop: Shop) -> None:
    leader = shop.cluster.leader_of("orders")
    began = time.monotonic()
    leader.kill()
    shop.serves_soon_after(began, "killed")
    leader.start()
    shop.until_all_are_members()


def test_the_node_that_most_are_connected_to_is_frozen(shop: Shop) -> None:
    node = shop.cluster.busiest()
    began = time.monotonic()
    node.freeze()
    try:
        shop.serves_soon_after(began, "frozen")
    finally:
        node.thaw()
    shop.until_all_are_members()


def test_the_node_that_most_are_connected_to_is_cut_off(shop: Shop) -> None:
    """It finds that it is alone and pauses, and clients go to the others."""
    node = shop.cluster.busiest()
    began = node.cut_off()
    try:
        shop.serves_soon_after(began, "cut off")
    finally:
        node.join_again()
    shop.until_all_are_members()


def test_all_restart_one_after_the_other(shop: Shop) -> None:
    """As for an upgrade. Meanwhile some messages are dead on arrival: none of them is lost either."""
    publisher = broker.Publisher(shop.cluster.url, exchanges=[""])
    rest = [("", "payments", amqp.Message(f"rubbish {number}", delivery_mode=2)) for number in range(RUBBISH)]
    for node in shop.cluster.nodes:
        shop.until_all_are_members()
        began = time.monotonic()
        node.stop()
        shop.serves_soon_after(began, "restarting")
        rest = publish(publisher, rest, until=len(rest) - RUBBISH // 3)  # whose answers may take as long as they like
        node.start()
    publish(publisher, rest, until=0)
    publisher.close()
    shop.until_all_are_members()


def publish(publisher: broker.Publisher, rest: list[broker.Encoded], *, until: int) -> list[broker.Encoded]:
    """Publish messages until so many are left; return those."""
    deadline = time.monotonic() + TIMEOUT
    while len(rest) > until:
        outcome = publisher.send(rest[: len(rest) - until])
        rest = [one for index, one in enumerate(rest) if index not in outcome.confirmed]
        assert time.monotonic() < deadline, outcome
    return rest


def test_nothing_was_lost_or_done_twice(shop: Shop) -> None:
    bodies = "SELECT DISTINCT convert_from(body, 'UTF8') FROM outbox_deadletter WHERE reason = 'undecodable'"
    shop.system.until(lambda: len(shop.system.query("payments", bodies)) == RUBBISH, timeout=TIMEOUT)
    shop.system.query("payments", "UPDATE outbox_deadletter SET status = 'discarded' WHERE reason = 'undecodable'")
    assert shop.findings() == []
    memory = shop.customers.memory
    print(f"{memory.sent} customers, {len(memory.accepted)} orders accepted, {memory.unanswered} never answered")
    assert memory.accepted
    assert memory.unanswered == 0
