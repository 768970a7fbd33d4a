"""What payments tells other services at once: the second port beside the messages. It only reads."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from outbox import clock

from . import ledger
from .models import Payment

Status = Payment.Status


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
    payment = Payment.objects.filter(pk=order_id).first()
    if payment is None:
        return None
    money = ledger.of_order(order_id)
    return PaymentView(
        payment_id=payment.gateway_payment_id or payment.order_id,
        order_id=order_id,
        method=payment.method,
        gateway=payment.gateway,
        status=payment.status,
        amount=payment.amount,
        authorized_amount=_authorized(payment, money),
        captured_amount=money.captured,
        refunded_amount=money.refunded,
        currency=payment.currency,
        **_for_payer(payment, now=clock.now("payments")),
        expires_at=_expiry(payment),
        attempts=tuple(
            Attempt(at=attempt.at, code=attempt.code, message=attempt.message)
            for attempt in payment.attempts.order_by("at", "id")
        ),
        created_at=payment.created_at,
        updated_at=payment.updated_at,
    )


def _authorized(payment: Payment, money: ledger.MoneyOfOrder) -> int:
    """What the gateway has, or had until it was captured, reserved."""
    is_reserved = payment.status in (Status.AUTHORIZED, Status.CAPTURING)
    return payment.amount if payment.is_manual and (is_reserved or money.captured) else 0


def _for_payer(payment: Payment, *, now: datetime) -> dict[str, Any]:
    """What the payer needs to pay, while that is possible."""
    can_pay = payment.status in Payment.PAYABLE and (payment.deadline is None or now < payment.deadline)
    return {
        "client_secret": payment.client_secret if can_pay else "",
        "next_action": payment.next_action if can_pay else None,
    }


def _expiry(payment: Payment) -> datetime | None:
    """Until when the payment can be paid or, once its money is reserved, captured."""
    if payment.status in Payment.PAYABLE:
        return payment.deadline
    return payment.authorized_until if payment.status in (Status.AUTHORIZED, Status.CAPTURING) else None
