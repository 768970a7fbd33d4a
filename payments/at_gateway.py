"""
The payment of an order at its gateway: what can be asked about it, with every answer compared.

# Note [A search proves nothing]: a gateway's list of payments may lag behind, or find what is spelled alike. A payment
# whose id we do not know is asked for by repeating the request under the same idempotency key: the gateway returns the
# payment that it has made under that key, or makes it now, and then it can be canceled. Only when the gateway may have
# forgotten the key, a day later, does an empty search count.
"""

import logging
from datetime import datetime, timedelta

from . import gateways
from .gateways.base import (
    Answer,
    DisputeAnswer,
    GatewayRefused,
    GatewayUnavailable,
    PaymentRequest,
    RefundAnswer,
    RefundRequest,
)
from .gateways.base import Status as GatewayStatus
from .models import Payment

logger = logging.getLogger(__name__)

KEYS_LAST = timedelta(hours=23)  # gateways remember idempotency keys for a day


class AtGateway:
    """
    A payment at its gateway.

    Each method raises GatewayRefused, and GatewayUnavailable if there is no answer, or one about another payment.
    """

    def __init__(self, payment: Payment, *, now: datetime) -> None:
        self.payment = payment
        self.now = now
        self._gateway = gateways.get(payment.gateway)

    def create(self) -> Answer:
        """Request the payment, or find the one that was requested before."""
        request = PaymentRequest(
            order_id=self.payment.reference,
            amount=self.payment.amount,
            currency=self.payment.currency,
            idempotency_key=f"{self.payment.reference}.charge",
        )
        try:
            return self._ours(self._gateway.create(request))
        except GatewayRefused:
            if (known := self._gateway.status(order_id=self.payment.reference)) is not None:
                return self._ours(known)
            raise

    def find(self) -> Answer | None:
        """Return the payment as it is at the gateway; None if it is certain that there is none."""
        is_recent = self.now - self.payment.created_at < KEYS_LAST
        if payment_id := self.payment.gateway_payment_id:
            found = self._gateway.status(payment_id=payment_id)
            if found is None and is_recent:
                raise GatewayUnavailable(f"{self._gateway.name}: the payment is not listed.")
        elif is_recent:
            try:
                return self.create()
            except GatewayRefused:
                return None
        else:
            found = self._gateway.status(order_id=self.payment.reference)
        return found and self._ours(found)

    def cancel(self, found: Answer) -> Answer:
        """Cancel a pending payment, and return it; if its money has moved, return it as it is now."""
        try:
            answer = self._gateway.cancel(payment_id=found.payment_id, idempotency_key=self._key("void"))
        except GatewayRefused:
            moved = self._gateway.status(payment_id=found.payment_id)
            if moved is None or moved.status == found.status:
                raise
            answer = moved
        return self._ours(answer, payment_id=found.payment_id)

    def refund(self, found: Answer) -> Answer:
        """Have all the money of a payment returned."""
        request = RefundRequest(
            payment_id=found.payment_id,
            order_id=self.payment.reference,
            amount=found.amount,
            currency=found.currency,
            idempotency_key=self._key("refund"),
        )
        return self._ours(self._gateway.refund(request), payment_id=found.payment_id)

    def _key(self, what: str) -> str:
        """The idempotency key of a call. A gateway repeats its refusal under the same key, so each refusal ends one."""
        return ".".join(
            [self.payment.reference, what, *([str(self.payment.refusals)] if self.payment.refusals else [])]
        )

    def _ours(self, answer: Answer, *, payment_id: str = "") -> Answer:
        expected = (self.payment.reference, payment_id or self.payment.gateway_payment_id or answer.payment_id)
        if (answer.reference, answer.payment_id) != expected:
            logger.error("%s: the gateway answers about another payment: %s", self.payment, answer)
            raise GatewayUnavailable(f"{self._gateway.name}: the answer is about another payment.")
        return answer


def difference(payment: Payment, said: Answer | RefundAnswer | DisputeAnswer) -> str:
    """Return the first thing that differs between this payment and what the gateway says of it; "" if nothing does."""
    for name, ours, theirs in (
        ("order", payment.reference, said.reference),
        ("payment", payment.gateway_payment_id, said.payment_id),
        ("currency", payment.currency, said.currency),
    ):
        if ours != theirs:
            return f"{name}_mismatch"
    if not isinstance(said, Answer):
        return ""
    if said.amount != payment.amount:
        return "amount_mismatch"
    return "" if _fits(payment, said) else "capture_mismatch"


def _fits(payment: Payment, said: Answer) -> bool:
    """Return whether as much was taken as could be: all of it, or a part of what was only to be reserved."""
    if said.status == GatewayStatus.AUTHORIZED:
        return payment.is_manual
    if said.status != GatewayStatus.SUCCEEDED or said.taken == payment.amount:
        return True
    return payment.is_manual and 0 < said.taken < payment.amount
