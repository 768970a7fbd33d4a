"""
Payments through a gateway: what we want of each, what the gateway says of it, and what follows.

A payment that waits for its gateway is turned to it (`payments.turn_to_gateway`): opened, asked about, called off or
given back, as it stands then. The call goes outward between transactions; its answer is recorded with what follows.

# Note [Silence is no failure]: a gateway that doesn't answer kills no letter. The payment is turned to it again, later
# and later, by the janitor; `ask_at` is when. So an outage of any length strands no order, and no answer is guessed.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from outbox.message import Message

from . import gateways, messages
from .gateways.base import Answer, Gateway, GatewayRefused, GatewayUnavailable, PaymentRequest, RefundRequest
from .gateways.base import Status as Says
from .ledger import CASH, capture, hand_back, system_account
from .models import Entry, Outgoing, Payment, WebhookReceipt

logger = logging.getLogger(__name__)

Status = Payment.Status
REQUESTED, PENDING, SUCCEEDED, FAILED = Status.REQUESTED, Status.PENDING, Status.SUCCEEDED, Status.FAILED
VOIDING, VOIDED, REFUNDING, REFUNDED = Status.VOIDING, Status.VOIDED, Status.REFUNDING, Status.REFUNDED

# When a payment that the gateway has is asked about, counted from its beginning; then daily.
SCHEDULE = (timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2), timedelta(days=1))
LONGEST_WAIT = 300  # seconds between attempts while the gateway is silent
LEASE = timedelta(minutes=5)  # until the janitor gives up on a letter that it has sent
SEEN_AFTER = timedelta(minutes=2)  # until a gateway's lists show a payment that was asked for
AT_ONCE = 100  # payments a round of the janitor


# What orders ask ----------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def request(*, order_id: str, amount: int, currency: str, now: datetime) -> Payment:
    """Have the money of an order taken by the gateway; a payment that exists already is the answer."""
    payment = Payment.lock(order_id)
    if payment is not None:
        return payment
    payment = Payment(
        order_id=order_id,
        method="gateway",
        gateway=settings.PAYMENT_GATEWAY,
        amount=amount,
        currency=currency,
        status=REQUESTED if amount else SUCCEEDED,
    )
    if amount:
        _turn(payment, now=now)
    payment.save(force_insert=True)
    return payment


def withdraw(payment: Payment, *, now: datetime) -> None:
    """Let no money of this payment (locked) stay in: begin to call it off, or to give it back."""
    if payment.status == REQUESTED and payment.tried_at is None:
        payment.status, payment.ask_at = VOIDED, None
        payment.save()
    elif payment.status in (REQUESTED, PENDING):
        _become(payment, VOIDING, now=now)
    elif payment.status == SUCCEEDED:
        _become(payment, REFUNDING, now=now)


def tell(payment: Payment) -> None:
    """Tell orders how the payment stands, once it has an answer."""
    order_id = payment.order_id
    told: dict[Status, Callable[[], Message]] = {
        PENDING: lambda: messages.PaymentPending(order_id=order_id, payment_id=payment.gateway_payment_id),
        SUCCEEDED: lambda: messages.PaymentSucceeded(
            order_id=order_id, payment_id=payment.gateway_payment_id or order_id
        ),
        FAILED: lambda: messages.PaymentFailed(order_id=order_id, reason=payment.fail_reason),
        VOIDED: lambda: messages.PaymentVoided(order_id=order_id),
        REFUNDED: lambda: messages.PaymentRefunded(order_id=order_id),
    }
    if payment.status in told:
        Outgoing.post(told[Status(payment.status)]())


# Turning to the gateway ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What came of turning to the gateway: an answer (none: it has no such payment), a no, or silence."""

    status: Status  # of the payment when the gateway was turned to
    answer: Answer | None = None
    refused: str = ""
    silent: bool = False


def turn_to_gateway(message: messages.TurnToGateway) -> Heard | None:
    """Call the gateway as the payment stands now. Runs outside of any transaction, and may run again."""
    payment = Payment.objects.filter(pk=message.order_id).first()
    if payment is None or payment.status not in ACTS:
        return None
    status = Status(payment.status)
    if status == REQUESTED and not _about_to_open(payment):
        return None
    try:
        return Heard(status, answer=ACTS[status](gateways.get(payment.gateway), payment))
    except GatewayRefused as refused:
        logger.warning("%s: the gateway refuses: %s %s", payment, refused.code, refused)
        return Heard(status, refused=refused.code)
    except GatewayUnavailable as unavailable:
        logger.warning("%s: the gateway is silent: %s", payment, unavailable)
        return Heard(status, silent=True)


def _about_to_open(payment: Payment) -> bool:
    """Note that the gateway may have the payment from now on; false if it was called off meanwhile."""
    return bool(Payment.objects.filter(pk=payment.pk, status=REQUESTED).update(tried_at=timezone.now()))


def _open(gateway: Gateway, payment: Payment) -> Answer | None:
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


def _ask(gateway: Gateway, payment: Payment) -> Answer | None:
    return gateway.status(payment_id=payment.gateway_payment_id, order_id=payment.order_id)


def _call_off(gateway: Gateway, payment: Payment) -> Answer | None:
    found = _ask(gateway, payment)
    if found is not None and found.status == Says.PENDING:
        try:
            return gateway.cancel(payment_id=found.payment_id, idempotency_key=f"{payment.order_id}.void")
        except GatewayRefused:
            found = gateway.status(payment_id=found.payment_id)
    if found is not None and (found.amount, found.currency) != (payment.amount, payment.currency):
        return _give_back(gateway, payment, found)  # it took something else: that never enters our ledger
    return found


def _refund(gateway: Gateway, payment: Payment) -> Answer | None:
    found = _ask(gateway, payment)
    return found and _give_back(gateway, payment, found)


def _give_back(gateway: Gateway, payment: Payment, found: Answer) -> Answer:
    """Have the gateway return what it took, all of it, if it did."""
    if found.status != Says.SUCCEEDED:
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


ACTS: dict[Status, Callable[[Gateway, Payment], Answer | None]] = {
    REQUESTED: _open,
    PENDING: _ask,
    VOIDING: _call_off,
    REFUNDING: _refund,
}


def record(*, order_id: str, heard: Heard | None, now: datetime) -> None:
    """Record what came of turning to the gateway, and let it have its consequences."""
    payment = Payment.lock(order_id)
    if payment is None or heard is None:
        return
    answer = heard.answer
    if answer is not None and answer.order_id == order_id:
        _learn_id(payment, answer.payment_id)
    if payment.status != heard.status:
        _catch_up(payment, answer, now=now)
    elif heard.silent or (answer is None and not heard.refused and not _gone(payment, now=now)):
        _put_off(payment, now=now)
    elif heard.refused:
        _refused(payment, now=now)
    elif answer is None:
        _become(payment, VOIDED, now=now)
    else:
        _hear(payment, answer, now=now)


def _catch_up(payment: Payment, answer: Answer | None, *, now: datetime) -> None:
    """The payment has changed while the gateway was turned to: turn to it again if that matters there."""
    if payment.status == VOIDED and answer is not None and answer.status in (Says.PENDING, Says.SUCCEEDED):
        _become(payment, VOIDING, now=now)
    elif payment.status in ACTS:
        _turn(payment, now=now)
        payment.save(update_fields=["ask_at"])


def _hear(payment: Payment, answer: Answer, *, now: datetime) -> None:
    becomes = ASKED.get((Status(payment.status), answer.status))
    reason = mismatch(payment, answer)
    if reason:
        logger.error("%s: the gateway answers with something else: %s", payment, reason)
    if becomes is None or (reason and payment.status in (REQUESTED, PENDING)):
        _put_off(payment, now=now)
    else:
        _become(payment, becomes, now=now)


def _gone(payment: Payment, *, now: datetime) -> bool:
    """Whether that the gateway knows no such payment means that there is none, and won't be."""
    return payment.status == VOIDING and (payment.tried_at is None or now - payment.tried_at > SEEN_AFTER)


def _refused(payment: Payment, *, now: datetime) -> None:
    if payment.status == REQUESTED:
        _become(payment, FAILED, reason="payment_refused", now=now)
    else:
        _put_off(payment, now=now)


def _learn_id(payment: Payment, payment_id: str) -> None:
    """Note under which id the gateway has the payment; webhooks that were kept for it can be handled now."""
    if payment.gateway_payment_id or not payment_id:
        return
    payment.gateway_payment_id = payment_id
    payment.save(update_fields=["gateway_payment_id"])
    kept = WebhookReceipt.objects.filter(
        gateway=payment.gateway, status=WebhookReceipt.Status.UNMATCHED, order_id=payment.order_id
    )
    for receipt in kept.order_by("received_at")[:AT_ONCE]:
        Outgoing.post(messages.HandleWebhook(receipt_id=str(receipt.pk), order_id=payment.order_id))


def mismatch(payment: Payment, said: Answer | WebhookReceipt) -> str:
    """In what the gateway speaks of something else than this payment; nothing if all agrees."""
    for name, ours, theirs in (
        ("order", payment.order_id, said.order_id),
        ("payment", payment.gateway_payment_id, said.payment_id),
        ("currency", payment.currency, said.currency),
        ("amount", payment.amount, said.amount),
    ):
        if ours != theirs:
            return f"{name}_mismatch"
    return ""


# What follows -------------------------------------------------------------------------------------------------------

# fmt: off
ASKED: dict[tuple[Status, Says], Status] = {
    # while it IS and the gateway, ASKED, SAYS: it BECOMES. Anything else is asked again later.
    (REQUESTED, Says.PENDING):   PENDING,
    (REQUESTED, Says.SUCCEEDED): SUCCEEDED,
    (REQUESTED, Says.FAILED):    FAILED,
    (REQUESTED, Says.CANCELED):  FAILED,
    (REQUESTED, Says.REFUNDED):  FAILED,
    (PENDING,   Says.PENDING):   PENDING,
    (PENDING,   Says.SUCCEEDED): SUCCEEDED,
    (PENDING,   Says.FAILED):    FAILED,
    (PENDING,   Says.CANCELED):  FAILED,
    (PENDING,   Says.REFUNDED):  FAILED,
    (VOIDING,   Says.SUCCEEDED): REFUNDING,
    (VOIDING,   Says.FAILED):    VOIDED,
    (VOIDING,   Says.CANCELED):  VOIDED,
    (VOIDING,   Says.REFUNDED):  VOIDED,
    (REFUNDING, Says.REFUNDED):  REFUNDED,
    (REFUNDING, Says.FAILED):    REFUNDED,  # it had only told us that the money was in
    (REFUNDING, Says.CANCELED):  REFUNDED,
}

TOLD: dict[tuple[Status, Says], Status] = {
    # while it IS and the gateway TELLS, unasked: it BECOMES
    (REQUESTED, Says.SUCCEEDED): SUCCEEDED,
    (REQUESTED, Says.FAILED):    FAILED,
    (REQUESTED, Says.CANCELED):  FAILED,
    (PENDING,   Says.SUCCEEDED): SUCCEEDED,
    (PENDING,   Says.FAILED):    FAILED,
    (PENDING,   Says.CANCELED):  FAILED,
    (VOIDING,   Says.SUCCEEDED): REFUNDING,
    (VOIDING,   Says.FAILED):    VOIDED,
    (VOIDING,   Says.CANCELED):  VOIDED,
    (FAILED,    Says.SUCCEEDED): REFUNDING,  # late truth: the order is on its way out, so the money goes back
    (VOIDED,    Says.SUCCEEDED): REFUNDING,
}

OLD_NEWS: dict[Status, frozenset[Says]] = {
    SUCCEEDED: frozenset({Says.SUCCEEDED}),
    FAILED:    frozenset({Says.FAILED, Says.CANCELED}),
    VOIDED:    frozenset({Says.FAILED, Says.CANCELED}),
    REFUNDING: frozenset({Says.SUCCEEDED}),
    REFUNDED:  frozenset({Says.SUCCEEDED, Says.REFUNDED, Says.FAILED, Says.CANCELED}),
}
# fmt: on


class Contradiction(Exception):
    """The gateway tells the opposite of what it told before."""

    code = "contradicts_the_payment"


def told(payment: Payment, says: Says, *, now: datetime) -> None:
    """
    Let a payment (locked) hear what the gateway has told of it, unasked and checked.

    :raises Contradiction: if that can't be true of such a payment
    """
    status = Status(payment.status)
    if (status, says) in TOLD:
        _become(payment, TOLD[status, says], now=now)
    elif says not in OLD_NEWS.get(status, frozenset()):
        raise Contradiction


def _become(payment: Payment, status: Status, *, now: datetime, reason: str = "") -> None:
    """Change the status of a payment, with its entries in the ledger, and tell orders or turn to the gateway."""
    before, payment.status = Status(payment.status), status
    payment.unanswered, payment.ask_at = 0, None
    if status == FAILED:
        payment.fail_reason = reason or "payment_declined"
    if before in (FAILED, VOIDED) and status == REFUNDING:
        payment.fail_reason = payment.fail_reason or "paid_after_void"
    if status == SUCCEEDED or (status == REFUNDING and before != SUCCEEDED):
        _take(payment, now=now)
    if status == REFUNDED:
        hand_back(payment, now=now)
    if status in (VOIDING, REFUNDING):
        _turn(payment, now=now)
    elif status == PENDING:
        payment.ask_at = next(
            (payment.created_at + after for after in SCHEDULE if payment.created_at + after > now), now + SCHEDULE[-1]
        )
    payment.save()
    if status != before and not (status == REFUNDED and payment.fail_reason):
        tell(payment)  # not when it was told that no money came in: that is so again


def _take(payment: Payment, *, now: datetime) -> None:
    if not Entry.objects.filter(order_id=payment.order_id, kind=Entry.Kind.CHARGE).exists():
        capture(payment, source=system_account(CASH, currency=payment.currency), now=now)


def _turn(payment: Payment, *, now: datetime) -> None:
    Outgoing.post(messages.TurnToGateway(order_id=payment.order_id))
    payment.ask_at = now + LEASE


def _put_off(payment: Payment, *, now: datetime) -> None:
    wait = min(2**payment.unanswered, LONGEST_WAIT) * (1 + random.random() / 4)
    payment.unanswered = min(payment.unanswered + 1, 16)
    payment.ask_at = now + timedelta(seconds=wait)
    payment.save(update_fields=["unanswered", "ask_at"])


# The janitor --------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def look_after(*, now: datetime) -> int:
    """Turn every payment that is due to its gateway; how many there were."""
    due = Payment.objects.filter(ask_at__lte=now).order_by("ask_at").select_for_update(skip_locked=True)[:AT_ONCE]
    for payment in due:
        _turn(payment, now=now)
        payment.save(update_fields=["ask_at"])
    return len(due)
