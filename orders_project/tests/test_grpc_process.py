"""manage.py grpcserver as a process: it waits for its database, serves, survives its loss, and stops gracefully."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from django.db import connections, transaction
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from orders.models import Order
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders_project.embedded import processes
from orders_project.grpc.calls import SERVICE
from orders_project.management.commands.grpcserver import GRACE
from outbox.tests.proxy import Proxy

from . import forked
from .databases import keep_waiting, waiting_for_locks

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]
TIMEOUT = 120


class Server:
    """The server as its image starts it, on the databases of this test; that of orders is reached through a proxy."""

    def __init__(self, home: Path) -> None:
        self.log = home / "grpc.log"
        self.port, at = processes.free_port(), processes.free_port()
        orders = connections["orders"].settings_dict
        self.proxy = lambda: Proxy(orders["HOST"], int(orders["PORT"]), at=at)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "DJANGO_"))}
        self.environment = kept | {
            "SERVICES": "orders", "GRPC_PORT": str(self.port), "PYTHONUNBUFFERED": "1", "DATABASE_POOL": "8",
            "DATABASE_URL_ORDERS": url("orders", port=at), "DATABASE_URL_PROCESSING": url("processing"),
        }  # fmt: skip

    @contextmanager
    def runs(self) -> Iterator[processes.Process]:
        command = ["python", "manage.py", "wait", "--", "python", "manage.py", "grpcserver"]
        with self.log.open("wb") as log:
            process = forked.start(command, env=self.environment, output=log)
        try:
            yield process
        finally:
            processes.end(process)

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            yield channel

    def says(self, text: str) -> None:
        try:
            processes.wait_until(lambda: text in self.log.read_text(), timeout=TIMEOUT)
        except TimeoutError:
            raise AssertionError(f"{text} is not in {self.log.read_text()}") from None


def url(service: str, *, port: int | None = None) -> str:
    at = connections[service].settings_dict
    return f"postgres://{at['USER']}:{at['PASSWORD']}@{at['HOST']}:{port or at['PORT']}/{at['NAME']}"


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def code_of(call: Any, *arguments: Any, **options: Any) -> grpc.StatusCode:
    try:
        call(*arguments, timeout=TIMEOUT, **options)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def an_order(order_id: str) -> pb.CreateOrderRequest:
    return pb.CreateOrderRequest(order_id=order_id, user_id="ann", amount=19.99)


def test_waits_for_its_database_and_survives_its_loss(server: Server) -> None:
    with server.runs(), server.channel() as channel:
        server.says("wait: waiting for database orders (")
        with server.proxy():
            server.says("gRPC is listening on")
            assert "wait: everything is available" in server.log.read_text()
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", SERVICE):
                asked = health_pb2.HealthCheckRequest(service=service)
                answer = health.Check(asked, timeout=TIMEOUT, wait_for_ready=True)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            question = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            listed = next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(question))
            assert SERVICE in [service.name for service in listed.list_services_response.service]
            orders = OrderServiceStub(channel)
            made = orders.CreateOrder(an_order("before"), timeout=TIMEOUT)
            assert (made.order_id, made.total_amount, made.status) == ("before", 19.99, "pending")
        asked = pb.GetOrderRequest(order_id="before")
        assert code_of(orders.GetOrder, asked) is grpc.StatusCode.UNAVAILABLE
        watched = (answer.status for answer in health.Watch(health_pb2.HealthCheckRequest(service=SERVICE)))
        assert health_pb2.HealthCheckResponse.NOT_SERVING in watched
        alive = health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert alive.status == health_pb2.HealthCheckResponse.SERVING
        with server.proxy():
            processes.wait_until(lambda: code_of(orders.GetOrder, asked) is grpc.StatusCode.OK, timeout=TIMEOUT)
            assert orders.CreateOrder(an_order("after"), timeout=TIMEOUT).order_id == "after"
            assert orders.GetOrder(asked, timeout=TIMEOUT) == made
            assert health_pb2.HealthCheckResponse.SERVING in watched


def test_a_signal_lets_calls_finish_and_takes_no_new_ones(server: Server) -> None:
    """Under load: what was answered is there, what was turned away is not."""
    slow = [f"waits-{number}" for number in range(4)]
    with server.proxy(), server.runs() as process, server.channel() as channel, ThreadPoolExecutor(6) as crowd:
        orders = OrderServiceStub(channel)
        server.says("gRPC is listening on")
        orders.CreateOrder(an_order("first"), timeout=TIMEOUT, wait_for_ready=True)
        with transaction.atomic(using="orders"):
            for order_id in slow:
                keep_waiting(order_id)
            calls = [orders.CreateOrder.future(an_order(order_id), timeout=TIMEOUT) for order_id in slow]
            processes.wait_until(lambda: waiting_for_locks("orders") == len(slow), timeout=TIMEOUT)
            load = [crowd.submit(until_turned_away, orders, f"load-{number}") for number in range(6)]
            processes.wait_until(lambda: Order.objects.filter(pk__startswith="load-").count() > 20, timeout=TIMEOUT)
            process.send_signal(signal.SIGTERM)
            made = [order_id for one in load for order_id in one.result(timeout=TIMEOUT)]
            assert not [call for call in calls if call.done()]
            assert process.poll() is None
        assert [call.result().order_id for call in calls] == slow
        assert process.wait(timeout=GRACE + TIMEOUT) == 0
    assert "gRPC has stopped" in server.log.read_text()
    assert set(Order.objects.values_list("pk", flat=True)) == {"first", *slow, *made}


def until_turned_away(orders: OrderServiceStub, name: str) -> list[str]:
    """
    Place orders until the server takes no more; the ids of those that were answered.

    A call that arrives at the very moment is cancelled by gRPC, before anybody has looked at it.
    """
    made: list[str] = []
    while (code := code_of(orders.CreateOrder, an_order(f"{name}-{len(made)}"))) is grpc.StatusCode.OK:
        made.append(f"{name}-{len(made)}")
    assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return made


def test_a_call_that_does_not_end_is_ended(server: Server) -> None:
    """The grace is no promise for ever: what still runs then is told so, and the process ends all the same."""
    with server.proxy(), server.runs() as process, server.channel() as channel:
        orders = OrderServiceStub(channel)
        server.says("gRPC is listening on")
        with transaction.atomic(using="orders"):
            keep_waiting("stuck")
            call = orders.CreateOrder.future(an_order("stuck"), timeout=GRACE + 2 * TIMEOUT, wait_for_ready=True)
            processes.wait_until(lambda: waiting_for_locks("orders") == 1, timeout=TIMEOUT)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=GRACE + TIMEOUT) == 0
            assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
