"""The port to payment gateways: requests, answers, and errors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from common.circuit_breaker import CircuitBreaker


class Status(StrEnum):
    """The status of a payment at a gateway."""

    PENDING = "pending"  # the payer can still pay, or the money is on its way: see `next_action` and `attempt`
    AUTHORIZED = "authorized"  # the money is reserved and waits to be captured
    SUCCEEDED = "succeeded"  # the money is in, `captured` of it
    FAILED = "failed"  # declined for good
    CANCELED = "canceled"
    REFUNDED = "refunded"  # nothing of the money is left


class RefundStatus(StrEnum):
    """The status of a refund at a gateway."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the money is still, or again, with us; a refund can fail after it has succeeded


class DisputeStatus(StrEnum):
    """The status of a dispute at a gateway."""

    OPENED = "opened"  # the gateway has taken the money
    WON = "won"  # the gateway has given it back
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class PaymentRequest:
    """
    A request to take or, with `capture="manual"`, to reserve the money of an order, in minor units.

    Requests with the same key make one payment. `order_id`, here and below, is the name of the order at the gateway:
    see payments.models.reference.
    """

    order_id: str
    amount: int
    currency: str
    idempotency_key: str
    capture: str = "automatic"


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    """A request to take this much of the money that is reserved; the gateway releases the rest."""

    payment_id: str
    order_id: str
    amount: int
    currency: str
    idempotency_key: str


@dataclass(frozen=True, kw_only=True)
class RefundRequest:
    """A request to return this much of a payment. `refund_id` is our name of the refund; "" if it has none."""

    payment_id: str
    order_id: str
    amount: int
    currency: str
    idempotency_key: str
    refund_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt to pay that was declined. The payer can try again unless the payment has failed."""

    attempt_id: str  # the same however often the gateway tells of it
    code: str
    message: str = ""
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A payment as the gateway describes it. It may be wrong: compare order, amount and currency."""

    payment_id: str
    order_id: str
    status: Status
    amount: int  # what was requested
    currency: str
    fail_reason: str = ""
    captured: int | None = None  # what the gateway has taken, if that is another amount than requested
    client_secret: str = field(default="", repr=False)  # what the payer's browser needs to pay
    next_action: dict[str, str] | None = field(default=None, repr=False)  # `type`, and `url` of a hosted page
    attempt: Attempt | None = None  # the last one that was declined
    authorized_until: datetime | None = None  # when the gateway releases what it has reserved

    @property
    def taken(self) -> int:
        """What the gateway has taken of a payment that has succeeded."""
        return self.amount if self.captured is None else self.captured

    @property
    def reference(self) -> str:
        """The order as the gateway names it."""
        return self.order_id


@dataclass(frozen=True, kw_only=True)
class RefundAnswer:
    """A refund as the gateway describes it. It may be wrong: compare payment, amount and currency."""

    gateway_refund_id: str
    payment_id: str
    status: RefundStatus
    amount: int
    currency: str
    order_id: str = ""  # if the gateway tells
    refund_id: str = ""  # our name of it; "" if it was made at the gateway, by hand
    fail_reason: str = ""

    @property
    def reference(self) -> str:
        """The order as the gateway names it."""
        return self.order_id


@dataclass(frozen=True, kw_only=True)
class DisputeAnswer:
    """A dispute as the gateway describes it: the payer's bank wants the money back."""

    dispute_id: str
    payment_id: str
    status: DisputeStatus
    amount: int
    currency: str
    order_id: str = ""  # if the gateway tells
    reason: str = ""
    respond_by: datetime | None = None

    @property
    def reference(self) -> str:
        """The order as the gateway names it."""
        return self.order_id


@dataclass(frozen=True, kw_only=True)
class Event:
    """
    The content of a webhook whose signature is verified. It may still be wrong: compare everything.

    It is about a payment, a refund or a dispute, or about nothing of ours.
    """

    webhook_id: str
    type: str
    about: Answer | RefundAnswer | DisputeAnswer | None = None


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """A movement on the gateway's balance, in minor units: what it has booked, whatever else it says."""

    class Kind(StrEnum):
        CHARGE = "charge"
        REFUND = "refund"
        REFUND_FAILED = "refund_failed"
        DISPUTE = "dispute"
        DISPUTE_WON = "dispute_won"
        OTHER = "other"  # payouts and the like, which no order has caused

    transaction_id: str
    kind: Kind
    amount: int  # without its sign
    fee: int  # what the gateway keeps of it
    currency: str  # of the payment, whatever the gateway's balance is in
    at: datetime
    payment_id: str = ""
    source_id: str = ""  # of the refund or the dispute at the gateway; of the payment for a charge
    order_id: str = ""  # if the gateway tells
    description: str = ""
    fee_currency: str = ""  # if it is another one


class GatewayUnavailable(Exception):
    """The outcome of a call is unknown: repeat it with the same key, or ask for the status."""

    code = "gateway_unavailable"


class GatewayBroke(GatewayUnavailable):
    """
    The gateway answered with an error of its own, which it may repeat for as long as it remembers the key.

    The outcome is unknown as well: ask for it, and go on under another key.
    """


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

    def status(self, *, payment_id: str = "", order_id: str = "", since: datetime | None = None) -> Answer | None:
        """
        Return a payment by its id, or by its order if the id is not known; None if there is no such payment.

        The search by an order may lag behind, unless it says `since` when there can have been a payment.
        """

    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        """
        Cancel a pending or authorized payment and return it; refused with `already_succeeded` if the money has moved.
        """

    def capture(self, capture: CaptureRequest) -> Answer:
        """
        Take money that is reserved and return the payment.

        Refused with `capture_exceeds_authorized`, with `authorization_expired`, or otherwise if it is not authorized.
        """

    def refund(self, refund: RefundRequest) -> RefundAnswer:
        """Return money of a payment, and the refund as it is then: it may be pending, or have failed."""

    def refunds(self, *, payment_id: str) -> list[RefundAnswer]:
        """Return all refunds of a payment, whoever has made them."""

    def transactions(self, *, since: datetime, until: datetime) -> Iterator[Transaction]:
        """Yield what the gateway has booked from `since` until before `until`, page by page, in no certain order."""

    def parse_webhook(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> Event:
        """
        Return the content of a webhook.

        :raises common.signing.BadSignature: if the gateway did not sign it, or did so long ago
        :raises BadEvent: if the gateway sent it and it cannot be read
        """

    def read_webhook(self, *, body: bytes) -> Event:
        """
        Return the content of a webhook that was verified when it was stored.

        Two deliveries of one webhook have equal events, also where their bodies differ in what is about the delivery.

        :raises BadEvent: if it cannot be read
        """
