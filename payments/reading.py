"""What payments tells other services at once: the second port beside the messages. It only reads."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt to pay that was declined."""

    at: datetime
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class PaymentView:
    """
    The payment of an order, in minor units.

    `client_secret` and `next_action` are what the payer needs, and are there only while the payment can be paid.
    """

    payment_id: str
    order_id: str
    method: str
    gateway: str
    status: str
    amount: int
    authorized_amount: int
    captured_amount: int
    refunded_amount: int
    currency: str
    client_secret: str
    next_action: dict[str, Any] | None
    expires_at: datetime | None
    attempts: tuple[Attempt, ...]
    created_at: datetime
    updated_at: datetime


def payment_of(order_id: str) -> PaymentView | None:
    """Return the payment of an order; None if payments has not heard of it yet."""
    raise NotImplementedError
