"""The client of the fake payment service (`manage.py fake_gateway`)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

from django.conf import settings

from common import money, signing, trial_outcomes
from common.circuit_breaker import CircuitBreaker
from outbox import strict_json

from .base import (
    Answer,
    BadEvent,
    CaptureRequest,
    DisputeAnswer,
    DisputeStatus,
    Event,
    GatewayRefused,
    GatewayUnavailable,
    PaymentRequest,
    RefundAnswer,
    RefundRequest,
    RefundStatus,
    Status,
    Transaction,
)
from .http import HttpClient, measured

OUTCOMES = {
    "payment.succeeded": ("success", Status.SUCCEEDED),
    "payment.failed": ("failed", Status.FAILED),
    "payment.authorized": ("authorized", Status.AUTHORIZED),
}
T = TypeVar("T")


def webhook_url() -> str:
    """Where the fake payment service sends its webhooks."""
    return f"{settings.WEBHOOKS_URL.rstrip('/')}/webhooks/payments/fake"


class FakeGateway:
    """The fake payment service."""

    name = "fake"

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker
        self._http = HttpClient(
            self.name, base_url=settings.FAKE_GATEWAY_URL, timeout=settings.GATEWAY_TIMEOUT, breaker=breaker
        )

    @measured
    def create(self, payment: PaymentRequest) -> Answer:
        body = {
            "order_id": payment.order_id,
            "amount": money.number(payment.amount, currency=payment.currency),
            "currency": payment.currency,
            "webhook_url": webhook_url(),
        }
        if payment.capture != "automatic":
            body["capture"] = payment.capture
        if behaviour := trial_outcomes.behaviour_of(payment.amount):
            body["behaviour"] = behaviour
        return self._answer("POST", "/payments", headers={"Idempotency-Key": payment.idempotency_key}, body=body)

    @measured
    def status(self, *, payment_id: str = "", order_id: str = "", since: datetime | None = None) -> Answer | None:
        try:
            if payment_id:
                return self._answer("GET", _path(payment_id))
            return self._answer("GET", "/payments", params={"order_id": order_id})
        except GatewayRefused as refused:
            if refused.code == "no_such_payment":
                return None
            raise

    @measured
    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        headers = {"Idempotency-Key": idempotency_key}
        return self._answer("POST", _path(payment_id, "cancel"), headers=headers)

    @measured
    def capture(self, capture: CaptureRequest) -> Answer:
        headers = {"Idempotency-Key": capture.idempotency_key}
        body = {"amount": money.number(capture.amount, currency=capture.currency)}
        return self._answer("POST", _path(capture.payment_id, "capture"), headers=headers, body=body)

    @measured
    def refund(self, refund: RefundRequest) -> RefundAnswer:
        headers = {"Idempotency-Key": refund.idempotency_key}
        body = {
            "amount": money.number(refund.amount, currency=refund.currency),
            "name": refund.refund_id or refund.idempotency_key,
        }
        content = self._http.call("POST", _path(refund.payment_id, "refunds"), headers=headers, body=body)
        return self._read(_refund, content)

    @measured
    def refunds(self, *, payment_id: str) -> list[RefundAnswer]:
        content = self._http.call("GET", _path(payment_id, "refunds"))
        return self._read(lambda content: list(map(_refund, content["refunds"])), content)

    def transactions(self, *, since: datetime, until: datetime) -> Iterator[Transaction]:
        params = {"since": str(since.timestamp()), "until": str(until.timestamp())}
        content = self._http.call("GET", "/transactions", params=params)
        yield from self._read(lambda content: list(map(_transaction, content["transactions"])), content)

    def parse_webhook(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> Event:
        webhook_id = signing.verify(secrets=settings.PAYMENT_WEBHOOK_SECRETS, headers=headers, body=body, now=now)
        return replace(self.read_webhook(body=body), webhook_id=webhook_id)

    def read_webhook(self, *, body: bytes) -> Event:
        try:
            content = strict_json.parse(body)
            data, kind = content["data"], content["type"]
            about = EVENTS[kind](kind, data)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise BadEvent("The body is not that of a known webhook.") from error
        return Event(webhook_id="", type=kind, about=about)

    def _answer(self, method: str, path: str, **request: Any) -> Answer:
        return self._read(_payment, self._http.call(method, path, **request))

    def _read(self, read: Callable[[dict[str, Any]], T], content: dict[str, Any]) -> T:
        try:
            return read(content)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise GatewayUnavailable(f"{self.name}: the answer cannot be understood.") from error


def _path(payment_id: str, what: str = "") -> str:
    return f"/payments/{quote(payment_id, safe='')}" + (f"/{what}" if what else "")


def _payment(content: Mapping[str, Any], *, status: Status | None = None) -> Answer:
    currency = _text(content, "currency")
    captured, until, action = (content.get(name) for name in ("captured", "authorized_until", "next_action"))
    return Answer(
        payment_id=_text(content, "payment_id"),
        order_id=_text(content, "order_id"),
        status=status or Status(content["status"]),
        amount=money.minor_units(content["amount"], currency=currency),
        currency=currency,
        fail_reason=str(content.get("fail_reason", ""))[:50],
        captured=None if captured is None else money.minor_units(captured, currency=currency),
        client_secret=str(content.get("client_secret", ""))[:255],
        next_action={name: str(action[name])[:2000] for name in ("type", "url")} if action else None,
        authorized_until=None if until is None else datetime.fromtimestamp(until, UTC),
    )


def _refund(content: Mapping[str, Any]) -> RefundAnswer:
    currency = _text(content, "currency")
    return RefundAnswer(
        gateway_refund_id=_text(content, "refund_id"),
        payment_id=_text(content, "payment_id"),
        status=RefundStatus(content["status"]),
        amount=money.minor_units(content["amount"], currency=currency),
        currency=currency,
        order_id=_text(content, "order_id"),
        refund_id=_text(content, "name") if content["name"] else "",
        fail_reason=str(content.get("fail_reason", ""))[:50],
    )


def _dispute(content: Mapping[str, Any]) -> DisputeAnswer:
    currency = _text(content, "currency")
    return DisputeAnswer(
        dispute_id=_text(content, "dispute_id"),
        payment_id=_text(content, "payment_id"),
        status=DisputeStatus(content["status"]),
        amount=money.minor_units(content["amount"], currency=currency),
        currency=currency,
        order_id=_text(content, "order_id"),
        reason=str(content.get("reason", ""))[:100],
    )


def _transaction(content: Mapping[str, Any]) -> Transaction:
    currency = _text(content, "currency")
    return Transaction(
        transaction_id=_text(content, "transaction_id"),
        kind=Transaction.Kind(content["kind"]),
        amount=money.minor_units(content["amount"], currency=currency),
        fee=money.minor_units(content["fee"], currency=currency),
        currency=currency,
        at=datetime.fromtimestamp(content["at"], UTC),
        payment_id=_text(content, "payment_id"),
        source_id=_text(content, "source_id"),
        order_id=_text(content, "order_id"),
    )


def _outcome(kind: str, data: Mapping[str, Any]) -> Answer:
    said, status = OUTCOMES[kind]
    if data["status"] != said:
        raise BadEvent("The type and the status contradict each other.")
    return _payment(data, status=status)


EVENTS: dict[str, Callable[[str, Mapping[str, Any]], Answer | RefundAnswer | DisputeAnswer]] = {
    **dict.fromkeys(OUTCOMES, _outcome),
    **dict.fromkeys((f"refund.{status}" for status in RefundStatus), lambda kind, data: _refund(data)),
    **dict.fromkeys((f"dispute.{status}" for status in DisputeStatus), lambda kind, data: _dispute(data)),
}


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content[name]
    if not isinstance(value, str) or not 0 < len(value) <= 100 or "\0" in value:
        raise ValueError(name)
    return value
