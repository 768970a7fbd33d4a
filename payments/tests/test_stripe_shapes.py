"""Stripe's objects and events in the shapes of its current API version, and in any other that an answer can have."""

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.circuit_breaker import CircuitBreaker
from payments.gateways import http, stripe_objects
from payments.gateways.base import (
    Answer,
    BadEvent,
    DisputeAnswer,
    GatewayBroke,
    GatewayRefused,
    GatewayUnavailable,
    RefundAnswer,
    Status,
    Transaction,
)
from payments.gateways.stripe import StripeGateway

AT = 1790000000
MOMENT = datetime.fromtimestamp(AT, UTC)
INTENT: dict[str, Any] = {
    "id": "pi_3Q", "object": "payment_intent", "amount": 1250, "amount_capturable": 0, "amount_details": {"tip": {}},
    "amount_received": 0, "application": None, "automatic_payment_methods": {"enabled": True},
    "canceled_at": None, "cancellation_reason": None, "capture_method": "automatic", "client_secret": "pi_3Q_secret_x",
    "confirmation_method": "automatic", "created": AT, "currency": "usd", "customer": None, "description": None,
    "last_payment_error": None, "latest_charge": None, "livemode": False, "metadata": {"order_id": "o-1"},
    "next_action": None, "payment_method": None, "payment_method_types": ["card", "us_bank_account"],
    "processing": None, "status": "requires_payment_method",
}  # fmt: skip
DECLINE = {
    "type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds", "charge": "ch_3Q",
    "message": "Your card has insufficient funds.", "payment_method": {"id": "pm_1", "object": "payment_method"},
}  # fmt: skip
CHARGE = {
    "id": "ch_3Q", "object": "charge", "amount": 1250, "amount_captured": 1250, "amount_refunded": 0, "captured": True,
    "currency": "usd", "metadata": {"order_id": "o-1"}, "payment_intent": "pi_3Q", "refunded": False,
    "status": "succeeded", "payment_method_details": {"type": "card", "card": {"brand": "visa", "capture_before": AT}},
}  # fmt: skip
REFUND = {
    "id": "re_3Q", "object": "refund", "amount": 300, "balance_transaction": "txn_1", "charge": "ch_3Q", "created": AT,
    "currency": "usd", "destination_details": {"type": "card"}, "metadata": {"order_id": "o-1", "refund_id": "r-1"},
    "payment_intent": "pi_3Q", "reason": None, "status": "succeeded",
}  # fmt: skip
DISPUTE = {
    "id": "du_1", "object": "dispute", "amount": 1250, "balance_transactions": [], "charge": "ch_3Q", "created": AT,
    "currency": "usd", "evidence_details": {"due_by": AT, "has_evidence": False}, "is_charge_refundable": False,
    "metadata": {}, "payment_intent": "pi_3Q", "reason": "fraudulent", "status": "needs_response",
}  # fmt: skip
BALANCE = {
    "id": "txn_1", "object": "balance_transaction", "amount": 1250, "available_on": AT, "created": AT,
    "currency": "usd", "description": None, "exchange_rate": None, "fee": 66, "fee_details": [], "net": 1184,
    "reporting_category": "charge", "source": CHARGE, "status": "pending", "type": "charge",
}  # fmt: skip


def read(kind: str, about: Any) -> Any:
    """Return what the adapter reads from an event."""
    body = {
        "id": "evt_1", "object": "event", "api_version": stripe_objects.VERSION, "created": AT, "livemode": False,
        "data": {"object": about}, "pending_webhooks": 2, "type": kind,
        "request": {"id": None, "idempotency_key": None},
    }  # fmt: skip
    return gateway().read_webhook(body=json.dumps(body).encode()).about


def gateway() -> StripeGateway:
    return StripeGateway(CircuitBreaker("stripe", failures=(GatewayUnavailable,)))


@pytest.mark.parametrize(("kind", "change", "expected"), [
    ("payment_failed", {"last_payment_error": DECLINE, "latest_charge": "ch_3Q"}, Status.PENDING),
    ("requires_action", {"status": "requires_action"}, Status.PENDING),
    ("processing", {"status": "processing"}, Status.PENDING),
    ("amount_capturable_updated", {"status": "requires_capture", "amount_capturable": 1250}, Status.AUTHORIZED),
    ("succeeded", {"status": "succeeded", "amount_received": 1250}, Status.SUCCEEDED),
    ("canceled", {"status": "canceled", "cancellation_reason": "automatic"}, Status.CANCELED),
])  # fmt: skip
def test_events_of_payments(kind: str, change: dict[str, Any], expected: Status) -> None:
    about = read(f"payment_intent.{kind}", INTENT | change)
    assert isinstance(about, Answer)
    assert (about.status, about.payment_id, about.order_id, about.amount) == (expected, "pi_3Q", "o-1", 1250)
    assert bool(about.client_secret) == (expected == Status.PENDING)
    if kind == "payment_failed":
        assert about.attempt is not None
        assert (about.attempt.attempt_id, about.attempt.code, about.attempt.at) == (
            "ch_3Q",
            "insufficient_funds",
            MOMENT,
        )


@pytest.mark.parametrize(("action", "url"), [
    ({"type": "redirect_to_url", "redirect_to_url": {"url": "https://a.test", "return_url": None}}, "https://a.test"),
    ({"type": "verify_with_microdeposits", "verify_with_microdeposits": {"hosted_verification_url": "https://b.test"}},
     "https://b.test"),
    ({"type": "display_bank_transfer_instructions",
      "display_bank_transfer_instructions": {"hosted_instructions_url": "https://c.test", "amount_remaining": 1}},
     "https://c.test"),
    ({"type": "multibanco_display_details", "multibanco_display_details": {"hosted_voucher_url": "https://d.test"}},
     "https://d.test"),
    ({"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}, None),
    ({"type": "redirect_to_url", "redirect_to_url": {"url": "javascript:alert(1)"}}, None),
])  # fmt: skip
def test_what_a_payer_has_to_do(action: dict[str, Any], url: str | None) -> None:
    answer = stripe_objects.payment(INTENT | {"status": "requires_action", "next_action": action})
    assert answer.next_action == {"type": action["type"]} | ({"url": url} if url else {})


def test_reserved_and_captured_money() -> None:
    held = INTENT | {"status": "requires_capture", "amount_capturable": 1250, "latest_charge": CHARGE}
    assert stripe_objects.payment(held).authorized_until == MOMENT
    taken = INTENT | {"status": "succeeded", "amount_received": 700, "latest_charge": "ch_3Q"}
    assert stripe_objects.payment(taken).taken == 700


@pytest.mark.parametrize("kind", ["refund.created", "refund.updated", "refund.failed", "charge.refund.updated"])
@pytest.mark.parametrize(("status", "expected"), [
    ("pending", "pending"), ("requires_action", "pending"), ("succeeded", "succeeded"), ("failed", "failed"),
    ("canceled", "failed"),
])  # fmt: skip
def test_events_of_refunds(kind: str, status: str, expected: str) -> None:
    reason = {"failure_reason": "expired_or_canceled_card"} if status == "failed" else {}
    about = read(kind, REFUND | {"status": status} | reason)
    assert isinstance(about, RefundAnswer)
    assert (about.status, about.refund_id, about.amount) == (expected, "r-1", 300)
    assert about.fail_reason == {"failed": "expired_or_canceled_card", "canceled": "canceled"}.get(status, "")


@pytest.mark.parametrize("status", ["needs_response", "under_review", "won", "lost", "prevented"])
def test_events_of_disputes(status: str) -> None:
    about = read("charge.dispute.updated", DISPUTE | {"status": status})
    assert isinstance(about, DisputeAnswer)
    opened = {"needs_response": "opened", "under_review": "opened", "prevented": "won"}
    assert (about.status, about.payment_id, about.respond_by) == (opened.get(status, status), "pi_3Q", MOMENT)


@pytest.mark.parametrize(("kind", "about"), [
    ("charge.dispute.created", DISPUTE | {"status": "warning_needs_response"}),
    ("charge.dispute.closed", DISPUTE | {"status": "warning_closed"}),
    ("charge.dispute.created", DISPUTE | {"payment_intent": None}),
    ("refund.created", REFUND | {"reason": "expired_uncaptured_charge", "metadata": {}}),
    ("refund.created", REFUND | {"payment_intent": None}),
    ("charge.refunded", CHARGE),
    ("charge.succeeded", CHARGE),
    ("payout.paid", {"id": "po_1", "object": "payout"}),
])  # fmt: skip
def test_what_is_nothing_of_ours(kind: str, about: dict[str, Any]) -> None:
    assert read(kind, about) is None


@pytest.mark.parametrize(("change", "kind", "amount"), [
    ({}, "charge", 1250),
    ({"type": "payment"}, "charge", 1250),
    ({"source": CHARGE | {"amount_captured": 700}}, "charge", 700),
    ({"source": CHARGE | {"status": "pending"}}, "other", 1250),
    ({"type": "refund", "reporting_category": "partial_capture_reversal", "amount": -550}, "other", 550),
    ({"type": "payment_failure_refund", "reporting_category": "charge_failure", "amount": -1250}, "other", 1250),
    ({"type": "payment_refund", "reporting_category": "refund", "amount": -300, "source": REFUND}, "refund", 300),
    ({"type": "adjustment", "reporting_category": "refund_failure", "amount": 1, "source": REFUND}, "refund_failed", 1),
    ({"type": "adjustment", "reporting_category": "dispute", "amount": -1250, "source": DISPUTE}, "dispute", 1250),
    ({"type": "adjustment", "reporting_category": "dispute_reversal", "source": DISPUTE}, "dispute_won", 1250),
    ({"type": "payout", "reporting_category": "payout", "amount": -9000, "source": "po_1"}, "other", 9000),
])  # fmt: skip
def test_transactions(change: dict[str, Any], kind: str, amount: int) -> None:
    found = stripe_objects.transaction(BALANCE | change)
    assert (found.kind, found.amount, found.at) == (Transaction.Kind(kind), amount, MOMENT)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["pi_1", "usd", "\0"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*INTENT, *REFUND]), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.sampled_from([INTENT, REFUND, DISPUTE, BALANCE, CHARGE])


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """Draw one of Stripe's objects with something else in some of its fields, or without them."""
    content = dict(draw(OBJECTS))
    for name in draw(st.lists(st.sampled_from(sorted(content)), max_size=3, unique=True)):
        if draw(st.booleans()):
            content[name] = draw(VALUES)
        else:
            del content[name]
    return draw(st.sampled_from([content, {"data": [content]}]) | VALUES)


CALLS: dict[str, Callable[[StripeGateway], object]] = {
    "by id": lambda adapter: adapter.status(payment_id="pi_3Q"),
    "search": lambda adapter: adapter.status(order_id="o-1"),
    "list": lambda adapter: adapter.status(order_id="o-1", since=MOMENT),
    "refunds": lambda adapter: adapter.refunds(payment_id="pi_3Q"),
    "transactions": lambda adapter: list(adapter.transactions(since=MOMENT, until=MOMENT)),
}


@given(
    call=st.sampled_from(sorted(CALLS)),
    content=changed(),
    status=st.sampled_from([200, 201, 302, 400, 402, 404, 409, 429, 500, 503]),
    is_json=st.booleans(),
)
def test_a_foreign_answer_is_understood_or_unknown(call: str, content: Any, status: int, is_json: bool) -> None:
    adapter = gateway()
    body = json.dumps(content).encode() if is_json else repr(content).encode(errors="replace")
    adapter._http._exchange = lambda *args, **request: (status, body)  # type: ignore[method-assign]
    with contextlib.suppress(GatewayUnavailable, GatewayRefused):
        CALLS[call](adapter)


@given(content=changed(), kind=st.sampled_from([*stripe_objects.EVENTS, "payout.paid"]))
def test_a_foreign_event_is_read_or_bad(content: Any, kind: str) -> None:
    body = json.dumps({"id": "evt_1", "type": kind, "created": AT, "data": {"object": content}}).encode()
    try:
        event = gateway().read_webhook(body=body)
    except BadEvent:
        return
    assert event.type == kind


@pytest.mark.parametrize(("status", "body", "error"), [
    (500, {"error": {"type": "api_error", "message": "x"}}, GatewayBroke),
    (503, {"error": {"type": "api_error"}}, GatewayBroke),
    (502, {}, GatewayUnavailable),
    (402, {"error": {"type": "card_error", "code": "card_declined"}}, GatewayRefused),
    (400, {"error": {"type": "idempotency_error"}}, GatewayUnavailable),
    (409, {"error": {"code": "lock_timeout", "type": "invalid_request_error"}}, GatewayUnavailable),
    (429, {"error": {"code": "rate_limit"}}, GatewayUnavailable),
    (401, {"error": {"type": "invalid_request_error"}}, GatewayUnavailable),
])  # fmt: skip
def test_errors(status: int, body: dict[str, Any], error: type[Exception]) -> None:
    client = http.HttpClient(
        "stripe", base_url="http://127.0.0.1", timeout=(1, 1), breaker=CircuitBreaker("x", failures=())
    )
    with pytest.raises(error) as raised:
        client._understand(status, json.dumps(body).encode())
    assert type(raised.value) is error
