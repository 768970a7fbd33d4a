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

from . import effects, lifecycle, messages
from .at_gateway import AtGateway
from .gateways.base import Answer, GatewayRefused, GatewayUnavailable
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

    It is an answer, a refusal with its code, or no reply; or the deadline had passed, and no call was made. Without any
    of them the gateway knows no such payment.
    """

    status: Status
    answer: Answer | None = None
    refused: str = ""
    unavailable: bool = False
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
        return GatewayReply(status, answer=CALLS[status](AtGateway(payment, now=now), payment))
    except GatewayRefused as refused:
        logger.warning("%s: the gateway refuses the call: %s %s", payment, refused.code, refused)
        return GatewayReply(status, refused=refused.code)
    except GatewayUnavailable as unavailable:
        logger.warning("%s: the gateway does not reply: %s", payment, unavailable)
        return GatewayReply(status, unavailable=True)


def _mark_as_tried(payment: Payment, *, now: datetime) -> bool:
    """Record that the gateway may have the payment from now on; return False if it was voided meanwhile."""
    requested = Payment.objects.filter(pk=payment.pk, status=Status.REQUESTED)
    return bool(requested.update(tried_at=now, updated_at=now))


def _cancel(at: AtGateway, payment: Payment) -> Answer | None:
    found = at.find()
    if found is not None and found.status == GatewayStatus.PENDING:
        found = at.cancel(found)
    if found is not None and _other_money(payment, found):
        return _refund_in_full(at, found)  # the gateway took another amount: the ledger never records it
    return found


def _refund(at: AtGateway, payment: Payment) -> Answer | None:
    found = at.find()
    if found is not None and _other_money(payment, found):
        raise GatewayRefused("amount_mismatch", "The gateway names another amount than it took.")
    return found and _refund_in_full(at, found)


def _refund_in_full(at: AtGateway, found: Answer) -> Answer:
    """Have the gateway return all that it took, if it took anything."""
    return at.refund(found) if found.status == GatewayStatus.SUCCEEDED else found


def _other_money(payment: Payment, found: Answer) -> bool:
    return (found.amount, found.currency) != (payment.amount, payment.currency)


CALLS: dict[Status, Callable[[AtGateway, Payment], Answer | None]] = {
    Status.REQUESTED: lambda at, payment: at.create(),
    Status.PENDING: lambda at, payment: at.find(),
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
    if reply.answer is not None and reply.answer.reference == payment.reference:
        _learn_payment_id(payment, reply.answer.payment_id)
    event = _known_to_all(payment, _event(payment, reply))
    lifecycle.advance(payment, event, now=now, refusal=reply.refused or "no_such_payment")


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
        has_money = answer is not None and answer.status in (GatewayStatus.PENDING, GatewayStatus.SUCCEEDED)
        return Event.OUTDATED_WITH_MONEY if has_money else Event.OUTDATED
    if reply.too_late:
        return Event.NO_REPLY if payment.tried_at else Event.TOO_LATE
    if reply.unavailable:
        return Event.NO_REPLY
    if reply.refused:
        return Event.REFUSED
    if answer is None:
        return Event.UNKNOWN
    if reason := mismatch(payment, answer):
        logger.error("%s: the gateway answers about something else: %s", payment, reason)
        if payment.status in (Status.REQUESTED, Status.PENDING):  # what is being withdrawn goes, whatever its amount is
            return Event.DIFFERENT
    return ANSWERS[answer.status]


def mismatch(payment: Payment, said: Answer | WebhookReceipt) -> str:
    """Return the first thing that differs between this payment and what the gateway says of one; "" if nothing does."""
    for name, ours, theirs in (
        ("order", payment.reference, said.reference),
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
