"""What `celery inspect` and `manage.py workers` make of the answers; see test_observability.py for a real run."""

import threading
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import kombu
import pytest
from amqp.exceptions import AccessRefused, NotFound
from celery.worker.consumer import Consumer
from celery.worker.control import Panel
from celery.worker.pidbox import Pidbox
from django.conf import settings
from django.core.management import CommandError, call_command

from orders_project import celery
from orders_project.celery import WORK, app, declare_topology
from orders_project.celery_inspect import ANSWERED
from orders_project.celery_worker import Answers, CarefulConsumer
from orders_project.observability import workers
from orders_project.tests.chaos.proxy import Proxies
from outbox import broker


def test_workers_answer_what_celery_knows_as_a_question() -> None:
    assert {name for name in ANSWERED if Panel.meta[name].type != "inspect"} == set()


@pytest.mark.parametrize("refusal", [NotFound, AccessRefused])
def test_a_worker_works_where_questions_are_not_declared(
    refusal: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any) -> None:
        raise refusal("inspect.questions")

    monkeypatch.setattr(Pidbox, "start", refuse)
    consumer: Any = SimpleNamespace(app=app, hostname="me", pool=None, controller=SimpleNamespace(use_eventloop=True))
    Answers(consumer).start(consumer)
    assert "does not answer `celery inspect`" in caplog.text


class TestAWorkerWhoseNodeStandsStill:
    @pytest.fixture
    def consumer(self, monkeypatch: pytest.MonkeyPatch) -> CarefulConsumer:
        monkeypatch.setattr(CarefulConsumer, "ensure_connected", lambda self, connection: connection)
        monkeypatch.setattr(Consumer, "on_connection_error_after_connected", lambda self, error: None)
        consumer = CarefulConsumer.__new__(CarefulConsumer)
        consumer.app = app
        return consumer

    def test_has_waited_for_no_confirmation_of_its_events(self, consumer: CarefulConsumer) -> None:
        assert consumer.connection_for_read().transport_options["confirm_publish"] is True
        assert consumer.connection_for_write().transport_options["confirm_publish"] is False

    def test_says_no_good_bye(self, consumer: CarefulConsumer) -> None:
        node = urlsplit(settings.AMQP_URL)
        with Proxies(broker=lambda: node.port or 5672) as proxies:
            credentials = node.netloc.rpartition("@")[0]
            through = node._replace(netloc=f"{credentials}@127.0.0.1:{proxies.links['broker'].port}").geturl()
            events = kombu.Connection(through)
            events.connect()
            proxies.hold("broker")
            consumer.event_dispatcher = SimpleNamespace(connection=events)
            consumer.on_connection_error_after_connected(ConnectionResetError())
            assert not events.connected

    def test_goes_on_at_the_next_one(self, consumer: CarefulConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settings, "AMQP_URL", f"{settings.AMQP_URL};{settings.AMQP_URL}?next")
        consumer.event_dispatcher = None
        first, second = broker.nodes(settings.AMQP_URL)
        assert str(consumer.connection_for_read().alt[0]) == first
        consumer.on_connection_error_after_connected(ConnectionResetError())
        assert str(consumer.connection_for_read().alt[0]) == second

    def test_notices_that_it_delivers_nothing_any_more(
        self, consumer: CarefulConsumer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settings, "AMQP_HEARTBEAT", 0)
        monkeypatch.setattr(broker, "CONNECT_TIMEOUT", 1)
        declare_topology()
        node = urlsplit(settings.AMQP_URL)
        with Proxies(broker=lambda: node.port or 5672) as proxies:
            credentials = node.netloc.rpartition("@")[0]
            consumer._node = node._replace(netloc=f"{credentials}@127.0.0.1:{proxies.links['broker'].port}").geturl()
            consumer.leave_if_alone()
            proxies.hold("broker", answers_only=True)
            monkeypatch.setattr(settings, "AMQP_HEARTBEAT", 60)
            consumer.heard()
            consumer.leave_if_alone()  # something has just come
            monkeypatch.setattr(settings, "AMQP_HEARTBEAT", 0)
            with pytest.raises(ConnectionError, match="does not answer"):
                consumer.leave_if_alone()


def test_a_declaration_ends_though_its_node_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the connection was made: until then the time to connect is the limit."""
    ended: list[BaseException] = []

    def declare() -> None:
        try:
            declare_topology()
        except OSError as error:
            ended.append(error)

    node = urlsplit(settings.AMQP_URL)
    with Proxies(broker=lambda: node.port or 5672) as proxies:
        credentials = node.netloc.rpartition("@")[0]
        through = node._replace(netloc=f"{credentials}@127.0.0.1:{proxies.links['broker'].port}").geturl()
        make = kombu.Exchange.declare

        def hold_and_make(self: kombu.Exchange, **options: Any) -> Any:
            proxies.hold("broker")
            return make(self, **options)

        monkeypatch.setattr(kombu.Exchange, "declare", hold_and_make)
        monkeypatch.setattr(settings, "AMQP_URL", through)
        monkeypatch.setitem(celery.TIMEOUTS, "read_timeout", 0.5)
        thread = threading.Thread(target=declare)
        thread.start()
        thread.join(timeout=30)
        is_stuck = thread.is_alive()
    thread.join(timeout=30)
    assert not is_stuck
    assert isinstance(ended[0], TimeoutError)


def request(name: str, shown: str, began: float | None) -> dict[str, Any]:
    return {"name": name, "args": shown, "time_start": began, "worker_pid": 7}


@pytest.mark.django_db
class TestWhatWorkersDo:
    @pytest.fixture
    def answers(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr(workers.time, "time", lambda: 1000.0)
        known = {
            "active_queues": {"a@1": [{"name": "orders.beat"}, {"name": "orders"}], "b@1": [{"name": "payments"}]},
            "active": {
                "a@1": [request("outbox.tick", "('orders',)", 999.0), request("order.processed", "…", None)],
                "b@1": [request("payments.charge", "(payments.charge o-1 +24)", 800.0)],
            },
            "reserved": {"b@1": [{}, {}]},
        }
        monkeypatch.setattr(workers, "_ask", lambda what, **options: known[what])
        return known

    def test_is_shown_with_what_needs_a_person(self, answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            call_command("workers")
        assert [line.split() for line in capsys.readouterr().out.splitlines()][1:5] == [
            ["a@1", "7", "outbox.tick", "1", "s"],
            ["a@1", "7", "order.processed", "0", "ms"],
            ["b@1", "7", "payments.charge", "3", "min", "o-1", "and", "24", "more"],
            ["b@1", "2", "waiting"],
        ]
        assert workers.look().troubles == [
            "no worker of the queue processing has answered: it is not running, or it hangs",
            "no worker of the queue orders.webhooks has answered: it is not running, or it hangs",
            "b@1 has been handling payments.charge for 200 s: manage.py order o-1",
        ]

    def test_is_fine_if_each_queue_has_a_worker_that_is_not_held_up(self, answers: Any) -> None:
        answers["active_queues"]["a@1"] = [{"name": name} for name in WORK]
        answers["active"]["b@1"] = []
        call_command("workers")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AccessRefused("no"), "may not ask workers"),
        (NotFound("no queue"), "declare_topology"),
        (ConnectionRefusedError(), "cannot be reached"),
    ],
)
def test_who_cannot_ask_is_told_why(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(workers, "_ask", fail)
    with pytest.raises(CommandError, match=said):
        call_command("workers")
