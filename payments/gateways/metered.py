"""A gateway whose calls are timed and counted."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from common.circuit_breaker import Breaker
from outbox import tracing
from payments import metrics

from .base import Answer, Event, Gateway, GatewayRefused, GatewayUnavailable, PaymentRequest, RefundRequest


class Metered:
    """Another gateway, and what its calls take and come to."""

    def __init__(self, gateway: Gateway, breaker: Breaker) -> None:
        self.name = gateway.name
        self.gateway = gateway
        self._breaker = breaker

    def create(self, payment: PaymentRequest) -> Answer:
        with self._call("create"):
            return self.gateway.create(payment)

    def status(self, *, payment_id: str = "", order_id: str = "") -> Answer | None:
        with self._call("status"):
            return self.gateway.status(payment_id=payment_id, order_id=order_id)

    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        with self._call("cancel"):
            return self.gateway.cancel(payment_id=payment_id, idempotency_key=idempotency_key)

    def refund(self, refund: RefundRequest) -> Answer:
        with self._call("refund"):
            return self.gateway.refund(refund)

    def parse_webhook(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> Event:
        return self.gateway.parse_webhook(headers=headers, body=body, now=now)

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        began, outcome = time.monotonic(), "error"
        try:
            with tracing.span(f"{self.name} {name}", kind="client"):
                yield
            outcome = "answered"
        except GatewayRefused:
            outcome = "refused"
            raise
        except GatewayUnavailable:
            outcome = "unavailable"
            raise
        finally:
            metrics.GATEWAY_SECONDS.labels(self.name, name, outcome).observe(time.monotonic() - began)
            metrics.BREAKER_STATE.labels(self.name).set(self._breaker.state)
