"""The logs, the health, the metrics and the traces of a running system, over all its processes."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
import requests
from celery.worker.control import Panel

from orders_project import celery_inspect
from orders_project.celery import app
from orders_project.celery_inspect import ANSWERED
from orders_project.embedded.services import Services
from orders_project.tests.running_system import RunningSystem

from .otlp import Receiver, Span
from .prometheus import Prometheus
from .test_alerts import QUERIES
from .test_metrics import numbers

pytestmark = [pytest.mark.processes]

ADMIN_SECRET = "planted-admin-secret-7f3a"
WEBHOOK_SECRET = "planted-webhook-secret-91bc"
TOKEN = "planted.bearer-token"
KEY = "planted-idempotency-key"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
EMAIL = "planted.person@example.com"
# Metrics of what does not happen in this run: no dead letters, compensations, gateways, gRPC calls or rate limits.
NOT_IN_THIS_RUN = (
    "dead_letters|compensations|orders_failed|gateway_|webhooks_total|webhook_deliveries_total|grpc_|rate_limit"
    "|duplicates|stock_holds_total"
)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiving:
        yield receiving


@pytest.fixture(scope="module")
def run(receiver: Receiver, given: Callable[[str], Services]) -> Iterator[RunningSystem]:
    """A system in which an order was placed, paid and done, a product made, and errors were provoked."""
    environment = {"ADMIN_SECRET": ADMIN_SECRET, "PAYMENT_WEBHOOK_SECRET": WEBHOOK_SECRET}
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "NO_PROXY": "127.0.0.1"}
    with RunningSystem(environment, given=given("observability")) as system:
        system.manage("load_demo", "--password-file", str(system.home / "password"))
        for name in ("payments", "relay", "beat"):
            heartbeat = {"HEARTBEAT_FILE": str(system.home / f"{name}.heartbeat")}
            system.start(name, env=heartbeat | {"DATABASE_LOCK_TIMEOUT": "300", "DATABASE_STATEMENT_TIMEOUT": "300"})
        system.start("web", env={"DATABASE_POOL": "8"})
        system.start_all()
        yield system


@pytest.fixture(scope="module")
def order(run: RunningSystem) -> dict[str, Any]:
    """The order, done."""
    headers = {
        "Idempotency-Key": KEY, "X-Correlation-ID": "seen-from-outside",
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }  # fmt: skip
    body = {"user_id": "demo-rich", "user_email": EMAIL, "amount": 12.5, "description": EMAIL}
    answer = requests.post(run.url("/orders"), json=body, headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text
    assert answer.headers["X-Correlation-ID"] == "seen-from-outside"
    path = run.url(f"/orders/{answer.json()['order_id']}")
    run.until(lambda: requests.get(path, timeout=60).json()["status"] == "done")
    requests.get(run.url("/orders"), params={"user_email": EMAIL}, timeout=60)
    requests.post(run.url("/admin/products"), json={"name": "x"}, headers={"X-Admin-Secret": ADMIN_SECRET}, timeout=60)
    requests.post(run.url("/orders"), json=body, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
    found: dict[str, Any] = requests.get(path, timeout=60).json()
    return found


def lines(run: RunningSystem) -> dict[str, list[dict[str, Any]]]:
    """The lines of every process, parsed; without the last one, which may be incomplete."""
    return {
        name: [json.loads(line) for line in run.log(name).read_text().rpartition("\n")[0].splitlines()]
        for name in run.running
    }


class TestTheLogsOfARun:
    def test_are_one_json_object_a_line_in_every_process(self, run: RunningSystem, order: Any) -> None:
        run.until(lambda: all(lines(run).values()))
        found = lines(run)
        for logged in found.values():
            assert all({"timestamp", "level", "logger", "message"} <= line.keys() for line in logged)
        assert any(line["logger"] == "gunicorn.error" for line in found["web"])
        assert any(line["logger"].startswith("celery") for line in found["payments"])

    def test_follow_one_request_through_every_service(self, run: RunningSystem, order: Any) -> None:
        def about_it(name: str) -> list[dict[str, Any]]:
            return [line for line in lines(run)[name] if line.get("correlation_id") == "seen-from-outside"]

        for name in ("web", "orders", "payments", "processing"):
            run.until(partial(about_it, name))
            about = about_it(name)
            if name != "web":
                assert {line["order_id"] for line in about} == {order["order_id"]}
                assert all(line["message_id"] and line["trace_id"] for line in about)

    def test_hold_no_secret_and_no_whole_email(self, run: RunningSystem, order: Any) -> None:
        database = run.env["DATABASE_URL_ORDERS"].split(":")[2].split("@")[0]
        broker = run.env["AMQP_URL"].split(":")[2].split("@")[0]
        for name in run.running:
            text = run.log(name).read_text()
            for secret in (ADMIN_SECRET, WEBHOOK_SECRET, TOKEN, KEY, EMAIL, "planted.person", database, broker):
                assert secret not in text, f"{name} logs {secret}"


class TestTheHealthOfARun:
    @pytest.mark.parametrize(("name", "role"), [("payments", "worker"), ("relay", "relay"), ("beat", "beat")])
    def test_is_reported_by_each_process_to_its_container(
        self, run: RunningSystem, order: Any, name: str, role: str
    ) -> None:
        file = run.home / f"{name}.heartbeat"
        run.until(file.exists)

        def is_well() -> bool:
            output, code = run.ask("health", role, env={"HEARTBEAT_FILE": str(file)})
            return code == 0 and "heartbeat              ok" in output and "failed" not in output

        run.until(is_well)


class TestTheMetricsOfARun:
    def test_are_shown_by_the_web_for_every_process(self, run: RunningSystem, order: Any) -> None:
        wanted = {
            "orders_created_total": 1, "orders_total": 1,  # counted in the web
            "orders_paid_total": 1, "orders_processed_total": 1,  # in a worker of orders
            'consumer_seconds_count{type="processing.process"}': 1, "events_moved_to_dlq_total": 0,
            'ledger_imbalance{currency="USD"}': 0,
        }  # fmt: skip

        def are_shown() -> bool:
            found = numbers(requests.get(run.url("/metrics"), timeout=60).text)
            return found["events_published_total"] >= 8 and wanted.items() <= found.items()

        run.until(are_shown)  # counted after the commit, by which the order is seen to be done


class TestTheDashboardOfARun:
    def test_every_query_finds_something(self, run: RunningSystem, order: Any) -> None:
        with Prometheus(f"127.0.0.1:{run.port}", home=run.home / "prometheus") as prometheus:
            run.until(lambda: prometheus.ask("rate(orders_created_total[1m])"))
            for query in QUERIES:
                if not re.search(NOT_IN_THIS_RUN, query):
                    run.until(partial(prometheus.ask, query.replace("$__rate_interval", "1m")))


@pytest.fixture(scope="class")
def held_up(run: RunningSystem, order: Any) -> Iterator[list[str]]:
    """Orders whose payments the worker of payments cannot make meanwhile."""
    with psycopg.connect(run.env["DATABASE_URL_PAYMENTS"]) as holder:
        holder.execute("SET idle_in_transaction_session_timeout = 0")
        holder.execute("SELECT FROM payments_account WHERE user_id = 'demo-rich' FOR UPDATE")
        body = {"user_id": "demo-rich", "user_email": EMAIL, "amount": 12.5}
        placed = [requests.post(run.url("/orders"), json=body, timeout=60).json()["order_id"] for _ in range(3)]
        yield placed
        holder.rollback()

    def are_done() -> bool:
        found = (requests.get(run.url(f"/orders/{order_id}"), timeout=60).json() for order_id in placed)
        return all(order["status"] == "done" for order in found)

    run.until(are_done)


def tell(run: RunningSystem, command: str, **arguments: Any) -> dict[str, Any]:
    """Tell all three workers something; what each answers."""
    with app.connection_for_write(url=run.env["AMQP_URL"]) as connection:
        answers = app.control.broadcast(
            command, arguments=arguments, reply=True, timeout=60, limit=3, connection=connection
        )
    return {name: answer for one in answers for name, answer in one.items()}


class TestTheWorkersOfARun:
    def test_say_what_they_do_with_type_and_order(self, run: RunningSystem, held_up: list[str]) -> None:
        def handled() -> Any:
            workers = json.loads(run.ask("workers", "--json")[0])["workers"]
            found = {worker["name"].partition("@")[0]: worker for worker in workers}
            return found if len(found["payments"]["tasks"]) == 2 and found["payments"]["reserved"] else None

        run.until(handled)
        found = handled()
        assert found.keys() == {"orders", "payments", "processing"}
        at_work = found["payments"]["tasks"]
        assert {task["type"] for task in at_work} == {"payments.charge"}
        assert {task["order_id"] for task in at_work} < set(held_up)
        assert all(task["order_number"] > 1000 and task["pid"] and task["seconds"] >= 0 for task in at_work)
        shown, code = run.ask("workers")
        assert f"{at_work[0]['order_id']} (#{at_work[0]['order_number']})" in shown
        assert code == ("! " in shown)

    def test_take_no_command_and_say_so(
        self, run: RunningSystem, held_up: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The orders that they are told to skip or to kill are done: see the fixture."""
        held = [*tell(run, "active").values(), *tell(run, "reserved").values()]
        ids = [request["id"] for requests_of_one in held for request in requests_of_one]
        assert len(ids) >= 3
        pools = {name: answer["pool"]["processes"] for name, answer in tell(run, "stats").items()}
        with pytest.raises(celery_inspect.Refused, match="shutdown is refused"):
            app.control.shutdown()
        monkeypatch.setattr(
            celery_inspect, "ANSWERED", {*Panel.data, "nonsense"}
        )  # who asks does not keep to the rules
        arguments: dict[str, dict[str, Any]] = {
            "revoke": {"task_id": ids, "terminate": True, "signal": "KILL"},
            "terminate": {"task_id": ids, "signal": "KILL"},
            "hello": {"from_node": "nobody", "revoked": ids},
            "rate_limit": {"task_name": "payments.charge", "rate_limit": "1/h"},
            "time_limit": {"task_name": "payments.charge", "hard": 1, "soft": 1},
            "cancel_consumer": {"queue": "payments"},
            "add_consumer": {"queue": "mine"},
        }
        with app.connection_for_write(url=run.env["AMQP_URL"]) as connection:
            for body in (
                b"nonsense",
                b"[]",
                b"{}",
                b'{"method": ["revoke"], "destination": 1, "ticket": {}}',
                b"[" * 10_000,
            ):
                connection.Producer().publish(body, exchange="questions", content_type="application/json")
        for command in sorted({*Panel.data, "nonsense"} - ANSWERED):
            answers = tell(run, command, **arguments.get(command, {}))
            assert len(answers) == 3, command
            assert all("is refused" in answer["error"] for answer in answers.values()), command
        assert {name: answer["pool"]["processes"] for name, answer in tell(run, "stats").items()} == pools

    @pytest.mark.parametrize("question", sorted(ANSWERED))
    def test_tell_neither_a_secret_nor_a_person(self, run: RunningSystem, held_up: list[str], question: str) -> None:
        answers = json.dumps(tell(run, question, safe=False, taskinfoitems=["app"], with_defaults=True))
        broker = run.env["AMQP_URL"].split(":")[2].split("@")[0]
        for secret in (ADMIN_SECRET, WEBHOOK_SECRET, EMAIL, "demo-rich", broker):
            assert secret not in answers


@pytest.fixture(scope="module")
def spans(run: RunningSystem, receiver: Receiver, order: Any) -> list[Span]:
    """All spans. The last ones are exported when a process ends, so this must be the last fixture that is used."""
    for name in ("web", "relay", "orders", "payments", "processing"):
        run.stop(name)
    return receiver.spans


class TestTheTraceOfARun:
    def test_goes_from_the_request_to_the_end_over_every_process(self, spans: list[Span]) -> None:
        ours = {span.span_id: span for span in spans if span.trace_id == TRACE}
        (request,) = [span for span in ours.values() if span.service == "web"]
        assert (request.name, request.parent_id) == ("POST orders", "00f067aa0ba902b7")
        handled = {span.name: span for span in ours.values() if span.kind == 5}
        assert {name: span.service for name, span in handled.items()} == {
            "payments.charge": "payments",
            "payment.succeeded": "orders",
            "processing.process": "processing",
            "order.processed": "orders",
        }
        way, last = [], handled["order.processed"]
        while last.parent_id in ours:
            way.append(last.name)
            last = ours[last.parent_id]
        assert way == ["order.processed", "processing.process", "payment.succeeded", "payments.charge"]
        assert last == request
        assert len({span.attributes["correlation_id"] for span in ours.values()}) == 1

    def test_is_linked_to_by_the_batches_that_carried_it(self, spans: list[Span]) -> None:
        carried = {span.name for span in spans if span.service == "relay" and TRACE in span.links}
        assert carried == {"relay orders", "relay payments", "relay processing"}
