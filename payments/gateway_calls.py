"""
Calls to the gateway: which one a payment needs in its status, and what the reply means.

A call is posted as a message. It is made between transactions; its reply is recorded together with what follows.

# Note [Silence is no failure]: a gateway that does not reply makes no dead letter. The payment is asked about again,
# after growing pauses, by the janitor; `ask_at` says when. So an outage of any length strands no order, and nobody
# guesses a reply.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from outbox import clock

from . import gateways, lifecycle, messages
from .gateways.base import Answer, Gateway, GatewayRefused, GatewayUnavailable, PaymentRequest, RefundRequest
from .gateways.base import Status as GatewayStatus
from .lifecycle import Event
from .models import Outgoing, Payment, WebhookReceipt

logger = logging.getLogger(__name__)

Status = Payment.Status
SEEN_AFTER = timedelta(minutes=2)  # until the gateway's lists show a payment that was requested
BATCH = 100  # payments or webhooks at once


@dataclass(frozen=True)
class GatewayReply:
    """
    The reply to a call, and the status for which the call was made.

    It is an answer, a refusal with its code, or no reply. Without any of them the gateway knows no such payment.
    """

    status: Status
    answer: Answer | None = None
    refused: str = ""
    unavailable: bool = False


# Calling ------------------------------------------------------------------------------------------------------------


def call_gateway(message: messages.CallGateway) -> GatewayReply | None:
    """
    Call the gateway as the payment needs it now, and return the reply; None if it needs no call.

    It runs outside of any transaction, and may run again.
    """
    payment = Payment.objects.filter(pk=message.order_id).first()
    if payment is None or payment.status not in CALLS:
        return None
    status = Status(payment.status)
    if status == Status.REQUESTED and not _mark_as_tried(payment):
        return None
    try:
        return GatewayReply(status, answer=CALLS[status](gateways.get(payment.gateway), payment))
    except GatewayRefused as refused:
        logger.warning("%s: the gateway refuses the call: %s %s", payment, refused.code, refused)
        return GatewayReply(status, refused=refused.code)
    except GatewayUnavailable as unavailable:
        logger.warning("%s: the gateway does not reply: %s", payment, unavailable)
        return GatewayReply(status, unavailable=True)


def _mark_as_tried(payment: Payment) -> bool:
    """Record that the gateway may have the payment from now on; return False if it was voided meanwhile."""
    now = clock.now("payments")
    requested = Payment.objects.filter(pk=payment.pk, status=Status.REQUESTED)
    return bool(requested.update(tried_at=now, updated_at=now))


def _create(gateway: Gateway, payment: Payment) -> Answer | None:
    try:
        return gateway.create(
            PaymentRequest(
                order_id=payment.order_id,
                amount=payment.amount,
                currency=payment.currency,
                idempotency_key=f"{payment.order_id}.charge",
            )
        )
    except GatewayRefused:
        if (known := gateway.status(order_id=payment.order_id)) is not None:
            return known
        raise


def _find(gateway: Gateway, payment: Payment) -> Answer | None:
    return gateway.status(payment_id=payment.gateway_payment_id, order_id=payment.order_id)


def _cancel(gateway: Gateway, payment: Payment) -> Answer | None:
    found = _find(gateway, payment)
    if found is not None and found.status == GatewayStatus.PENDING:
        try:
            return gateway.cancel(payment_id=found.payment_id, idempotency_key=f"{payment.order_id}.void")
        except GatewayRefused:
            found = gateway.status(payment_id=found.payment_id)
    if found is not None and (found.amount, found.currency) != (payment.amount, payment.currency):
        return _refund_in_full(gateway, payment, found)  # the gateway took another amount: the ledger never records it
    return found


def _refund(gateway: Gateway, payment: Payment) -> Answer | None:
    found = _find(gateway, payment)
    return found and _refund_in_full(gateway, payment, found)


def _refund_in_full(gateway: Gateway, payment: Payment, found: Answer) -> Answer:
    """Have the gateway return all that it took, if it took anything."""
    if found.status != GatewayStatus.SUCCEEDED:
        return found
    return gateway.refund(
        RefundRequest(
            payment_id=found.payment_id,
            order_id=payment.order_id,
            amount=found.amount,
            currency=found.currency,
            idempotency_key=f"{payment.order_id}.refund",
        )
    )


CALLS: dict[Status, Callable[[Gateway, Payment], Answer | None]] = {
    Status.REQUESTED: _create,
    Status.PENDING: _find,
    Status.VOIDING: _cancel,
    Status.REFUNDING: _refund,
}


# Recording ----------------------------------------------------------------------------------------------------------

ANSWERS = {
    GatewayStatus.PENDING: Event.PENDING,
    GatewayStatus.SUCCEEDED: Event.PAID,
    GatewayStatus.FAILED: Event.UNPAID,
    GatewayStatus.CANCELED: Event.UNPAID,
    GatewayStatus.REFUNDED: Event.UNPAID,
}


def record(*, order_id: str, reply: GatewayReply | None, now: datetime) -> None:
    """Record the reply to a call, with what follows. Call it in a transaction of payments."""
    payment = Payment.lock(order_id)
    if payment is None or reply is None:
        return
    if reply.answer is not None and reply.answer.order_id == order_id:
        _learn_payment_id(payment, reply.answer.payment_id)
    lifecycle.advance(payment, _event(payment, reply, now=now), now=now)


def _event(payment: Payment, reply: GatewayReply, *, now: datetime) -> Event:
    """What this reply means for the payment."""
    answer = reply.answer
    if payment.status != reply.status:
        has_money = answer is not None and answer.status in (GatewayStatus.PENDING, GatewayStatus.SUCCEEDED)
        return Event.OUTDATED_WITH_MONEY if has_money else Event.OUTDATED
    if reply.unavailable:
        return Event.NO_REPLY
    if reply.refused:
        return Event.REFUSED
    if answer is None:
        is_listed_by_now = payment.tried_at is None or now - payment.tried_at > SEEN_AFTER
        return Event.UNKNOWN if is_listed_by_now else Event.NO_REPLY
    if reason := mismatch(payment, answer):
        logger.error("%s: the gateway answers about something else: %s", payment, reason)
        if payment.status in (Status.REQUESTED, Status.PENDING):  # what is being withdrawn goes, whatever its amount is
            return Event.DIFFERENT
    return ANSWERS[answer.status]


def mismatch(payment: Payment, said: Answer | WebhookReceipt) -> str:
    """Return the first thing that differs between this payment and what the gateway says of one; "" if nothing does."""
    for name, ours, theirs in (
        ("order", payment.order_id, said.order_id),
        ("payment", payment.gateway_payment_id, said.payment_id),
        ("currency", payment.currency, said.currency),
        ("amount", payment.amount, said.amount),
    ):
        if ours != theirs:
            return f"{name}_mismatch"
    return ""


def _learn_payment_id(payment: Payment, payment_id: str) -> None:
    """Store the payment's id at the gateway. Webhooks that were kept for it can be handled now."""
    if payment.gateway_payment_id or not payment_id:
        return
    payment.gateway_payment_id = payment_id
    payment.save(update_fields=["gateway_payment_id", "updated_at"])
    kept = WebhookReceipt.objects.filter(
        gateway=payment.gateway, status=WebhookReceipt.Status.UNMATCHED, order_id=payment.order_id
    )
    for receipt in kept.order_by("received_at")[:BATCH]:
        Outgoing.post(messages.HandleWebhook(receipt_id=str(receipt.pk), order_id=payment.order_id))


# Calling again ------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def post_due_calls(*, now: datetime) -> int:
    """Post a call for each payment whose `ask_at` has passed, and return how many there were."""
    due = Payment.objects.filter(ask_at__lte=now).order_by("ask_at").select_for_update(skip_locked=True)[:BATCH]
    for payment in due:
        Outgoing.post(messages.CallGateway(order_id=payment.order_id))
        payment.ask_at = now + lifecycle.LEASE
        payment.save(update_fields=["ask_at", "updated_at"])
    return len(due)
