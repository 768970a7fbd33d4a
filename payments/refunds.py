"""
Refunds of parts of payments: asked for by orders, or made at the gateway by hand.

What can go back is what was captured and has not gone back, is not on its way and not disputed. That is decided under
the lock of the payment, and the database refuses what would exceed it.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from common.backlog import work_off
from common.money import Money
from outbox.ids import uuid_of

from . import gateways, ledger, messages
from .gateways.base import GatewayBroke, GatewayRefused, GatewayUnavailable, RefundAnswer, RefundRequest, RefundStatus
from .lifecycle import Contradiction
from .models import Outgoing, Payment, Refund, WebhookReceipt
from .refund_lifecycle import LEASE, Event, advance, begin

logger = logging.getLogger(__name__)

Status = WebhookReceipt.Status
BATCH = 500
EVENTS = {
    RefundStatus.PENDING: Event.PENDING,
    RefundStatus.SUCCEEDED: Event.SUCCEEDED,
    RefundStatus.FAILED: Event.FAILED,
}
MADE_AT_GATEWAY = "made_at_gateway"
NOT_CAPTURED = "not_captured"
EXCEEDS = "refund_exceeds_captured"


# Asking -------------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments", savepoint=False)
def request(*, order_id: str, refund_id: str, money: Money, reason: str, now: datetime) -> Refund | None:
    """
    Begin to give a part of the money of an order back, once for each `refund_id`, and return the refund.

    It fails if there is not as much to give back; how it ends is announced to orders, again if it has ended already.
    Without a payment there is no refund, only its failure.

    :raises Undeliverable: if `refund_id` is no id
    """
    key = uuid_of(refund_id)
    payment = Payment.lock(order_id)
    if payment is None:
        failure = messages.RefundFailed(
            order_id=order_id, refund_id=refund_id, amount=money.amount, currency=money.currency, code=NOT_CAPTURED
        )
        Outgoing.post(failure)
        return None
    event = Event.ASKED_OF_GATEWAY if payment.gateway_payment_id else Event.ASKED_OF_ACCOUNT
    if (known := Refund.objects.filter(pk=key).first()) is not None:
        return advance(known, payment, event, now=now)
    refund = Refund(
        refund_id=key,
        payment=payment,
        amount=money.amount,
        currency=money.currency,
        reason=reason[:200],
        gateway=payment.gateway,
        created_at=now,
    )
    if code := why_not(payment, money):
        refund.fail_reason, event = code, Event.NOT_POSSIBLE
    return begin(refund, payment, event, now=now)


def why_not(payment: Payment, money: Money) -> str:
    """Return why as much of a payment cannot be given back; "" if it can."""
    if payment.status != Payment.Status.SUCCEEDED:
        return NOT_CAPTURED
    if money.currency != payment.currency:
        return "currency_mismatch"
    return EXCEEDS if money.amount > ledger.left(payment) else ""


# Calling the gateway ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """The reply of the gateway: the refund as it is, or why there is none."""

    event: Event
    answer: RefundAnswer | None = None
    refused: str = ""
    broke: bool = False


def call_gateway(message: messages.CallForRefund) -> Reply | None:
    """
    Make the call that a refund needs now, and return the reply; None if it needs none.

    It runs outside of any transaction, and may run again. The gateway is always asked first whether it has the refund.
    """
    refund = Refund.objects.select_related("payment").filter(pk=uuid_of(message.refund_id)).first()
    if refund is None or refund.status not in Refund.OPEN:
        return None
    try:
        try:
            found = _find(refund)
        except GatewayRefused as refused:  # which says nothing of the refund, that may have been made before
            raise GatewayUnavailable(f"{refund.gateway}: refunds are not listed: {refused.code}") from refused
        if found is None and refund.status == Refund.Status.REQUESTED:
            found = _make(refund)
        if found is None:
            raise GatewayUnavailable(f"{refund.gateway}: the refund is not listed.")
        if (found.amount, found.currency) != (refund.amount, refund.currency):
            raise GatewayUnavailable(f"{refund.gateway}: the answer is about another refund.")
        return Reply(EVENTS[found.status], answer=found)
    except GatewayRefused as refused:
        logger.warning("refund %s: the gateway refuses it: %s", refund.refund_id, refused)
        return Reply(Event.REFUSED, refused=refused.code)
    except GatewayUnavailable as unavailable:
        logger.warning("refund %s: the gateway does not reply: %s", refund.refund_id, unavailable)
        return Reply(Event.NO_REPLY, broke=isinstance(unavailable, GatewayBroke))


def _find(refund: Refund) -> RefundAnswer | None:
    made = gateways.get(refund.gateway).refunds(payment_id=refund.payment.gateway_payment_id)
    return next((answer for answer in made if _is(refund, answer)), None)


def _is(refund: Refund, answer: RefundAnswer) -> bool:
    return str(refund.refund_id) == answer.refund_id or "" != refund.gateway_refund_id == answer.gateway_refund_id


def _make(refund: Refund) -> RefundAnswer:
    reference = refund.payment.reference
    key = f"{reference}.refund_part.{refund.refund_id}" + (f".{refund.broken}" if refund.broken else "")
    return gateways.get(refund.gateway).refund(
        RefundRequest(
            payment_id=refund.payment.gateway_payment_id,
            order_id=reference,
            amount=refund.amount,
            currency=refund.currency,
            idempotency_key=key,
            refund_id=str(refund.refund_id),
        )
    )


@transaction.atomic(using="payments", savepoint=False)
def record(*, order_id: str, refund_id: str, reply: Reply | None, now: datetime) -> None:
    """Record the reply to a call, with what follows."""
    payment = Payment.lock(order_id)
    refund = Refund.objects.filter(pk=refund_id).first()
    if payment is None or refund is None or reply is None:
        return
    event = reply.event
    if _exceeds(refund, payment, event):
        logger.error("%s: the gateway says that more went back than was left", refund)
        event = Event.NO_REPLY
    refund.broken += reply.broke
    _learn(refund, reply.answer, fail_reason=reply.refused)
    advance(refund, payment, event, now=now)


def _exceeds(refund: Refund, payment: Payment, event: Event) -> bool:
    """Return whether the ledger has less than would go back now, because it was disputed or went back otherwise."""
    if event != Event.SUCCEEDED or refund.status not in Refund.OPEN:
        return False
    return refund.amount > ledger.of_order(payment.order_id).kept


def _learn(refund: Refund, answer: RefundAnswer | None, *, fail_reason: str = "") -> None:
    if answer is not None:
        refund.gateway_refund_id = refund.gateway_refund_id or answer.gateway_refund_id
        fail_reason = answer.fail_reason or ("refund_failed" if answer.status == RefundStatus.FAILED else "")
    refund.fail_reason = (refund.fail_reason or fail_reason)[:50]


@transaction.atomic(using="payments")
def _post_due_calls(*, now: datetime) -> int:
    due = Refund.objects.select_for_update(skip_locked=True).filter(ask_at__lte=now).order_by("ask_at")[:BATCH]
    for refund in (refunds := list(due)):
        refund.ask_at = now + LEASE
    Refund.objects.bulk_update(refunds, ["ask_at"])
    Outgoing.post(*(messages.CallForRefund(order_id=refund.payment_id, refund_id=str(refund.pk)) for refund in refunds))
    return len(refunds)


def post_due_calls(*, now: datetime) -> int:
    """Post a call for each refund whose `ask_at` has passed, and return how many there were."""
    return work_off(lambda: _post_due_calls(now=now), batch=BATCH)


# Webhooks -----------------------------------------------------------------------------------------------------------


def apply_webhook(answer: RefundAnswer, receipt: WebhookReceipt, *, now: datetime) -> tuple[Status, str]:
    """
    Let what a webhook says of a refund happen; return the new status of its receipt, and the reason.

    Its payment is locked. A refund that is not known was made at the gateway by hand.
    """
    payment = Payment.objects.get(pk=receipt.order_id)
    refund = _known(payment, answer)
    if refund is None:
        return _apply_foreign(answer, payment, receipt, now=now)
    if (answer.amount, answer.currency) != (refund.amount, refund.currency):
        return Status.QUARANTINED, "amount_mismatch"
    event = EVENTS[answer.status]
    if refund.status == Refund.Status.FAILED and not refund.gateway_refund_id and event != Event.FAILED:
        return Status.QUARANTINED, Contradiction.code  # the gateway has refused to make it
    if _exceeds(refund, payment, event):
        return receipt.early_or_wrong(now=now), EXCEEDS
    _learn(refund, answer)
    advance(refund, payment, event, now=now)
    return Status.APPLIED, ""


def _known(payment: Payment, answer: RefundAnswer) -> Refund | None:
    return next((refund for refund in payment.refunds.all() if _is(refund, answer)), None)


def _apply_foreign(
    answer: RefundAnswer, payment: Payment, receipt: WebhookReceipt, *, now: datetime
) -> tuple[Status, str]:
    money = ledger.of_order(payment.order_id)
    if answer.status != RefundStatus.FAILED and answer.amount > money.kept:
        return receipt.early_or_wrong(now=now), EXCEEDS if money.captured else NOT_CAPTURED
    refund = Refund(
        payment=payment,
        amount=answer.amount,
        currency=answer.currency,
        reason=MADE_AT_GATEWAY,
        gateway=payment.gateway,
        is_foreign=True,
        created_at=now,
    )
    _learn(refund, answer)
    begin(refund, payment, EVENTS[answer.status], now=now)
    return Status.APPLIED, ""
