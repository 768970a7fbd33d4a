"""The gateway for Stripe, against a local server that plays its API."""

import hashlib
import hmac
import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from common import signing
from common.circuit_breaker import CircuitBreaker, State
from payments import gateway_calls, receipts, services
from payments.gateways.base import BadEvent, GatewayRefused, GatewayUnavailable, PaymentRequest, RefundRequest, Status
from payments.gateways.stripe import StripeGateway
from payments.messages import CallGateway
from payments.models import Entry, Payment, WebhookReceipt

NOW = datetime.now(UTC)
INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "amount": 1250,
    "currency": "usd",
    "metadata": {"order_id": "o-1"},
    "status": "requires_payment_method",
    "last_payment_error": None,
    "latest_charge": None,
}
ORDER = PaymentRequest(order_id="o-1", amount=1250, currency="USD", idempotency_key="k-1")


class Stripe(ThreadingHTTPServer):
    """A server that gives the prepared answers and keeps the requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Api)
        self.answers: list[Any] = []
        self.requests: list[Any] = []


class Api(BaseHTTPRequestHandler):
    server: Stripe

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        status, answer = self.server.answers.pop(0)
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815 - the name that http.server calls

    def log_message(self, *args):
        pass


@pytest.fixture
def stripe(settings):
    server = Stripe()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.STRIPE_API_URL = f"http://127.0.0.1:{server.server_address[1]}"
    settings.STRIPE_API_KEY = "sk_test_1"
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_new", "whsec_old"]
    settings.GATEWAY_TIMEOUT = (60, 60)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def gateway(stripe):
    return StripeGateway(CircuitBreaker("stripe", failures=(GatewayUnavailable,)))


def error(code, **more):
    return {"error": {"code": code, "message": code, "type": "invalid_request_error"} | more}


class TestCallsToStripe:
    def test_for_a_payment(self, stripe, gateway):
        stripe.answers = [(200, INTENT)]
        answer = gateway.create(ORDER)
        assert (answer.payment_id, answer.status, answer.amount) == ("pi_1", Status.PENDING, 1250)
        _, path, headers, body = stripe.requests[0]
        assert path == "/v1/payment_intents"
        assert (headers["Idempotency-Key"], headers["Authorization"]) == ("k-1", "Bearer sk_test_1")
        assert "amount=1250&currency=usd" in body
        assert "metadata%5Border_id%5D=o-1" in body

    def test_for_the_status_by_order_and_by_id(self, stripe, gateway):
        refunded = INTENT | {"status": "succeeded", "latest_charge": {"refunded": True}}
        stripe.answers = [
            (200, {"data": [INTENT]}),
            (200, {"data": []}),
            (200, refunded),
            (404, error("resource_missing")),
        ]
        assert gateway.status(order_id="o-1").payment_id == "pi_1"
        assert gateway.status(order_id="o-2") is None
        assert gateway.status(payment_id="pi_1").status == Status.REFUNDED
        assert gateway.status(payment_id="pi_2") is None

    def test_to_cancel_what_has_succeeded_is_refused(self, stripe, gateway):
        stripe.answers = [(400, error("payment_intent_unexpected_state")), (200, INTENT | {"status": "succeeded"})]
        with pytest.raises(GatewayRefused, match="unexpected_state") as refused:
            gateway.cancel(payment_id="pi_1", idempotency_key="c-1")
        assert refused.value.code == "already_succeeded"

    @pytest.mark.parametrize(
        "answer",
        [
            {"status": "succeeded"},
            {"status": "pending"},
            {"status": "requires_action"},
            {"status": "failed", "failure_reason": "lost_or_stolen_card"},
            {"status": "canceled"},
        ],
        ids=lambda answer: answer["status"],
    )
    def test_to_refund(self, stripe, gateway, answer):
        made = {"id": "re_1", "payment_intent": "pi_1", "amount": 1250, "currency": "usd"}
        stripe.answers = [(200, made | answer)]
        refund = RefundRequest(payment_id="pi_1", order_id="o-1", amount=1250, currency="USD", idempotency_key="r-1")
        found = gateway.refund(refund)
        expected = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}.get(answer["status"], "pending")
        assert (found.status, bool(found.fail_reason)) == (expected, expected == "failed")

    def test_a_decline_is_a_refusal(self, stripe, gateway):
        stripe.answers = [(402, error("card_declined", decline_code="insufficient_funds"))]
        with pytest.raises(GatewayRefused) as refused:
            gateway.create(ORDER)
        assert refused.value.code == "insufficient_funds"

    @pytest.mark.parametrize(
        "answer",
        [
            (500, {}),
            (429, error("rate_limit")),
            (401, error("x")),
            (302, INTENT),
            (200, b"<html>"),
            (200, b"x" * 300000),
            (200, {}),
            (409, error("idempotency_key_in_use")),
        ],
    )
    def test_anything_else_is_unknown(self, stripe, gateway, answer):
        stripe.answers = [answer]
        with pytest.raises(GatewayUnavailable):
            gateway.create(ORDER)
        assert len(stripe.requests) == 1

    def test_a_gateway_that_is_down_is_not_called_for_a_while(self, settings):
        settings.STRIPE_API_URL = "http://127.0.0.1:1"
        breaker = CircuitBreaker("stripe", failures=(GatewayUnavailable,), threshold=2)
        for _ in range(3):
            with pytest.raises(GatewayUnavailable):
                StripeGateway(breaker).create(ORDER)
        assert breaker.state == State.OPEN


def signature(body, *, secret="whsec_old", at=NOW):
    seconds = str(int(at.timestamp()))
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={seconds},v1={'0' * 64},v1={digest},v0=x"}


def webhook(kind="payment_intent.succeeded", intent=INTENT | {"status": "succeeded"}):
    return json.dumps({"id": "evt_1", "type": kind, "data": {"object": intent}}).encode()


class TestWebhooksOfStripe:
    def test_are_read(self, gateway):
        body = webhook()
        event = gateway.parse_webhook(headers=signature(body), body=body, now=NOW)
        payment = event.about
        assert (event.webhook_id, payment.status, payment.order_id) == ("evt_1", Status.SUCCEEDED, "o-1")
        assert (payment.payment_id, payment.amount, payment.currency) == ("pi_1", 1250, "USD")

    def test_about_other_things_are_nothing_of_ours(self, gateway):
        body = webhook("customer.created", {})
        assert gateway.parse_webhook(headers=signature(body), body=body, now=NOW).about is None

    @pytest.mark.parametrize("seconds", [-302, 302])
    def test_stale(self, gateway, seconds):
        body = webhook()
        with pytest.raises(signing.Stale):
            gateway.parse_webhook(headers=signature(body, at=NOW + timedelta(seconds=seconds)), body=body, now=NOW)

    @pytest.mark.parametrize("header", ["", "t=", "t=1", "v1=a", "\0", "t=1,t=2,v1=a", "x" * 10**6, "t=\udc80,v1=é"])
    def test_garbage_is_refused(self, gateway, header):
        with pytest.raises(signing.BadSignature):
            gateway.parse_webhook(headers={"Stripe-Signature": header}, body=b"\xff", now=NOW)

    @pytest.mark.parametrize("body", [b"\xff", b"[]", b"{}", b"[" * 100_000, webhook(intent={}), webhook(intent=[])])
    def test_signed_but_unreadable_is_a_bad_event(self, gateway, body):
        with pytest.raises(BadEvent):
            gateway.parse_webhook(headers=signature(body), body=body, now=NOW)
        with pytest.raises(signing.NoMatch):
            gateway.parse_webhook(headers=signature(body, secret="wrong"), body=body, now=NOW)


@pytest.mark.django_db
class TestTheEndpointForStripe:
    def test_receives_a_webhook_and_handles_it_once(self, stripe, settings, client):
        settings.PAYMENT_GATEWAY = "stripe"
        now = timezone.now()
        services.charge_gateway(order_id="o-1", money=services.Money(1250, "USD"), now=now)
        stripe.answers = [(200, INTENT)]
        reply = gateway_calls.call_gateway(CallGateway(order_id="o-1"))
        with transaction.atomic("payments"):
            gateway_calls.record(order_id="o-1", reply=reply, now=now)
        assert Payment.objects.get().status == "pending"
        body = webhook(intent=INTENT | {"status": "succeeded"})
        for _ in range(2):
            answer = client.post(
                "/webhooks/payments/stripe",
                body,
                content_type="application/json",
                headers=signature(body, at=timezone.now()),
            )
            assert answer.status_code == 202
        receipts.handle(receipt_id=answer.json()["receipt_id"], now=now)
        assert (Payment.objects.get().status, WebhookReceipt.objects.get().status) == ("succeeded", "applied")
        assert Entry.objects.get().amount == 1250

    def test_discards_what_is_about_no_payment(self, stripe, client):
        body = webhook(kind="customer.created", intent={})
        headers = signature(body, at=timezone.now())
        answer = client.post("/webhooks/payments/stripe", body, content_type="application/json", headers=headers)
        assert answer.status_code == 202
        receipt = WebhookReceipt.objects.get()
        assert (receipt.status, receipt.reason) == ("discarded", "not_about_a_payment")
