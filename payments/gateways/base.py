"""The port to payment gateways: requests, answers, and errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from common.circuit_breaker import CircuitBreaker


class Status(StrEnum):
    """The status of a payment at a gateway."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    REFUNDED = "refunded"


@dataclass(frozen=True, kw_only=True)
class PaymentRequest:
    """
    A request to take the money of an order, in minor units. Requests with the same key make one payment.

    `order_id`, here and below, is the name of the order at the gateway: see payments.models.reference.
    """

    order_id: str
    amount: int
    currency: str
    idempotency_key: str


@dataclass(frozen=True, kw_only=True)
class RefundRequest:
    """A request to return a payment in full."""

    payment_id: str
    order_id: str
    amount: int
    currency: str
    idempotency_key: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A payment as the gateway describes it. It may be wrong: compare order, amount and currency."""

    payment_id: str
    order_id: str
    status: Status
    amount: int
    currency: str
    fail_reason: str = ""

    @property
    def reference(self) -> str:
        """The order as the gateway names it."""
        return self.order_id


@dataclass(frozen=True, kw_only=True)
class Event:
    """
    The content of a webhook whose signature is verified. It may still be wrong: compare everything.

    `status` is None for an event that is not about the status of a payment.
    """

    webhook_id: str
    type: str
    payment_id: str = ""
    order_id: str = ""
    status: Status | None = None
    amount: int = 0
    currency: str = ""


class GatewayUnavailable(Exception):
    """The outcome of a call is unknown: repeat it with the same key, or ask for the status."""

    code = "gateway_unavailable"


class GatewayRefused(Exception):
    """The gateway refuses a request and has done nothing. `code` says why."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(detail or code)
        self.code = code


class BadEvent(Exception):
    """The signature is right, but the body cannot be read."""

    code = "malformed_webhook"


class Gateway(Protocol):
    """
    A payment gateway.

    Every call to it raises GatewayUnavailable if the outcome is unknown, and GatewayRefused if the gateway refuses.
    """

    name: str
    breaker: CircuitBreaker

    def create(self, payment: PaymentRequest) -> Answer:
        """Request a payment and return it."""

    def status(self, *, payment_id: str = "", order_id: str = "") -> Answer | None:
        """Return a payment by its id, or by its order if the id is not known; None if there is no such payment."""

    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        """Cancel a pending payment and return it; refused with `already_succeeded` if the money has moved."""

    def refund(self, refund: RefundRequest) -> Answer:
        """Return the money of a payment, and the payment as it is then."""

    def parse_webhook(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> Event:
        """
        Return the content of a webhook.

        :raises common.signing.BadSignature: if the gateway did not sign it, or did so long ago
        :raises BadEvent: if the gateway sent it and it cannot be read
        """
