"""
PostgreSQL under Patroni, whose primary is lost while customers come: what was accepted ends, once, and it goes on soon.

Each service finds the primary its own way: orders is told both servers (`target_session_attrs`), payments asks haproxy,
as the back office does, and processing asks PgBouncer in transaction mode, which asks haproxy.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import requests

from orders_project.embedded import CannotRun, variable
from orders_project.embedded.services import DATABASES, Services

from .patroni import MARGIN, TTL, Databases
from .under_load import UnderLoad

pytestmark = pytest.mark.processes
DIRECT, POOLED = "orders", "processing"
WHERE = "SELECT inet_server_port()"


class Shop(UnderLoad):
    """The system on databases that fail over."""

    def __init__(self, given: Services, databases: Databases) -> None:
        super().__init__(given, rate=1)
        self.databases = databases

    @contextmanager
    def through_pgbouncer(self) -> Iterator[psycopg.Connection[Any]]:
        """A client of the PgBouncer through which the processes reach a database."""
        if not self.system.pooled:
            pytest.skip("NO PGBOUNCER HERE, a primary behind it is not lost")
        assert self.system.pooled == [POOLED]
        with psycopg.connect(self.system.env[variable(POOLED)], autocommit=True) as client:
            yield client

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
            variable(name): databases.direct(name) if name == DIRECT else databases.through_haproxy(name)
            for name in DATABASES
        }
        broker = {name: value for name, value in given("failover").env.items() if name == "AMQP_URL"}
        yield stack.enter_context(Shop(Services(env=env | broker), databases))


def test_the_primary_is_killed(shop: Shop) -> None:
    """A client of PgBouncer that is in no transaction then does not even notice."""
    shop.databases.until_synchronous()
    primary = shop.databases.primary()
    assert primary is not None
    with shop.through_pgbouncer() as client:
        assert client.execute(WHERE).fetchone() == (primary.port,)
        began = time.monotonic()
        primary.kill()
        shop.serves_soon_after(began, "killed")
        assert client.execute(WHERE).fetchone() == (shop.databases.other(primary).port,)
    assert shop.databases.primary() is not primary
    primary.start()
    shop.databases.until_synchronous()


def test_the_primary_is_frozen(shop: Shop) -> None:
    """
    It is ended before it goes on, as its watchdog would do sooner: it comes back as a standby.

    A Patroni 3.0 that goes on after its lease was lost may put itself in the place of its successor.
    """
    primary = shop.databases.primary()
    assert primary is not None
    assert (
        primary.watchdog_timeout() == TTL - MARGIN
    )  # it leads with a watchdog alone, which acts before the lease ends
    assert shop.databases.other(primary).watchdog_timeout() is None
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
