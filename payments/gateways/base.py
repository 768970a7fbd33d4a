"""The port to payment gateways: what we ask of one, what it answers, and how it can fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Status(StrEnum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    REFUNDED = "refunded"


@dataclass(frozen=True, kw_only=True)
class PaymentRequest:
    """Money to take for an order, in minor units; the same key is the same payment however often it is asked."""

    order_id: str
    amount: int
    currency: str
    idempotency_key: str


@dataclass(frozen=True, kw_only=True)
class RefundRequest:
    """A payment to give back in full."""

    payment_id: str
    order_id: str
    amount: int
    currency: str
    idempotency_key: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the gateway says of a payment. It may lie: compare order, amount and currency."""

    payment_id: str
    order_id: str
    status: Status
    amount: int
    currency: str
    fail_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Event:
    """
    What a webhook says, once its signature is verified. It may still be wrong: compare everything.

    `status` is None for an event that says nothing about a payment of ours.
    """

    webhook_id: str
    type: str
    payment_id: str = ""
    order_id: str = ""
    status: Status | None = None
    amount: int = 0
    currency: str = ""


class GatewayUnavailable(Exception):
    """Nobody knows whether it was done: ask again with the same key, or ask for the status."""

    code = "gateway_unavailable"


class GatewayRefused(Exception):
    """A definite no: nothing was done. `code` says why."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(detail or code)
        self.code = code


class BadEvent(Exception):
    """The signature is right and the body makes no sense."""

    code = "malformed_webhook"


class Gateway(Protocol):
    """
    A payment gateway.

    Every call outward raises GatewayUnavailable where the outcome is unknown and GatewayRefused where it is a no.
    """

    name: str

    def create(self, payment: PaymentRequest) -> Answer:
        """Ask for a payment."""

    def status(self, *, payment_id: str = "", order_id: str = "") -> Answer | None:
        """The truth about a payment, by its id or (where the id was never learnt) by its order; None: no such one."""

    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        """Call off a payment that is pending; refused with `already_succeeded` if the money has moved."""

    def refund(self, refund: RefundRequest) -> Answer:
        """Give a payment back."""

    def parse_webhook(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> Event:
        """
        What a webhook says.

        :raises common.signing.BadSignature: if the gateway didn't send it, now
        :raises BadEvent: if it did and it can't be read
        """
