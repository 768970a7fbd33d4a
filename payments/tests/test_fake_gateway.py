"""The fake payment service over HTTP, well-behaved and misbehaving."""

import json
import threading
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import requests

from common import trial_outcomes
from common.circuit_breaker import CircuitBreaker
from outbox import context
from payments.gateways.base import GatewayRefused, GatewayUnavailable, PaymentRequest, RefundRequest, Status
from payments.gateways.fake import FakeGateway, webhook_url
from payments.gateways.fake_bank import Behaviour
from payments.gateways.server import FakeService

ORDER = PaymentRequest(order_id="o-1", amount=12_50, currency="USD", idempotency_key="k-1")


class Receiver(ThreadingHTTPServer):
    """Our webhook endpoint."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.received = []
        self.paths = []
        self.refusals = 0


class Endpoint(BaseHTTPRequestHandler):
    server: "Receiver"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.server.received.append((dict(self.headers), body))
        self.server.refusals -= 1
        self.send_response(500 if self.server.refusals >= 0 else 202)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def receiver():
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def service(settings, receiver, tmp_path):
    settings.PAYMENT_WEBHOOK_SECRETS = ["dev-webhook-secret"]
    settings.GATEWAY_TIMEOUT = (60, 60)
    settings.WEBHOOKS_URL = f"http://127.0.0.1:{receiver.server_address[1]}"
    server = start(tmp_path)
    settings.FAKE_GATEWAY_URL = f"http://127.0.0.1:{server.port}"
    yield server
    server.close()


def start(tmp_path):
    server = FakeService(
        ("127.0.0.1", 0),
        webhook_url=webhook_url(),
        secrets=["dev-webhook-secret"],
        success_rate=1.0,
        state=tmp_path / "state.jsonl",
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def gateway(service):
    return FakeGateway(CircuitBreaker("fake", failures=(GatewayUnavailable,)))


def until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def event(gateway, webhook):
    headers, body = webhook
    return gateway.parse_webhook(headers=headers, body=body, now=datetime.now(UTC))


class TestTheFakeService:
    def test_takes_a_payment_and_sends_the_webhook_later(self, service, gateway, receiver, monkeypatch):
        later: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(service, "schedule", later.append)
            answer = gateway.create(ORDER)
        assert (answer.status, answer.amount, receiver.received) == (Status.PENDING, 12_50, [])
        service.schedule(*later)
        until(lambda: receiver.received)
        webhook = event(gateway, receiver.received[0]).about
        assert (webhook.status, webhook.payment_id, webhook.order_id) == (Status.SUCCEEDED, answer.payment_id, "o-1")
        assert (webhook.amount, webhook.currency) == (12_50, "USD")
        assert gateway.status(order_id="o-1").status == Status.SUCCEEDED
        assert gateway.status(payment_id="nope") is None

    def test_the_same_key_is_the_same_payment_and_for_another_body_it_proves_nothing(self, service, gateway):
        assert gateway.create(ORDER).payment_id == gateway.create(ORDER).payment_id
        other = PaymentRequest(order_id="o-2", amount=1, currency="USD", idempotency_key="k-1")
        with pytest.raises(GatewayUnavailable):
            gateway.create(other)

    def test_cancels_what_is_pending_and_refunds_what_is_paid(self, service, gateway):
        service.bank.behave({"delay": 3600})
        pending = gateway.create(ORDER).payment_id
        service.bank.behave({"delay": 0})
        assert gateway.cancel(payment_id=pending, idempotency_key="c").status == Status.CANCELED
        paid = gateway.create(
            PaymentRequest(order_id="o-2", amount=5, currency="USD", idempotency_key="k-2")
        ).payment_id
        until(lambda: gateway.status(payment_id=paid).status == Status.SUCCEEDED)
        with pytest.raises(GatewayRefused, match="already_succeeded"):
            gateway.cancel(payment_id=paid, idempotency_key="c")
        refund = RefundRequest(payment_id=paid, order_id="o-2", amount=5, currency="USD", idempotency_key="r")
        made = [gateway.refund(refund) for _ in range(2)]
        assert made == gateway.refunds(payment_id=paid) * 2
        assert (made[0].status, gateway.status(payment_id=paid).status) == ("succeeded", Status.REFUNDED)

    def test_tries_again_until_the_webhook_is_accepted(self, service, gateway, receiver):
        receiver.refusals = 2
        payment_id = gateway.create(ORDER).payment_id
        until(lambda: service.bank.find(payment_id=payment_id).notified)
        assert len(receiver.received) == 3
        assert {event(gateway, webhook).webhook_id for webhook in receiver.received} == {
            event(gateway, receiver.received[0]).webhook_id
        }

    def test_remembers_across_a_restart(self, service, gateway, tmp_path, settings):
        answer = gateway.create(ORDER)
        (tmp_path / "state.jsonl").open("a").write('{"torn')
        second = start(tmp_path)
        settings.FAKE_GATEWAY_URL = f"http://127.0.0.1:{second.port}"
        try:
            again = FakeGateway(CircuitBreaker("fake", failures=(GatewayUnavailable,)))
            assert again.create(ORDER).payment_id == answer.payment_id
        finally:
            second.close()

    @pytest.mark.parametrize(
        "body", ["{", "[]", "{}", '{"order_id": 5}', "[" * 60_000, '{"order_id":"o","amount":NaN}']
    )
    def test_bad_input_is_a_400(self, service, body):
        headers = {"Content-Type": "application/json"}
        answer = requests.post(f"http://127.0.0.1:{service.port}/payments", data=body, headers=headers, timeout=60)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"]


class TestAnAttack:
    PAYMENT: ClassVar = {"order_id": "o-1", "amount": 5, "currency": "USD"}

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Host": "rebound.example:8900"}, 421),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Content-Type": "text/plain"}, 415),
            ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ],
    )
    def test_from_a_browser_is_refused(self, service, headers, status):
        answer = requests.post(
            f"http://127.0.0.1:{service.port}/payments",
            data=json.dumps(self.PAYMENT),
            headers={"Content-Type": "application/json"} | headers,
            timeout=60,
        )
        assert answer.status_code == status
        assert not service.bank.payments

    def test_cannot_make_it_call_another_address(self, service, gateway, receiver):
        elsewhere = self.PAYMENT | {"webhook_url": f"http://127.0.0.1:{receiver.server_address[1]}/elsewhere"}
        answer = requests.post(f"http://127.0.0.1:{service.port}/payments", json=elsewhere, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_webhook_url")
        gateway.create(ORDER)
        until(lambda: receiver.received)
        assert receiver.paths == ["/webhooks/payments/fake"]


class TestMisbehaving:
    def test_failure_on_demand(self, service, gateway, receiver):
        requests.post(
            f"http://127.0.0.1:{service.port}/behaviour", json={"order_id": "o-1", "outcome": "failed"}, timeout=60
        ).raise_for_status()
        gateway.create(ORDER)
        until(lambda: receiver.received)
        assert event(gateway, receiver.received[0]).about.status == Status.FAILED

    def test_duplicates(self, service, gateway, receiver):
        service.bank.behave({"duplicates": 2})
        payment_id = gateway.create(ORDER).payment_id
        until(lambda: service.bank.find(payment_id=payment_id).notified)  # which it is after the last of them
        assert len(receiver.received) == 3

    def test_after_a_dropped_webhook_the_status_is_right(self, service, gateway, receiver):
        service.bank.behave({"drop": True, "delay": 0})
        gateway.create(ORDER)
        until(lambda: gateway.status(order_id="o-1").status == Status.SUCCEEDED)
        assert receiver.received == []

    def test_reordered(self, service, gateway, receiver, monkeypatch):
        monkeypatch.setattr("payments.gateways.server.MAX_REORDER_SECONDS", 30)
        service.bank.behave({"order_id": "o-1", "reorder": True, "delay": 0})
        gateway.create(ORDER)
        gateway.create(PaymentRequest(order_id="o-2", amount=1, currency="USD", idempotency_key="k-2"))
        until(lambda: len(receiver.received) == 2)
        assert [event(gateway, webhook).about.order_id for webhook in receiver.received] == ["o-2", "o-1"]

    def test_early(self, service, gateway, receiver):
        service.bank.behave({"early": True})
        assert gateway.create(ORDER).status == Status.SUCCEEDED
        assert len(receiver.received) == 1

    @pytest.mark.parametrize(
        ("behaviour", "known"), [({"errors": 1}, False), ({"lost_answers": 1}, True), ({"hang": 3600}, True)]
    )
    def test_no_answer_means_unknown_and_a_repeated_request_makes_one_payment(
        self, service, gateway, settings, behaviour, known
    ):
        service.bank.behave(behaviour)
        settings.GATEWAY_TIMEOUT = (60, 1 if "hang" in behaviour else 60)
        with pytest.raises(GatewayUnavailable):
            FakeGateway(CircuitBreaker("fake", failures=(GatewayUnavailable,))).create(ORDER)
        until(lambda: bool(service.bank.payments) is known)
        assert (gateway.status(order_id="o-1") is not None) is known
        assert gateway.create(ORDER).order_id == "o-1"
        assert len(service.bank.payments) == 1

    def test_lies(self, service, gateway, receiver):
        service.bank.behave({"lie_amount": 1, "lie_currency": "EUR"})
        gateway.create(ORDER)
        until(lambda: receiver.received)
        webhook = event(gateway, receiver.received[0]).about
        assert (webhook.amount, webhook.currency) == (1_00, "EUR")
        assert gateway.status(order_id="o-1").amount == 12_50


class TestATotalOfTheTestMode:
    @pytest.mark.parametrize("total", trial_outcomes.TOTALS)
    @pytest.mark.parametrize("is_on", [True, False])
    def test_has_its_outcome_where_it_is_on(self, service, gateway, settings, total, is_on):
        settings.TEST_MODE = is_on
        payment_id = gateway.create(replace(ORDER, amount=total)).payment_id
        usual = asdict(Behaviour())
        assert service.bank.find(payment_id=payment_id).behaviour == (
            usual | trial_outcomes.TOTALS[total].behaviour if is_on else usual
        )

    def test_is_disputed_once_it_has_succeeded(self, service, gateway, receiver, settings):
        settings.TEST_MODE = True
        payment_id = gateway.create(replace(ORDER, amount=900_03)).payment_id
        until(lambda: len(receiver.received) == 2)
        told = [event(gateway, webhook) for webhook in receiver.received]
        assert [one.type for one in told] == ["payment.succeeded", "dispute.opened"]
        assert told[1].about.amount == 900_03
        service.notify(service.bank.find(payment_id=payment_id))
        assert len(service.bank.find(payment_id=payment_id).disputes) == 1


def test_a_webhook_carries_the_tracing_headers_of_its_payment(gateway, receiver):
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with context.acting(context.Context(correlation_id="from-the-customer", traceparent=traceparent)):
        gateway.create(ORDER)
    until(lambda: receiver.received)
    (headers, _), *_ = receiver.received
    assert headers["X-Correlation-ID"] == "from-the-customer"
    assert headers["traceparent"] == traceparent
