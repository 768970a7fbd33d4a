"""A system that is late accepts no more orders than it finishes, tells clients when to come again, and recovers."""

import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import grpc
import psycopg
import pytest
import requests
from django.core.management import call_command
from django.test import Client
from django.utils import timezone, translation
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker

from common.admission import lot, waited
from orders import shedding
from orders.models import IdempotencyKey, Order
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders_project.backoffice import dashboard, readings
from orders_project.embedded import variable
from orders_project.embedded.services import Services
from orders_project.gunicorn_worker import Worker
from orders_project.http import unread_orders
from orders_project.observability import metrics
from orders_project.tests.running_system import RunningSystem

ABOVE = 30
ORDER = {"user_id": "ann", "amount": 5, "description": "a lamp"}


def orders(count: int, *, seconds_ago: float, status: str = "reserved", method: str = "account") -> None:
    """Store orders that were accepted so long ago."""
    at = timezone.now() - timedelta(seconds=seconds_ago)
    when = {"created_at": at, "updated_at": at, "status_since": at}
    what = {"status": status, "payment_method": method, "total": 5, "currency": "USD"}
    Order.objects.bulk_create([Order(**what, **when) for _ in range(count)])


@pytest.fixture
def switched_on(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SHED_ABOVE = ABOVE
    monkeypatch.setattr(shedding, "_measured", None)
    readings.DASHBOARD._taken.clear()
    metrics.STORED._taken.clear()


@pytest.fixture
def late(switched_on: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and the system is late: all orders that are new are refused, for nothing depends on luck here."""
    monkeypatch.setattr(shedding, "LARGEST_SHARE", 1.0)

    def be_late() -> None:
        orders(20, seconds_ago=ABOVE)
        monkeypatch.setattr(shedding, "_measured", None)

    return be_late


class TestTheMeasure:
    """Without processes: what is stored says how late the system is."""

    pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("switched_on")]

    def test_an_idle_system_is_not_late(self) -> None:
        assert shedding.measure() == shedding.Backlog(waiting=0, late=0, wait=0, share=0)

    def test_orders_that_came_a_moment_ago_are_no_reason(self) -> None:
        orders(200, seconds_ago=1)
        found = shedding.measure()
        assert (found.waiting, found.share) == (200, 0)
        assert 1 <= found.late == found.wait < ABOVE / 2

    def test_the_wait_is_the_line_divided_by_what_ended(self) -> None:
        orders(60, seconds_ago=1, status="done")  # two a second
        orders(90, seconds_ago=ABOVE * 0.75)
        found = shedding.measure()
        assert found.waiting == 90
        assert found.wait == pytest.approx(45)
        assert found.share == pytest.approx(0.5)

    def test_nearly_all_are_refused_where_nothing_ends(self) -> None:
        orders(20, seconds_ago=ABOVE)
        assert shedding.measure().share == shedding.LARGEST_SHARE < 1

    @pytest.mark.parametrize(
        "harmless",
        [
            pytest.param({"count": shedding.FEW}, id="a few that are stuck"),
            pytest.param({"count": 20, "method": "gateway"}, id="whose gateway has not answered"),
            pytest.param({"count": 20, "method": "gateway", "status": "payment_pending"}, id="whose customer pays"),
            pytest.param({"count": 20, "method": "gateway", "status": "authorized"}, id="to be captured"),
        ],
    )
    def test_orders_that_wait_for_somebody_else_do_not_count(self, harmless: dict[str, Any]) -> None:
        orders(**harmless, seconds_ago=10 * ABOVE)
        assert shedding.measure().share == 0

    def test_nor_do_those_that_others_have_overtaken(self) -> None:
        orders(50, seconds_ago=10 * ABOVE)
        orders(1, seconds_ago=1, status="failed")
        assert shedding.measure() == shedding.Backlog(waiting=0, late=0, wait=0, share=0)

    def test_what_is_paid_waits_for_us(self) -> None:
        orders(20, seconds_ago=ABOVE, method="gateway", status="paid")
        assert shedding.measure().share > 0

    def test_zero_switches_it_off(self, settings: Any) -> None:
        settings.SHED_ABOVE = 0
        orders(20, seconds_ago=10 * ABOVE)
        assert not shedding.is_late()
        found = shedding.measure()
        assert (found.waiting, found.share) == (20, 0)
        assert found.late >= 10 * ABOVE


def place(client: Client, key: str = "", **order: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/orders", ORDER | order, "application/json", headers=headers)


class TestTheEndpoints:
    """In this process: what is refused, how, and what is not."""

    pytestmark = pytest.mark.django_db(transaction=True)

    def test_a_new_order_is_refused_and_nothing_is_stored(self, late: Callable[[], None], client: Client) -> None:
        late()
        before = Order.objects.count()
        answer = place(client, key="new")
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert 1 <= int(answer["Retry-After"]) <= 90
        assert answer.json()["retry_after"] == int(answer["Retry-After"])
        assert Order.objects.count() == before
        assert not IdempotencyKey.objects.exists()

    def test_what_may_have_been_placed_is_looked_at_first(self, late: Callable[[], None], client: Client) -> None:
        late()
        assert place(client, amount=-1).status_code == 503
        assert place(client, amount=-1, key="new").status_code == 400
        assert place(client, amount=-1, order_id="new").status_code == 400
        assert place(client, order_id=None).status_code == 503

    @pytest.mark.parametrize("body", ["5", "null", "true", "[]", '["order_id"]', '"order_id"'])
    def test_what_is_no_object_is_no_failure(self, late: Callable[[], None], client: Client, body: str) -> None:
        late()
        assert client.post("/orders", body, "application/json").status_code == 503
        answer = client.post("/orders", body, "application/json", headers={"Idempotency-Key": "new"})
        assert answer.status_code == 400

    def test_so_is_what_has_waited_for_a_thread_for_long(
        self, switched_on: None, client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shedding, "LARGEST_SHARE", 1.0)
        soon, late = shedding.QUEUE
        shares = []
        for seconds in (0, soon, (soon + late) / 2, late, 100):
            before = waited.set(seconds)
            shares.append(shedding.share(shedding.backlog()))
            if seconds == 100:
                assert (place(client).status_code, client.get("/orders").status_code) == (503, 200)
                settings.SHED_ABOVE = 0
                assert place(client).status_code == 201
            waited.reset(before)
        assert shares == [0, 0, 0.5, 1, 1]

    def test_an_attempt_that_is_refused_counts_against_no_limit_of_its_email(
        self, late: Callable[[], None], client: Client, settings: Any
    ) -> None:
        late()
        refused = settings.RATE_LIMIT_ORDERS_PER_MINUTE + 1
        answers = {place(client, user_email="ann@shop.example").status_code for _ in range(refused)}
        assert answers == {503}

    def test_what_was_accepted_is_answered_as_ever(self, late: Callable[[], None], client: Client) -> None:
        by_key, by_id = place(client, key="known"), place(client, order_id="mine")
        late()
        again = place(client, key="known")
        assert (again.status_code, again.json()) == (201, by_key.json())
        assert again["Idempotency-Replayed"] == "true"
        assert place(client, key="known", amount=6).json()["code"] == "idempotency_key_reused"
        again = place(client, order_id="mine")
        assert (again.status_code, again.json()) == (200, by_id.json())
        assert place(client, order_id="mine", amount=6).json()["code"] == "order_exists"

    def test_everything_else_goes_on(self, late: Callable[[], None], client: Client) -> None:
        path = f"/orders/{place(client).json()['order_id']}"
        late()
        assert client.get(path).status_code == client.get("/orders").status_code == 200
        assert client.get(f"{path}/payment").status_code == 200
        assert client.post("/accounts?user_id=bob").status_code == 201
        assert client.post(f"{path}/cancel").status_code == 202

    def test_over_grpc_as_well(self, late: Callable[[], None], client: Client, grpc_channel: grpc.Channel) -> None:
        service, asked = (
            OrderServiceStub(grpc_channel),
            pb.CreateOrderRequest(user_id="ann", amount=5, description="a lamp"),
        )
        known = service.CreateOrder(asked, metadata=[("idempotency-key", "known")])
        late()
        with pytest.raises(grpc.RpcError) as refusal:
            service.CreateOrder(asked)
        assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        status, info, retry = rpc_status.from_call(refusal.value), error_details_pb2.ErrorInfo(), None
        assert status is not None
        for detail in status.details:
            detail.Unpack(info)
            retry = error_details_pb2.RetryInfo() if retry is None else retry
            detail.Unpack(retry)
        assert info.reason == "OVERLOADED"
        assert retry is not None
        assert 1 <= retry.retry_delay.seconds <= 90
        assert service.CreateOrder(asked, metadata=[("idempotency-key", "known")]) == known
        assert place(client, key="known").status_code == 200  # whose answer was never stored
        assert service.GetOrder(pb.GetOrderRequest(order_id=known.order_id)) == known

    def test_the_measure_is_taken_once_a_second(
        self, late: Callable[[], None], client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken, measure = [], shedding.measure

        def counted() -> shedding.Backlog:
            taken.append(measure())
            return taken[-1]

        monkeypatch.setattr(shedding, "measure", counted)
        late()
        monkeypatch.setattr(shedding.clock, "ticks", lambda: 100.0)
        for _ in range(3):
            place(client)
        assert len(taken) == 1
        monkeypatch.setattr(shedding.clock, "ticks", lambda: 101.5)
        place(client)
        assert len(taken) == 2

    def test_nobody_waits_long_for_one_who_measures(self, switched_on: None, monkeypatch: pytest.MonkeyPatch) -> None:
        with shedding._measuring:  # whose database does not answer
            assert shedding.backlog() == shedding.NOTHING
            known = shedding.Backlog(waiting=1, late=1, wait=1, share=0.5)
            monkeypatch.setattr(shedding, "_measured", (shedding.clock.ticks() - 100, known))
            assert shedding.backlog() == known

    def test_operators_see_it(self, late: Callable[[], None], client: Client) -> None:
        assert "New orders refused" not in [tile.label for tile in dashboard.sections()[0].tiles]
        late()
        readings.DASHBOARD._taken.clear()
        metrics.STORED._taken.clear()
        (tile,) = [tile for tile in dashboard.sections()[0].tiles if tile.label == "New orders refused"]
        assert (tile.value, tile.mood) == ("100%", "bad")
        shown = StringIO()
        with contextlib.suppress(SystemExit):
            call_command("status", stdout=shown, no_color=True)
        assert "! 100% of new orders are refused: one would have to wait for 3600 s" in shown.getvalue()
        place(client)
        exported = client.get("/metrics").content.decode()
        assert "orders_shed_share 1.0" in exported
        assert "orders_shed_total" in exported


PLAIN = b'{"user_id": "ann", "amount": 5, "description": "a lamp"}'
NAMED = b'{"user_id": "ann", "amount": 5, "order_id": "mine"}'
ESCAPED = NAMED.replace(b"order_id", rb"\u006frder_id")


def asked(first: str, body: bytes, *more: str, missing: int = 0) -> bytes:
    lines = [f"{first} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body) + missing}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.usefixtures("switched_on")
class TestWhatIsNotReadFirst:
    """The plainest requests are refused straight from their socket, and no others."""

    @pytest.fixture(autouse=True)
    def _busy(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(shedding, "LARGEST_SHARE", 1.0)
        before = waited.set(100)
        yield
        waited.reset(before)

    @pytest.fixture
    def line(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            yield ours, theirs

    @pytest.mark.parametrize(
        "request_",
        [asked("POST /orders", PLAIN), asked("POST /orders/", PLAIN, "X-Request-ID: mine", "connection: Keep-Alive")],
    )
    def test_a_plain_order_is_answered_like_by_everybody_else(self, line: Any, request_: bytes) -> None:
        ours, theirs = line
        theirs.sendall(request_)
        assert unread_orders.refuse(ours)
        head, _, answer = theirs.recv(65536).partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        sent = dict(one.split(": ", 1) for one in rest)
        assert first == "HTTP/1.1 503 Service Unavailable"
        assert int(sent["Content-Length"]) == len(answer)
        assert sent["Content-Type"] == "application/problem+json"
        assert sent["X-Correlation-ID"] == sent["X-Request-ID"] == json.loads(answer)["correlation_id"]
        assert (sent["X-Request-ID"] == "mine") == (b"mine" in request_)
        assert (json.loads(answer)["code"], sent["Retry-After"]) == (
            "overloaded",
            str(json.loads(answer)["retry_after"]),
        )
        assert sent["API-Version"]
        with pytest.raises(BlockingIOError):  # all of it has been read, so that the connection can be used again
            ours.recv(1, socket.MSG_DONTWAIT)

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(b"", id="nothing yet"),
            pytest.param(asked("POST /orders", PLAIN, missing=1), id="a part"),
            pytest.param(asked("POST /orders", PLAIN) + b"GET", id="more than one"),
            pytest.param(asked("GET /orders", b""), id="a list"),
            pytest.param(asked("POST /orders/mine/cancel", b"{}"), id="a cancellation"),
            pytest.param(asked("POST /accounts", b"{}"), id="an account"),
            pytest.param(asked("POST /orders", PLAIN, "IDEMPOTENCY-KEY: mine"), id="a key"),
            pytest.param(asked("POST /orders", NAMED), id="an order id"),
            pytest.param(asked("POST /orders", ESCAPED), id="an order id in disguise"),
            pytest.param(asked("POST /orders", PLAIN, "Transfer-Encoding: chunked"), id="chunks"),
            pytest.param(asked("POST /orders", PLAIN, "Connection: close"), id="the last"),
            pytest.param(asked("POST /orders", PLAIN, "Content-Length: 1"), id="two lengths"),
            pytest.param(asked("POST /orders", PLAIN, "Content-Length: 123456"), id="two lengths, one of them long"),
            pytest.param(asked("POST /orders", PLAIN, "Content-Length:\r\n 1"), id="two lengths, one of them folded"),
            pytest.param(asked("POST /orders", PLAIN, "Idempotency-Key: keep-alive"), id="a key like an option"),
            pytest.param(asked("POST /orders", PLAIN, "Transfer-Encoding: keep-alive"), id="an encoding like one"),
            pytest.param(asked("POST /orders", PLAIN, "X: 1\nTransfer-Encoding: chunked"), id="a line feed alone"),
            pytest.param(asked("POST /orders", PLAIN, "X: 1\rTransfer-Encoding: chunked"), id="a return alone"),
            pytest.param(asked("POST /orders", PLAIN, "Transfer-Encoding : chunked"), id="a blank before the colon"),
            pytest.param(asked("POST /orders", PLAIN, " Transfer-Encoding: chunked"), id="a folded line"),
            pytest.param(asked("POST /orders", PLAIN, "X: \0"), id="a control character"),
            pytest.param(asked("POST /orders", PLAIN, "X"), id="a line without a colon"),
            pytest.param(asked("POST /orders", PLAIN, "host: other"), id="two hosts"),
        ],
    )
    def test_every_other_request_goes_on_as_it_came(self, line: Any, request_: bytes) -> None:
        ours, theirs = line
        theirs.sendall(request_)
        assert not unread_orders.refuse(ours)
        if request_:
            assert ours.recv(65536) == request_

    def test_in_english_whatever_this_thread_has_shown_last(self, line: Any) -> None:
        ours, theirs = line
        theirs.sendall(asked("POST /orders", PLAIN))
        with translation.override("ru"):
            assert unread_orders.refuse(ours)
        assert b"Too many orders wait" in theirs.recv(65536)

    def test_the_client_is_told_if_the_connection_is_closed(self, line: Any) -> None:
        ours, theirs = line
        for is_kept in (True, False):
            theirs.sendall(asked("POST /orders", PLAIN))
            assert unread_orders.refuse(ours, is_kept=is_kept)
            assert (b"Connection: close" not in theirs.recv(65536)) == is_kept

    def test_nothing_is_refused_where_nobody_waits(self, line: Any, settings: Any) -> None:
        ours, theirs = line
        theirs.sendall(asked("POST /orders", PLAIN))
        waited.set(0)
        assert not unread_orders.refuse(ours)
        waited.set(100)
        settings.SHED_ABOVE = 0
        assert not unread_orders.refuse(ours)
        settings.SHED_ABOVE, settings.SERVICES_HERE = ABOVE, ("payments",)
        assert not unread_orders.refuse(ours)


@pytest.mark.usefixtures("switched_on")
class TestRefusedOnArrival:
    """The thread that accepts connections refuses what would have to wait for long, and passes on everything else."""

    @pytest.fixture
    def worker(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
        monkeypatch.setattr(shedding, "LARGEST_SHARE", 1.0)
        config = Config()
        worker = Worker(0, os.getpid(), [], None, 30, config, Logger(config))
        worker.poller, worker.nr_conns = selectors.DefaultSelector(), 1
        before = waited.set(0), lot.set(None)
        with worker.poller, ThreadPoolExecutor(1) as worker.tpool, worker.tmp._tmp:
            yield worker
        waited.reset(before[0])
        lot.reset(before[1])

    @pytest.mark.parametrize(
        ("queued", "request_", "is_refused"),
        [
            (1000, asked("POST /orders", PLAIN), True),
            (1000, asked("POST /orders", PLAIN, "Idempotency-Key: mine"), False),
            (1000, asked("GET /orders", b""), False),
            (0, asked("POST /orders", PLAIN), False),
        ],
    )
    def test_refuses_plain_orders_alone(
        self, worker: Worker, queued: int, request_: bytes, is_refused: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker.queued, worker.seconds = queued, 0.1
        handled = threading.Event()
        monkeypatch.setattr(ThreadWorker, "handle", lambda *_: handled.set())
        monkeypatch.setattr(worker, "method_queue", SimpleNamespace(defer=lambda *_: None))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(request_)
            conn = TConn(worker.cfg, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
            worker.enqueue_req(conn)
            worker.tpool.shutdown()
            assert handled.is_set() != is_refused
            assert list(worker.keepalived_conns) == [conn] * is_refused
            assert worker.queued == queued
            if is_refused:
                assert theirs.recv(65536).startswith(b"HTTP/1.1 503 ")
            else:
                assert ours.recv(65536) == request_

    def test_closes_where_it_keeps_as_many_connections_as_it_may(self, worker: Worker) -> None:
        worker.queued, worker.seconds, worker.max_keepalived = 1000, 0.1, 0
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(asked("POST /orders", PLAIN))
            worker.enqueue_req(TConn(worker.cfg, ours, ("127.0.0.1", 1), ("127.0.0.1", 2)))
            assert b"\r\nConnection: close\r\n" in theirs.recv(65536)
            assert not theirs.recv(1)
            assert not worker.keepalived_conns


class TestClosing:
    """A client that does not close its side of a connection keeps nobody waiting, and one that does loses nothing."""

    @pytest.fixture
    def worker(self) -> Iterator[Worker]:
        config = Config()
        worker = Worker(0, os.getpid(), [], None, 30, config, Logger(config))
        worker.nr_conns = 1
        with selectors.DefaultSelector() as worker.poller, worker.tmp._tmp:
            yield worker

    @pytest.fixture
    def theirs(self, worker: Worker) -> Iterator[socket.socket]:
        ours, theirs = socket.socketpair()
        conn = TConn(worker.cfg, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
        with ours, theirs:
            ours.sendall(b"the last answer")
            done: Future[bool] = Future()
            done.set_result(False)
            worker.finish_request(conn, done)
            assert (theirs.recv(100), theirs.recv(100)) == (b"the last answer", b"")
            yield theirs

    def test_waits_for_nobody(self, worker: Worker, theirs: socket.socket) -> None:
        worker.murder_pending()
        assert (worker.nr_conns, len(worker.pending_conns)) == (1, 1)
        worker.pending_conns[0].timeout = time.monotonic()  # as after two seconds
        worker.murder_pending()
        assert (worker.nr_conns, len(worker.pending_conns), len(worker.poller.get_map())) == (0, 0, 0)

    def test_reads_on_until_the_client_closes_as_well(self, worker: Worker, theirs: socket.socket) -> None:
        theirs.sendall(b"more")
        worker.wait_for_and_dispatch_events(timeout=60)
        assert worker.nr_conns == 1
        theirs.close()
        worker.wait_for_and_dispatch_events(timeout=60)
        assert (worker.nr_conns, len(worker.pending_conns), len(worker.poller.get_map())) == (0, 0, 0)


@pytest.fixture(scope="module")
def system(given: Callable[[str], Services]) -> Iterator[RunningSystem]:
    with RunningSystem({"SHED_ABOVE": "2"}, given=given("shedding")) as standing:
        standing.start("web", "relay", "orders", "payments", "processing")
        yield standing


@contextlib.contextmanager
def frozen(system: RunningSystem, name: str) -> Iterator[None]:
    """A process and its children stand still."""
    os.killpg(system.running[name].pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(system.running[name].pid, signal.SIGCONT)


@pytest.mark.processes
@pytest.mark.parametrize("part", ["relay", "orders", "payments", "processing"])
def test_a_part_that_stands_still(system: RunningSystem, part: str) -> None:
    """Orders that would be late are refused, those that were accepted are known, and afterwards all of them end."""
    keys = (f"{part}-{number}" for number in itertools.count())
    accepted: dict[str, Any] = {}
    refused: list[str] = []

    def post(key: str) -> requests.Response:
        order = {"customer_id": "ann", "amount": 5, "description": "a lamp", "payment_method": "account"}
        headers = {"Idempotency-Key": key}
        return requests.post(system.url("/orders"), json=order | {"user_id": "ann"}, headers=headers, timeout=60)

    def is_refused() -> bool:
        answer = post(key := next(keys))
        if answer.status_code == 201:
            accepted[key] = answer.json()
            return False
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
        refused.append(key)
        return True

    requests.post(system.url("/accounts?user_id=ann"), timeout=60)
    requests.post(system.url("/accounts/ann/deposit"), json={"amount": 100_000}, timeout=60)
    with frozen(system, part):
        system.until(is_refused)
        assert len(accepted) > shedding.FEW
        for key, order in accepted.items():
            again = post(key)
            assert (again.status_code, again.json()) == (201, order)
        order = next(iter(accepted.values()))
        path = system.url(f"/orders/{order['order_id']}")
        assert requests.get(path, timeout=60).status_code == 200
        assert requests.get(system.url("/orders"), timeout=60).status_code == 200
        assert "of new orders are refused" in system.ask("status")[0]
        assert "orders_shed_total" in requests.get(system.url("/metrics"), timeout=60).text

    def ended() -> bool:
        ((count,),) = system.query(
            "orders", "SELECT count(*) FROM orders_order WHERE status NOT IN ('done', 'failed', 'canceled')"
        )
        return bool(count == 0)

    system.until(ended)
    since = time.monotonic()
    # Whoever accepts an order later than this has measured anew; one that is accepted sooner may only have been lucky.
    system.until(lambda: time.monotonic() - since > shedding.EVERY and not is_refused())
    assert post(refused[0]).status_code == 201  # nothing was stored under its key
    system.until(ended)
    system.manage("audit", "--grace", "0")  # finds nothing


@pytest.mark.processes
def test_clients_that_close_nothing_keep_nobody_waiting(system: RunningSystem) -> None:
    last = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with contextlib.ExitStack() as held:
        for _ in range(20):  # two seconds each
            client = held.enter_context(socket.create_connection(("127.0.0.1", system.port)))
            client.sendall(last)
        assert requests.get(system.url("/health/live"), timeout=30).status_code == 200


@pytest.mark.processes
def test_a_web_that_is_busy(system: RunningSystem) -> None:
    """Whoever has waited for a thread for long is refused, and nothing is done for a client that has gone."""

    def post(number: int) -> int:
        order = {"user_id": "ann", "amount": 5, "description": f"number {number}"}
        return requests.post(system.url("/orders"), json=order, timeout=60).status_code

    gone = b'{"order_id": "gone", "user_id": "ann", "amount": 5, "description": "a lamp"}'
    length = f"Content-Length: {len(gone)}\r\n\r\n"
    head = f"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}"
    with ThreadPoolExecutor(20) as clients, psycopg.connect(system.env[variable("orders")]) as lock:
        lock.execute("LOCK TABLE orders_order IN SHARE ROW EXCLUSIVE MODE")
        running = [clients.submit(post, number) for number in range(4)]  # as many as there are threads
        blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders_order'::regclass"
        system.until(lambda: system.query("orders", blocked) == [(4,)])
        waiting = [clients.submit(post, number) for number in range(4, 14)]
        reading = clients.submit(requests.get, system.url("/orders"), timeout=60)
        with socket.create_connection(("127.0.0.1", system.port)) as leaving:
            leaving.sendall(head.encode() + gone)
        time.sleep(shedding.QUEUE[1] + 1)  # this is what is tested: time that passes
        lock.commit()
        assert [one.result() for one in running] == [201] * 4
        assert [one.result() for one in waiting].count(503) > 5  # few are lucky
        assert reading.result().status_code == 200
    assert requests.get(system.url("/orders/gone"), timeout=60).status_code == 404
