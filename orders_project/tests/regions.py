"""Two regions on one machine: a whole system under load, and a second one that waits to take over."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

import psycopg
import requests

from orders_project.embedded import places, processes, variable
from orders_project.embedded.postgres import FOR_TESTS, Postgres
from orders_project.embedded.rabbitmq import RabbitMQ
from orders_project.embedded.services import DATABASES, Services

from .chaos.customers import ADDED, USERS, Customers
from .chaos.proxy import Proxies
from .chaos.records import Records
from .process_tree import family
from .running_system import RunningSystem
from .standbys import Streaming

ENVIRONMENT = {
    "RATE_LIMIT_ORDERS_PER_MINUTE": "0", "FAKE_PAYMENT_SUCCESS_RATE": "0.9", "PROCESSING_SUCCESS_RATE": "0.9",
    "REFUND_APPROVAL_ABOVE": "100000",
}  # fmt: skip
ROLES = ("web", "relay", "beat", "orders", "payments", "processing")
CHARGES = "SELECT message_id FROM outbox_outgoingmessage WHERE type = 'payments.charge' AND published_at IS NOT NULL"
HANDLED = "SELECT count(*) FROM outbox_incomingmessage WHERE message_id = ANY(%s)"
KNOWN = "SELECT order_id FROM orders_order"
DONE_AFTER = """
SELECT extract(epoch FROM min(status_since))::float FROM orders_order
WHERE status = 'done' AND status_since > to_timestamp(%s)
"""
# The gateway sent its webhook while nobody was there; a hold was committed, and its order was not.
ASK_NOW = """
WITH payments AS (UPDATE payments_payment SET ask_at = now() WHERE ask_at > now())
UPDATE payments_refund SET ask_at = now() WHERE ask_at > now()
"""
EXPIRE_NOW = """
UPDATE processing_hold SET expires_at = now() WHERE status = 'held' AND expires_at > now() AND order_id <> ALL(%s)
"""
# The gateway has given a part back that is forgotten here, so all of it cannot go back: a person decides.
REFUSED = "SELECT order_id FROM payments_payment WHERE status IN ('void_refused', 'refund_refused')"
IS_SYNCHRONOUS = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"


class Second(Streaming):
    """A standby in the second region."""

    def tell(self, statement: str) -> Any:
        """Have its server do something; the first thing that it answers."""
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall()[0][0] if cursor.description else None


class Regions:
    """
    The first region runs as `system`; its address for clients is that of whichever region runs. The gateway is
    somebody else's and outlives both.
    """

    def __init__(
        self, system: RunningSystem, standbys: Mapping[str, Second], broker: RabbitMQ, proxies: Proxies
    ) -> None:
        """:param standbys: by the name of their link; `payments` has one of its own if its database has"""
        self.system, self.standbys, self._proxies = system, standbys, proxies
        of = {name: standbys.get(name, standbys["all"]) for name in DATABASES}
        self.second = {variable(name): of[name].server.url(name) for name in DATABASES}
        self.second |= {
            "AMQP_URL": broker.url("/"),
            "OTHER_REGION_DATABASE_URLS": ",".join(system.env[variable(name)] for name in DATABASES),
        }
        self.customers = Customers(system, seed=20, rate=3)

    @property
    def first_server(self) -> Postgres:
        return self.standbys["all"].primary

    def make_synchronous(self) -> None:
        """From now on no commit of the first region is answered before the standby has it on its disk."""
        for statement in ("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"):
            self.tell_first(statement)
        self.system.until(lambda: self.tell_first(IS_SYNCHRONOUS) == [(1,)])

    def hold_replication(self, name: str) -> datetime:
        """From now on this standby gets nothing, and the first region does not wait for it; the time."""
        ((at,),) = self.tell_first("SELECT clock_timestamp()")
        self._proxies.hold(name)
        assert isinstance(at, datetime)
        return at

    def tell_first(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.first_server.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def accept(self, number: int) -> None:
        """Wait until so many more orders are accepted."""
        target = len(self.customers.memory.accepted) + number
        self.system.until(lambda: len(self.customers.memory.accepted) >= target)

    def let_messages_wait_in_the_broker(self) -> None:
        """Payments dies, and messages to it have left the outbox: nobody but the broker has them now."""
        self.system.kill("payments")

        def waiting() -> bool:
            sent = [message for (message,) in self.system.query("orders", CHARGES)]
            return self.system.query("payments", HANDLED, sent) != [(len(sent),)]

        self.system.until(waiting)

    def orders_of_first(self) -> dict[str, datetime]:
        """The orders that the first region knows, and when each of them changed."""
        return dict(self.system.query("orders", "SELECT order_id, updated_at FROM orders_order"))

    def command(self, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[str, int]:
        """What `manage.py region …` says in the second region, and its exit code."""
        return self.system.ask("region", *arguments, env=self.second | dict(env or {}))

    def lose_processes(self) -> float:
        """kill -9 of every process of the first region but its servers; the time when the first of them died."""
        at = time.time()
        for name in ROLES:
            if name in self.system.running:
                self.system.kill(name)
        return at

    def lose_servers(self) -> None:
        """kill -9 of its PostgreSQL and its RabbitMQ; what they had sent and nobody has received is gone."""
        for server in (*(one.primary for one in self.standbys.values()), self.system.services.rabbitmq):
            assert server is not None
            assert server.process is not None
            members = family(server.process.pid)
            server.kill()
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for name in self.standbys:
            self._proxies.reset(name)

    def take_over(self, *, lost_at: float) -> str:
        """Promote the second region, start it, and wait until it has done an order; what the command said."""
        called_at = time.time()
        said, code = self.command("promote")
        print(said)
        assert code == 0, said
        again, code = self.command("promote")
        assert code == 0, again
        assert "a primary already" in again
        assert "promoted, " not in again
        begins = time.time()
        self.system.env |= self.second
        self.system.start(*ROLES, env=self.second)  # where clients look for them
        memory, system = self.customers.memory, self.system
        system.until(lambda: any(at > begins for at in list(memory.accepted.values())))
        system.until(lambda: system.query("orders", DONE_AFTER, begins) != [(None,)])
        ((done_at,),) = system.query("orders", DONE_AFTER, begins)
        first = min(at for at in list(memory.accepted.values()) if at > begins)
        times = [
            f"{first - begin:.1f} s to an order accepted, {done_at - begin:.1f} s" for begin in (lost_at, called_at)
        ]
        print(f"RTO: from the loss {times[0]} to one done; from the command {times[1]}")
        return said

    def end_everything(self, *, some_is_lost: bool = False) -> None:
        """
        No customer comes any more, and what would be done in some minutes is done now.

        :param some_is_lost: whether customers send all their deposits again, as some of them are lost, and orders may
            be left to a person
        """
        self.customers.stop()
        for amount in self.customers.memory.deposited if some_is_lost else ():
            number = amount - ADDED
            path, headers = f"/accounts/u{number % USERS}/deposit", {"Idempotency-Key": f"in-{number}"}
            sent = requests.post(self.system.url(path), json={"amount": amount / 100}, headers=headers, timeout=60)
            sent.raise_for_status()
            self.customers.memory.deposited[amount] = True
        records = self.records()

        def ended() -> bool:
            self.system.query("payments", ASK_NOW)
            self.system.query("processing", EXPIRE_NOW, [order for (order,) in self.system.query("orders", KNOWN)])
            left = {order for (order,) in self.system.query("payments", REFUSED)} if some_is_lost else set[str]()
            return {order for order, _ in records.open_orders()} <= left and records.is_quiet(but=left)

        self.system.until(ended)

    def records(self) -> Records:
        """What the databases of the second region and the gateway say."""
        urls = {name: self.second[variable(name)] for name in DATABASES}
        return Records(urls, gateway=self.system.env["FAKE_GATEWAY_URL"], memory=self.customers.memory)


@contextmanager
def two_regions(*, payments_apart: bool = False) -> Iterator[Regions]:
    """
    The first region runs and has products and accounts; the second one has all of it.

    :param payments_apart: whether the database of payments has a server of its own
    """
    with ExitStack() as undo:
        home = places.scratch("region")
        undo.callback(places.forget, home)
        broker = RabbitMQ(home / "rabbitmq")
        undo.callback(broker.stop)
        broker.launch()
        port = processes.free_port()
        given, primaries = Services(), dict[str, Postgres]()
        if payments_apart:
            primaries["payments"] = Postgres(home / "first-payments", settings=FOR_TESTS)
            undo.callback(primaries["payments"].stop)
            primaries["payments"].start()
            primaries["payments"].create_database("payments")
            given.env[variable("payments")] = primaries["payments"].url("payments")
        environment = ENVIRONMENT | {"FAKE_GATEWAY_URL": f"http://127.0.0.1:{port}"}
        system = undo.enter_context(RunningSystem(environment, given=given, pooled=()))
        system.commands["gateway"] = ["manage.py", "fake_gateway", "--port", str(port)]
        assert system.services.postgres is not None
        primaries["all"] = system.services.postgres
        ports = {name: (lambda server=server: server.port) for name, server in primaries.items()}
        proxies = undo.enter_context(Proxies(**ports))
        standbys = {name: Second(server, home / f"second-{name}") for name, server in primaries.items()}
        for name, standby in standbys.items():
            undo.callback(standby.server.stop)
            follow(standby, port=proxies.links[name].port)
        broker.await_ready()
        system.start_all()
        system.until(lambda: processes.answers(port))
        regions = Regions(system, standbys, broker, proxies)
        regions.customers.prepare()
        yield regions


def follow(standby: Second, *, port: int) -> None:
    """Have a standby follow its primary at another port."""
    address = standby.tell("SHOW primary_conninfo")
    moved = address.replace(f"port={standby.primary.port}", f"port={port}").replace("'", "''")
    standby.tell(f"ALTER SYSTEM SET primary_conninfo = '{moved}'")
    standby.tell("SELECT pg_reload_conf()")
