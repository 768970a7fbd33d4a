"""
PostgreSQL under Patroni, whose primary is lost while customers come: what was accepted ends, once, and it goes on soon.

Orders and payments are told both servers (`target_session_attrs`), processing and the back office ask haproxy.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
import requests

from orders_project.embedded import CannotRun, variable
from orders_project.embedded.services import DATABASES, Services

from .patroni import Databases
from .under_load import UnderLoad

pytestmark = pytest.mark.processes
DIRECT = ("orders", "payments")


class Shop(UnderLoad):
    """The system on databases that fail over."""

    def __init__(self, given: Services, databases: Databases) -> None:
        super().__init__(given, rate=1)
        self.databases = databases

    def places(self) -> int:
        """The status with which an order is answered."""
        order = {"user_id": "u1", "amount": 1, "description": f"order-{uuid4()}"}
        headers = {"Idempotency-Key": str(uuid4())}
        return requests.post(self.system.url("/orders"), json=order, headers=headers, timeout=60).status_code


@pytest.fixture(scope="module")
def shop(given: Callable[..., Services]) -> Iterator[Shop]:
    with ExitStack() as stack:
        try:
            databases = stack.enter_context(Databases())
        except CannotRun as refusal:
            pytest.skip(f"NO PATRONI HERE, the loss of a primary is not tested: {refusal}")
        env = {
            variable(name): databases.direct(name) if name in DIRECT else databases.through_haproxy(name)
            for name in DATABASES
        }
        broker = {name: value for name, value in given("failover").env.items() if name == "AMQP_URL"}
        yield stack.enter_context(Shop(Services(env=env | broker), databases))


def test_the_primary_is_killed(shop: Shop) -> None:
    shop.databases.until_synchronous()
    primary = shop.databases.primary()
    assert primary is not None
    began = time.monotonic()
    primary.kill()
    shop.serves_soon_after(began, "killed")
    assert shop.databases.primary() is not primary
    primary.start()
    shop.databases.until_synchronous()


def test_the_primary_is_frozen(shop: Shop) -> None:
    """
    When it has been replaced it is ended, as its watchdog would do: it comes back as a standby.

    A Patroni 3.0 that goes on after its lease was lost may put itself in the place of its successor.
    """
    primary = shop.databases.primary()
    assert primary is not None
    began = time.monotonic()
    primary.freeze()
    try:
        shop.serves_soon_after(began, "frozen")
        shop.databases.until(lambda: shop.databases.listeners("orders") == 1)  # the relay is told by the new one
    finally:
        primary.kill()
        primary.start()
    shop.databases.until_synchronous()
    assert shop.databases.primary() is not primary


def test_the_primary_takes_no_writes_for_a_while(shop: Shop) -> None:
    """As when a provider has run out of disk: nobody is to blame, and nothing is given up."""
    shop.databases.set_read_only(True)
    try:
        shop.system.until(lambda: shop.places() >= 500)
    finally:
        began = time.monotonic()
        shop.databases.set_read_only(False)
    shop.serves_soon_after(began, "read-only, until")


def test_nothing_was_lost_or_done_twice(shop: Shop) -> None:
    assert shop.findings() == []
    memory = shop.customers.memory
    print(f"{memory.sent} customers, {len(memory.accepted)} orders accepted, {memory.unanswered} never answered")
    assert memory.accepted
    assert memory.unanswered == 0
