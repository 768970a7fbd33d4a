"""
The payment of an order at its gateway: what can be asked about it, with every answer compared.

# Note [The request is repeated]: a payment whose id we do not know is asked for by repeating the request under the same
idempotency key: the gateway returns the payment that it has made under that key, or makes it now, and then it can be
canceled. A search could miss what the gateway is still making. Only when the gateway may have forgotten the key, a day
later, does an empty search count.

# Note [A key that broke]: a gateway that fails in the middle of a call may repeat its failure under that key for as
long as it remembers it. So each failure ends a key, as each refusal does; and before a call is made under another key,
the gateway is asked whether the former one had an effect after all.

# Note [A refusal to tell]: a gateway that refuses to be asked how a payment is says nothing of the payment, and nothing
of what was asked for before. So that is no refusal of what is to be done, but no answer.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from . import gateways, ledger, returns
from .gateways.base import (
    Answer,
    CaptureRequest,
    DisputeAnswer,
    GatewayRefused,
    GatewayUnavailable,
    PaymentRequest,
    RefundAnswer,
    RefundRequest,
    RefundStatus,
)
from .gateways.base import Status as GatewayStatus
from .models import Payment

logger = logging.getLogger(__name__)
T = TypeVar("T")

KEYS_LAST = timedelta(hours=23)  # gateways remember idempotency keys for a day
CLOCKS_DIFFER = timedelta(minutes=10)


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
        if self.payment.broken and (known := self._search()) is not None:
            return known
        request = PaymentRequest(
            order_id=self.payment.reference,
            amount=self.payment.amount,
            currency=self.payment.currency,
            idempotency_key=self._key("charge"),
            capture="manual" if self.payment.is_manual else "automatic",
        )
        try:
            return self._ours(self._gateway.create(request))
        except GatewayRefused:
            if (known := self._search()) is not None:
                return known
            raise

    def _search(self) -> Answer | None:
        # While the search may lag behind, all payments since then are listed.
        since = self.payment.created_at - CLOCKS_DIFFER if self._is_recent() else None
        found = self._ask(self._gateway.status, order_id=self.payment.reference, since=since)
        return found and self._ours(found)

    def _is_recent(self) -> bool:
        return self.now - self.payment.created_at < KEYS_LAST

    def find(self) -> Answer | None:
        """Return the payment as it is at the gateway; None if it is certain that there is none."""
        if payment_id := self.payment.gateway_payment_id:
            found = self._ask(self._gateway.status, payment_id=payment_id)
            if found is None and self._is_recent():
                raise GatewayUnavailable(f"{self._gateway.name}: the payment is not listed.")
            return found and self._ours(found)
        if not self._is_recent():
            return self._search()
        try:
            return self.create()
        except GatewayRefused:
            return None

    def cancel(self, found: Answer) -> Answer:
        """Cancel a payment whose money has not moved, and return it; if it has moved by now, return it as it is."""
        try:
            answer = self._gateway.cancel(payment_id=found.payment_id, idempotency_key=self._key("void"))
        except GatewayRefused as refused:
            answer = self._moved_on(found, refused)
        return self._ours(answer, payment_id=found.payment_id)

    def capture(self, found: Answer) -> Answer:
        """Take the money that is reserved; if it cannot be taken any more, return the payment as it is."""
        amount = self.payment.to_capture
        request = CaptureRequest(
            payment_id=found.payment_id,
            order_id=self.payment.reference,
            amount=self.payment.amount if amount is None else amount,
            currency=self.payment.currency,
            idempotency_key=self._key("capture"),
        )
        try:
            answer = self._gateway.capture(request)
        except GatewayRefused as refused:
            answer = self._moved_on(found, refused)
        return self._ours(answer, payment_id=found.payment_id)

    def _moved_on(self, found: Answer, refused: GatewayRefused) -> Answer:
        """Return the payment if it is not as it was found any more, which explains the refusal."""
        moved = self._ask(self._gateway.status, payment_id=found.payment_id)
        if moved is None or moved.status == found.status:
            raise refused
        return moved

    def refund(self, found: Answer) -> RefundAnswer | None:
        """
        Have the money that is left returned, and return the refund; None if nothing is left to be returned now.

        What was asked for before is not asked for again: the refund is as it is by now.
        """
        made = self._ask(self._gateway.refunds, payment_id=found.payment_id)
        if (current := returns.current(self.payment, made)) is not None:
            return current
        amount = ledger.left(self.payment) if found.status == GatewayStatus.SUCCEEDED else 0
        if not amount:
            return None
        try:
            return self._refund(found, amount=amount)
        except GatewayRefused as refused:
            self._moved_on(found, refused)
            return None

    def refund_unknown(self, found: Answer) -> Answer:
        """Have money returned that the ledger does not know, and return the payment without it."""
        refund = self._refund(found, amount=found.taken)
        if refund.status == RefundStatus.PENDING:
            raise GatewayUnavailable(f"{self._gateway.name}: the money is on its way back.")
        if refund.status == RefundStatus.FAILED:
            raise GatewayRefused(refund.fail_reason or "refund_failed")
        return replace(found, status=GatewayStatus.REFUNDED)

    def _refund(self, found: Answer, *, amount: int) -> RefundAnswer:
        name = returns.name(self.payment)
        request = RefundRequest(
            payment_id=found.payment_id,
            order_id=self.payment.reference,
            amount=amount,
            currency=found.currency,
            idempotency_key=name,
            refund_id=name,
        )
        refund = self._gateway.refund(request)
        if (refund.payment_id, refund.amount, refund.currency) != (found.payment_id, amount, found.currency):
            logger.error("%s: the gateway answers about another refund: %s", self.payment, refund)
            raise GatewayUnavailable(f"{self._gateway.name}: the answer is about another refund.")
        return refund

    def _ask(self, ask: Callable[..., T], **which: Any) -> T:
        """Return what the gateway tells: see Note [A refusal to tell]."""
        try:
            return ask(**which)
        except GatewayRefused as refused:
            raise GatewayUnavailable(f"{self._gateway.name}: it refuses to tell: {refused.code}") from refused

    def _key(self, what: str) -> str:
        """The idempotency key of a call: another one after each refusal, and each failure, which end the one before."""
        number = self.payment.refusals + self.payment.broken
        return f"{self.payment.reference}.{what}" + (f".{number}" if number else "")

    def _ours(self, answer: Answer, *, payment_id: str = "") -> Answer:
        expected = (self.payment.reference, payment_id or self.payment.gateway_payment_id or answer.payment_id)
        if (answer.reference, answer.payment_id) != expected:
            logger.error("%s: the gateway answers about another payment: %s", self.payment, answer)
            raise GatewayUnavailable(f"{self._gateway.name}: the answer is about another payment.")
        return answer


def difference(payment: Payment, said: Answer | RefundAnswer | DisputeAnswer) -> str:
    """Return the first thing that differs between this payment and what the gateway says of it; "" if nothing does."""
    tells_order = isinstance(said, Answer) or said.order_id
    for name, ours, theirs in (
        ("order", payment.reference, said.reference if tells_order else payment.reference),
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
