"""Settings that name several servers, and what happens when one of them is silent."""

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import amqp
import psycopg
import pytest
from django.conf import settings
from django.db import connections

from orders_project import silent_servers
from orders_project.celery import declare_topology
from orders_project.environment import Environment
from orders_project.privileges.broker import vhost_of
from orders_project.tests.chaos.proxy import Proxies
from outbox import broker, stream

NODES = "amqp://app:p%3B@one:5672/shop; amqps://app@two/shop"


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the tests are long, since a machine may be slow: here they are waited for."""
    monkeypatch.setattr(broker, "CONNECT_TIMEOUT", 5.0)
    monkeypatch.setattr(broker, "CONFIRM_TIMEOUT", 5.0)


@pytest.fixture
def dead_end(short_timeouts: None) -> Iterator[int]:
    """A port where connections are taken, as by the kernel of a host for a frozen process, and nothing is answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


def read(monkeypatch: pytest.MonkeyPatch, tmp_path: object, **variables: str) -> Environment:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ENV_FILE", raising=False)
    return Environment(env_file=tmp_path / "none")  # type: ignore[operator]


class TestNodesOfTheBroker:
    @pytest.mark.parametrize(
        ("value", "why"),
        [
            ("amqp://a@one/x;http://a@two/x", "each node needs a URL of the form amqp://"),
            ("amqp://a@one/x;", "each node needs a URL"),
            ("amqp://a@one/x;amqp://a@two:port/x", "each node needs a URL"),
            ("amqp://a@one/x;amqp://a@two/y", "the nodes of a cluster have the same scheme, user and name"),
            ("amqp://a@one/x;amqp://b@two/x", "the nodes of a cluster have the same scheme, user and name"),
            ("amqp://a@one/x;amqp://a@one/x", "names a node twice"),
        ],
    )
    def test_that_are_wrong_are_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: object, value: str, why: str
    ) -> None:
        env = read(monkeypatch, tmp_path, AMQP_URL=value)
        env.urls("AMQP_URL", schemes=("amqp", "amqps"))
        (problem,) = env.problems
        assert problem.startswith("AMQP_URL")
        assert why in problem

    def test_that_are_right_are_one_setting(self, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
        env = read(monkeypatch, tmp_path, AMQP_URL="amqp://a:p@one/x ; amqp://a:q@two:5673/x")
        assert env.urls("AMQP_URL", schemes=("amqp",)) == "amqp://a:p@one/x;amqp://a:q@two:5673/x"
        assert env.problems == []
        assert vhost_of("amqp://a@one;amqp://a@two/") == "/"
        assert vhost_of("amqp://a@one/shop;amqp://a@two/shop") == "shop"

    @pytest.mark.slow
    def test_one_after_the_other_is_tried_and_what_answered_is_remembered(self, dead_end: int) -> None:
        several = f"amqp://a:b@127.0.0.1:1//;amqp://a:b@127.0.0.1:{dead_end}//;{settings.AMQP_URL}"
        broker.connect(several).close()
        began = time.monotonic()
        broker.connect(several).close()
        assert time.monotonic() - began < broker.CONNECT_TIMEOUT
        assert broker.answering_first(several) == ";".join(broker.nodes(several)[2:] + broker.nodes(several)[:2])

    @pytest.mark.slow
    def test_none_of_which_answers_are_lost(self, dead_end: int) -> None:
        with pytest.raises(broker.LOST):
            broker.connect(f"amqp://a:b@127.0.0.1:{dead_end}//;amqp://a:b@127.0.0.1:1//")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A stream of its own."""
    declare_topology()
    name = f"tests.events.{uuid4()}"
    monkeypatch.setattr(settings, "EVENTS_STREAM", name)
    assert not stream.declare()
    yield name
    with broker.connect() as connection:
        connection.channel().queue_delete(name)


@pytest.mark.usefixtures("short_timeouts")
@pytest.mark.slow
def test_a_reader_of_the_stream_goes_on_at_another_node(events: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, node = broker.Publisher(exchanges=[""]), urlsplit(settings.AMQP_URL)
    publisher.open()

    def tell(*bodies: str) -> None:
        outcome = publisher.send([("", events, amqp.Message(body, delivery_mode=2)) for body in bodies])
        assert len(outcome.confirmed) == len(bodies)

    def read(reader: stream.Reader, number: int) -> list[str]:
        found: list[str] = []
        until = time.monotonic() + 120
        while len(found) < number and time.monotonic() < until:
            found += [kept.message.body for kept in reader.read(wait=1)]
        return found

    with Proxies(first=lambda: node.port or 5672) as proxies:
        credentials = node.netloc.rpartition("@")[0]
        first = node._replace(netloc=f"{credentials}@127.0.0.1:{proxies.links['first'].port}").geturl()
        monkeypatch.setattr(settings, "AMQP_URL", f"{first};{settings.AMQP_URL}")
        monkeypatch.setattr(settings, "AMQP_HEARTBEAT", 1)
        with stream.Reader("next") as reader:
            tell("one", "two")
            assert read(reader, 2) == ["one", "two"]
            proxies.hold("first")  # it is silent from now on, and refuses nobody
            tell("three")
            assert read(reader, 1) == ["three"]
    publisher.close()


@pytest.mark.slow
def test_all_connections_of_a_process_go_on_at_the_node_after_one_that_is_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "AMQP_HEARTBEAT", 1)
    node = urlsplit(settings.AMQP_URL)
    with Proxies(first=lambda: node.port or 5672) as proxies:
        first = node._replace(
            netloc=f"{node.netloc.rpartition('@')[0]}@127.0.0.1:{proxies.links['first'].port}"
        ).geturl()
        several = f"{first};{settings.AMQP_URL}"
        publishers = [broker.Publisher(several, exchanges=[""]) for _ in range(2)]
        for publisher in publishers:
            publisher.open()
        proxies.hold("first")
        for publisher in publishers:
            while publisher._connection is not None:
                publisher.read_answers()
                time.sleep(0.01)
        assert broker.answering_first(several).startswith(f"{settings.AMQP_URL};")
        assert "can't be reached" not in caplog.text  # nobody has tried the silent one again


@pytest.mark.slow
class TestANodeThatConfirmsNothing:
    """As one of RabbitMQ 4.2 that is cut off from the others: it answers heartbeats."""

    @pytest.fixture
    def publisher(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[broker.Publisher]:
        declare_topology()
        monkeypatch.setattr(settings, "AMQP_HEARTBEAT", 1)
        monkeypatch.setattr(broker, "CONFIRM_TIMEOUT", 0.1)
        monkeypatch.setattr(broker._Lane, "_on_ack", lambda *arguments: None)
        publisher = broker.Publisher(f"{settings.AMQP_URL};{settings.AMQP_URL}?next", exchanges=[""])
        yield publisher
        publisher.close()

    def sent(self, publisher: broker.Publisher) -> broker.Outcome:
        """What has become of a message after a while."""
        outcome = publisher.send([("", "events.unheard", amqp.Message("x"))])
        assert outcome.waiting == {0}
        until = time.monotonic() + 2 * 3 * settings.AMQP_HEARTBEAT
        while time.monotonic() < until and not outcome.cut_off:
            publisher.read_answers()
            time.sleep(0.05)
        return outcome

    def test_is_left(self, publisher: broker.Publisher) -> None:
        assert "has not answered" in self.sent(publisher).cut_off
        publisher.open()
        assert publisher._node.endswith("?next")

    def test_keeps_its_messages_if_it_has_said_that_it_is_full(self, publisher: broker.Publisher) -> None:
        publisher.open()
        assert publisher._connection is not None
        publisher._connection.on_blocked("low on memory")
        assert self.sent(publisher).cut_off == ""
        publisher._connection.on_unblocked()
        assert "has not answered" in self.sent(publisher).cut_off

    def test_is_not_waited_for_longer_than_that(
        self, publisher: broker.Publisher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And gets heartbeats meanwhile, or else it would have closed the connection by then."""
        monkeypatch.setattr(broker, "CONFIRM_TIMEOUT", 4.0)
        begun = time.monotonic()
        outcome = publisher.send([("", "events.unheard", amqp.Message("x"))])
        assert time.monotonic() - begun >= 4
        assert (outcome.waiting, outcome.cut_off) == ({0}, "")

    def test_keeps_its_messages_if_it_is_the_only_one(self, publisher: broker.Publisher) -> None:
        publisher._url = settings.AMQP_URL
        assert self.sent(publisher).cut_off == ""


class TestHostsOfADatabase:
    def test_the_one_that_takes_writes_is_used(self, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
        url = "postgres://app:p%40@one:5433,two/shop?sslmode=require"
        env = read(monkeypatch, tmp_path, DATABASE_URL_ORDERS=url)
        found = env.database("DATABASE_URL_ORDERS", database="orders")
        assert (found["HOST"], found["PORT"], found["NAME"], found["PASSWORD"]) == (
            "one,two",
            "5433,5432",
            "shop",
            "p@",
        )
        assert found["OPTIONS"] == {"sslmode": "require", "target_session_attrs": "read-write"}
        assert env.problems == []

    def test_one_that_is_a_standby_is_used_where_one_is_wanted(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: object
    ) -> None:
        env = read(monkeypatch, tmp_path, DATABASE_URL_ORDERS_READ="postgres://app@one,two/shop")
        found = env.database("DATABASE_URL_ORDERS_READ", database="orders")
        assert found["OPTIONS"] == {"target_session_attrs": "prefer-standby"}

    def test_another_choice_stands(self, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
        url = "postgres://app@one,two/shop?target_session_attrs=prefer-standby"
        env = read(monkeypatch, tmp_path, DATABASE_URL_ORDERS=url)
        found = env.database("DATABASE_URL_ORDERS", database="orders")
        assert found["OPTIONS"] == {"target_session_attrs": "prefer-standby"}

    @pytest.mark.parametrize("hosts", ["one,", "one:x,two", ",two"])
    def test_that_are_wrong_are_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: object, hosts: str) -> None:
        env = read(monkeypatch, tmp_path, DATABASE_URL_ORDERS=f"postgres://app@{hosts}/shop")
        env.database("DATABASE_URL_ORDERS", database="orders")
        (problem,) = env.problems
        assert "is not a URL of the form postgres://user:password@host:port,host:port/name" in problem


class TestASilentServer:
    """A session is given up only if its server takes no other connection either."""

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(silent_servers, "SILENCE", 0.3)
        monkeypatch.setattr(silent_servers, "ANSWER_TIMEOUT", 2)

    @pytest.fixture
    def watched(self) -> Iterator[tuple[psycopg.Connection[object], Proxies]]:
        given = connections["orders"].settings_dict
        with Proxies(database=lambda: int(given["PORT"] or 5432)) as proxies:
            session = psycopg.connect(
                host=f"127.0.0.1,{given['HOST']}", port=f"{proxies.links['database'].port},{given['PORT']}",
                dbname="postgres", user=given["USER"], password=given["PASSWORD"], autocommit=True,
            )  # fmt: skip
            wrapper = connections["orders"].copy()
            wrapper.settings_dict["HOST"] = f"127.0.0.1,{given['HOST']}"
            wrapper.connection = session
            silent_servers.watch(sender=None, connection=wrapper)
            yield session, proxies
            session.close()

    @pytest.mark.timeout(120)
    def test_is_given_up(self, watched: tuple[psycopg.Connection[object], Proxies]) -> None:
        session, proxies = watched
        proxies.hold("database")
        with pytest.raises(psycopg.OperationalError, match="has not answered"):
            session.execute("SELECT 1")
        assert session.closed

    def test_is_waited_for_while_it_is_only_busy(self, watched: tuple[psycopg.Connection[object], Proxies]) -> None:
        session, _ = watched
        assert session.execute("SELECT pg_sleep(1), 5").fetchone() == ("", 5)
