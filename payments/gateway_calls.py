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
from datetime import datetime

from django.conf import settings
from django.db import transaction

from common.backlog import work_off
from outbox import clock
from outbox.store import Statement

from . import attempts, effects, ledger, lifecycle, messages, returns
from .at_gateway import AtGateway, difference
from .gateways.base import Answer, GatewayBroke, GatewayRefused, GatewayUnavailable, RefundAnswer
from .gateways.base import Status as GatewayStatus
from .lifecycle import Event
from .models import ROWS, Outgoing, Payment, WebhookReceipt

logger = logging.getLogger(__name__)

Status = Payment.Status
BATCH = 500  # payments or webhooks at once


@dataclass(frozen=True)
class GatewayReply:
    """
    The reply to a call, and the status for which the call was made.

    It is the payment, with the refund that was asked for, if one was; a refusal with its code; or no reply, also where
    the gateway `broke`; or the deadline had passed, and no call was made. Without any of them the gateway knows no such
    payment.
    """

    status: Status
    answer: Answer | None = None
    refund: RefundAnswer | None = None
    refused: str = ""
    unavailable: bool = False
    broke: bool = False
    too_late: bool = False


# Calling ------------------------------------------------------------------------------------------------------------


def call_gateway(message: messages.CallGateway) -> GatewayReply | None:
    """
    Call the gateway as the payment needs it now, and return the reply; None if it needs no call.

    It runs outside of any transaction, and may run again.
    """
    payment = Payment.objects.filter(pk=message.order_id).first()
    if payment is None or payment.status not in CALLS:
        return None
    status, now = Status(payment.status), clock.now("payments")
    if status == Status.REQUESTED and payment.tried_at is None and payment.deadline and payment.deadline <= now:
        return GatewayReply(status, too_late=True)
    if status == Status.REQUESTED and not _mark_as_tried(payment, now=now):
        return None
    try:
        return CALLS[status](AtGateway(payment, now=now), payment)
    except GatewayRefused as refused:
        logger.warning("%s: the gateway refuses the call: %s %s", payment, refused.code, refused)
        return GatewayReply(status, refused=refused.code)
    except GatewayUnavailable as unavailable:
        logger.warning("%s: the gateway does not reply: %s", payment, unavailable)
        return GatewayReply(status, unavailable=True, broke=isinstance(unavailable, GatewayBroke))


def _mark_as_tried(payment: Payment, *, now: datetime) -> bool:
    """Record that the gateway may have the payment from now on; return False if it was voided meanwhile."""
    requested = Payment.objects.filter(pk=payment.pk, status=Status.REQUESTED)
    return bool(requested.update(tried_at=now, updated_at=now))


def _create(at: AtGateway, payment: Payment) -> GatewayReply:
    return GatewayReply(Status.REQUESTED, answer=at.create())


def _find(at: AtGateway, payment: Payment) -> GatewayReply:
    return GatewayReply(Status(payment.status), answer=at.find())


def _capture(at: AtGateway, payment: Payment) -> GatewayReply:
    found = at.find()
    if found is not None and found.status == GatewayStatus.AUTHORIZED:
        found = at.capture(found)
    return GatewayReply(Status.CAPTURING, answer=found)


def _cancel(at: AtGateway, payment: Payment) -> GatewayReply:
    found = at.find()
    if found is not None and found.status in (GatewayStatus.PENDING, GatewayStatus.AUTHORIZED):
        found = at.cancel(found)
    if found is not None and found.status == GatewayStatus.SUCCEEDED and _other_money(payment, found):
        found = at.refund_unknown(found)  # the gateway took another amount: the ledger never records it
    return GatewayReply(Status.VOIDING, answer=found)


def _refund(at: AtGateway, payment: Payment) -> GatewayReply:
    found, refund = at.find(), None
    if found is not None and _other_money(payment, found):
        raise GatewayRefused("amount_mismatch", "The gateway names another amount than it took.")
    if found is not None and found.status in (GatewayStatus.SUCCEEDED, GatewayStatus.REFUNDED):
        refund = at.refund(found)
    return GatewayReply(Status.REFUNDING, answer=found, refund=refund)


def _other_money(payment: Payment, found: Answer) -> bool:
    return (found.amount, found.currency) != (payment.amount, payment.currency)


CALLS: dict[Status, Callable[[AtGateway, Payment], GatewayReply]] = {
    Status.REQUESTED: _create,
    Status.PENDING: _find,
    Status.AUTHORIZED: _find,
    Status.CAPTURING: _capture,
    Status.VOIDING: _cancel,
    Status.REFUNDING: _refund,
}


# Recording ----------------------------------------------------------------------------------------------------------

ANSWERS = {
    GatewayStatus.PENDING: Event.PENDING,
    GatewayStatus.AUTHORIZED: Event.AUTHORIZED,
    GatewayStatus.SUCCEEDED: Event.PAID,
    GatewayStatus.FAILED: Event.UNPAID,
    GatewayStatus.CANCELED: Event.UNPAID,
    GatewayStatus.REFUNDED: Event.UNPAID,
}
UNCERTAIN = (Event.DIFFERENT, Event.OUTDATED, Event.OUTDATED_WITH_MONEY)
WITH_MONEY = (GatewayStatus.PENDING, GatewayStatus.AUTHORIZED, GatewayStatus.SUCCEEDED)


def record(*, order_id: str, reply: GatewayReply | None, now: datetime) -> None:
    """Record the reply to a call, with what follows. Call it in a transaction of payments."""
    payment = Payment.lock(order_id)
    if payment is None or reply is None:
        return
    answer = reply.answer
    if answer is not None and answer.reference == payment.reference:
        _learn_payment_id(payment, answer.payment_id)
    if reply.broke and payment.status == reply.status:
        payment.broken += 1
        payment.save(update_fields=["broken", "updated_at"])
    event = _known_to_all(payment, _event(payment, reply))
    if answer is not None and event not in UNCERTAIN:
        _learn(payment, answer, now=now)
    captured = answer.captured if answer is not None else None
    lifecycle.advance(payment, event, now=now, refusal=_refusal(reply), captured=captured, refund=reply.refund)


def _refusal(reply: GatewayReply) -> str:
    return reply.refused or (reply.refund.fail_reason or "refund_failed" if reply.refund else "no_such_payment")


def _known_to_all(payment: Payment, event: Event) -> Event:
    """
    Return this event, or another one if processes of the release before run and could not go on from here.

    They know neither the statuses of a payment that the gateway refuses to return nor the message about it; they ask
    the gateway again. So that is what happens while they run.
    """
    step = lifecycle.STEPS.get((Status(payment.status), event))
    withheld = settings.UPGRADING and step is not None and step.becomes in Payment.REFUSED
    return Event.NO_REPLY if withheld else event


def _event(payment: Payment, reply: GatewayReply) -> Event:
    """What this reply means for the payment."""
    answer = reply.answer
    if payment.status != reply.status:
        has_money = answer is not None and answer.status in WITH_MONEY
        return Event.OUTDATED_WITH_MONEY if has_money else Event.OUTDATED
    if reply.too_late:
        return Event.NO_REPLY if payment.tried_at else Event.TOO_LATE
    if reply.unavailable:
        return Event.NO_REPLY
    if reply.refused:
        return Event.REFUSED
    if answer is None:
        return Event.UNKNOWN
    if payment.status == Status.REFUNDING:
        return _event_of_return(payment, answer, reply.refund)
    if reason := difference(payment, answer):
        logger.error("%s: the gateway answers about something else: %s", payment, reason)
        if payment.status != Status.VOIDING:  # what is being withdrawn goes, whatever its amount is
            return Event.DIFFERENT
    return ANSWERS[answer.status]


def _event_of_return(payment: Payment, answer: Answer, refund: RefundAnswer | None) -> Event:
    """What it means for a payment whose money is being returned that it, and perhaps a refund of it, is like this."""
    if refund is not None:
        payment.gateway_refund_id = refund.gateway_refund_id
        payment.save(update_fields=["gateway_refund_id", "updated_at"])
        return returns.event(payment, refund) or Event.RETURN_PENDING
    kept = ledger.of_order(payment.order_id).kept
    if not kept:
        return Event.UNPAID
    if ledger.left(payment) < kept:
        return Event.RETURN_PENDING  # of a part, or it is disputed
    return ANSWERS[answer.status]


def _learn(payment: Payment, answer: Answer, *, now: datetime) -> None:
    """Keep what the gateway says of this payment besides its status. The payment is stored when it advances."""
    attempts.keep(payment, answer, now=now)
    payment.authorized_until = answer.authorized_until or payment.authorized_until
    if payment.status in Payment.PAYABLE:
        payment.client_secret, payment.next_action = answer.client_secret[:255], answer.next_action


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


DUE = f"WHERE ask_at <= %s ORDER BY ask_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
POSTED = """
UPDATE payments_payment payment SET ask_at = asked.at, unanswered = least(unanswered + 1, 16), updated_at = %s
FROM unnest(%s::text[], %s::timestamptz[]) AS asked(order_id, at) WHERE payment.order_id = asked.order_id
"""


def post_due_calls(*, now: datetime) -> int:
    """Post a call for each payment whose `ask_at` has passed, and return how many there were."""
    return work_off(lambda: _post_due_calls(now=now), batch=BATCH)


@transaction.atomic(using="payments")
def _post_due_calls(*, now: datetime) -> int:
    due = ROWS.select(Payment, DUE, now)
    if due:
        Outgoing.post(*(messages.CallGateway(order_id=payment.order_id) for payment in due))
        # A call that waits in a queue is posted again, too: also with growing pauses.
        again = [now + max(lifecycle.LEASE, effects.pause(payment)) for payment in due]
        ROWS.run(Statement(POSTED, [now, [payment.order_id for payment in due], again]))
    return len(due)
