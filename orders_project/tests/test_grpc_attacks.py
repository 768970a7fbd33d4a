"""What one client does to the gRPC server does not keep it from serving others."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest
from django.db import transaction
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders_project.embedded import processes
from orders_project.grpc import server as grpc_server
from orders_project.grpc.calls import SERVICE
from orders_project.grpc.server import Limits

from .databases import keep_waiting, waiting_for_locks
from .grpc_server import serving

pytestmark = pytest.mark.django_db(transaction=True)

STREAMS = 200
TIMEOUT = 120
PATIENT = Limits(message=3600)  # no stream of an attack ends before the test does


def connect(port: int) -> grpc.Channel:
    """A channel with a connection of its own."""
    return grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])


def answers(channel: grpc.Channel) -> bool:
    """Whether a real call is answered, which needs a thread and the database, and so is the question after health."""
    health = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(), timeout=TIMEOUT, wait_for_ready=True
    )
    listed = OrderServiceStub(channel).ListOrders(Empty(), timeout=TIMEOUT)
    return (health.status, len(listed.orders)) == (health_pb2.HealthCheckResponse.SERVING, 0)


class Attack:
    """Streams that are open and idle."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def nothing_more(self, *messages: Any) -> Iterator[Any]:
        yield from messages
        self._over.wait()

    def reflection(self, channel: grpc.Channel) -> Any:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(self.nothing_more(asked))
        assert next(call)
        return call

    def watch(self, channel: grpc.Channel) -> Any:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(call)
        return call

    def no_message(self, channel: grpc.Channel) -> Any:
        call = channel.stream_unary(f"/{SERVICE}/CreateOrder").future(self.nothing_more())
        assert dict(call.initial_metadata())
        return call

    @contextmanager
    def open(self, kind: str, port: int) -> Iterator[list[Any]]:
        with ExitStack() as stack:
            calls: list[Any] = []
            stack.callback(self._over.set)
            while len(calls) < STREAMS:
                channel = stack.enter_context(connect(port))
                calls += [getattr(self, kind)(channel) for _ in range(min(Limits.streams, STREAMS - len(calls)))]
            yield calls


@pytest.mark.parametrize("kind", ["reflection", "watch", "no_message"])
def test_idle_streams_keep_nobody_waiting(kind: str) -> None:
    with serving(limits=PATIENT) as server, connect(server.port) as channel, Attack().open(kind, server.port) as calls:
        assert answers(channel)
        assert not [call for call in calls if call.done()]


def test_connections_that_stall_in_the_handshake_are_closed() -> None:
    limits = Limits(connections=20, handshake=0.5)
    with serving(limits=limits) as server, connect(server.port) as channel, ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT))
            for _ in range(STREAMS)
        ]
        for one in silent[::2]:
            one.sendall(b"PRI * HTTP/2.0\r\n")
        assert answers(channel)
        for one in silent:
            while received(one):
                pass


def received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


def test_a_message_that_does_not_arrive_ends_its_call() -> None:
    with serving(limits=Limits(message=0.1)) as server, connect(server.port) as channel:
        over = threading.Event()
        call = channel.stream_unary(f"/{SERVICE}/CreateOrder").future(iter(over.wait, None))
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert call.details() == "The message did not arrive in time."
        over.set()


def test_a_connection_does_not_stay_for_ever() -> None:
    with serving(limits=Limits(connection_age=0.2, grace=0.2)) as server, connect(server.port) as channel:
        with pytest.raises(grpc.RpcError):
            list(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
        assert answers(channel)


def test_calls_that_find_no_thread_are_refused_while_health_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "WAITING_PER_THREAD", 0)
    request = pb.CreateOrderRequest(order_id="waits", user_id="ann", amount=1)
    with serving() as server, connect(server.port) as channel:
        orders = OrderServiceStub(channel)
        with transaction.atomic(using="orders"):
            keep_waiting("waits")
            calls = [orders.CreateOrder.future(request, timeout=TIMEOUT) for _ in range(2)]
            processes.wait_until(lambda: waiting_for_locks("orders") == 2, timeout=TIMEOUT)
            with pytest.raises(grpc.RpcError) as refusal:
                orders.CreateOrder(request, timeout=TIMEOUT)
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert [call.result().order_id for call in calls] == ["waits", "waits"]
    retry = error_details_pb2.RetryInfo()
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(refusal.value).details)
    assert retry.retry_delay.seconds == 1


def test_reflection_can_be_off(settings: Any) -> None:
    settings.GRPC_REFLECTION = False
    with serving() as server, connect(server.port) as channel:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as refusal:
            next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked])))
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert answers(channel)


def test_metadata_of_any_size_is_refused() -> None:
    with serving() as server, connect(server.port) as channel:
        large = [("authorization", "Bearer " + "x" * 3 * Limits.metadata)]
        with pytest.raises(grpc.RpcError) as refusal:
            OrderServiceStub(channel).ListOrders(Empty(), timeout=TIMEOUT, metadata=large)
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert answers(channel)
