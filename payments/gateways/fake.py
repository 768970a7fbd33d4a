"""The client of the fake payment service (`manage.py fake_gateway`)."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from django.conf import settings

from common import money, signing
from common.circuit_breaker import CircuitBreaker

from .base import Answer, BadEvent, Event, GatewayRefused, GatewayUnavailable, PaymentRequest, RefundRequest, Status
from .http import HttpClient, measured

OUTCOMES = {"payment.succeeded": ("success", Status.SUCCEEDED), "payment.failed": ("failed", Status.FAILED)}


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
        return self._answer("POST", "/payments", headers={"Idempotency-Key": payment.idempotency_key}, body=body)

    @measured
    def status(self, *, payment_id: str = "", order_id: str = "") -> Answer | None:
        try:
            if payment_id:
                return self._answer("GET", f"/payments/{quote(payment_id, safe='')}")
            return self._answer("GET", "/payments", params={"order_id": order_id})
        except GatewayRefused as refused:
            if refused.code == "no_such_payment":
                return None
            raise

    @measured
    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        headers = {"Idempotency-Key": idempotency_key}
        return self._answer("POST", f"/payments/{quote(payment_id, safe='')}/cancel", headers=headers)

    @measured
    def refund(self, refund: RefundRequest) -> Answer:
        headers = {"Idempotency-Key": refund.idempotency_key}
        return self._answer("POST", f"/payments/{quote(refund.payment_id, safe='')}/refund", headers=headers)

    def parse_webhook(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> Event:
        webhook_id = signing.verify(secrets=settings.PAYMENT_WEBHOOK_SECRETS, headers=headers, body=body, now=now)
        try:
            content = json.loads(body)
            data, kind = content["data"], content["type"]
            outcome, status = OUTCOMES[kind]
            if data["status"] != outcome:
                raise BadEvent("The type and the status contradict each other.")
            payment_id, order_id, currency = (_text(data, name) for name in ("payment_id", "order_id", "currency"))
            amount = money.minor_units(data["amount"], currency=currency)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise BadEvent("The body is not that of a known webhook.") from error
        return Event(
            webhook_id=webhook_id,
            type=kind,
            payment_id=payment_id,
            order_id=order_id,
            status=status,
            amount=amount,
            currency=currency,
        )

    def _answer(self, method: str, path: str, **request: Any) -> Answer:
        content = self._http.call(method, path, **request)
        try:
            currency = _text(content, "currency")
            return Answer(
                payment_id=_text(content, "payment_id"),
                order_id=_text(content, "order_id"),
                status=Status(content["status"]),
                amount=money.minor_units(content["amount"], currency=currency),
                currency=currency,
                fail_reason=str(content.get("fail_reason", ""))[:50],
            )
        except (ValueError, LookupError, TypeError) as error:
            raise GatewayUnavailable(f"{self.name}: the answer is not a payment.") from error


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content[name]
    if not isinstance(value, str) or not 0 < len(value) <= 100 or "\0" in value:
        raise ValueError(name)
    return value
