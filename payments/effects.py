"""What is done with a payment when something happens to it: the effects that the table in lifecycle.py names."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from outbox.message import Message
from outbox.store import Batch

from . import ledger, messages
from .gateways.base import RefundAnswer
from .ledger import CASH, InsufficientFunds, system_account
from .models import Entry, Outgoing, Payment

Status = Payment.Status

# The longest pause between calls that the gateway does not reply to. Nobody waits for money that goes back, and an
# outage shall not cost many calls; whoever pays waits, but not for longer than the order does.
LONGEST_PAUSE = {
    Status.REQUESTED: timedelta(minutes=5),
    Status.PENDING: timedelta(minutes=5),
    Status.AUTHORIZED: timedelta(hours=1),
    Status.CAPTURING: timedelta(minutes=5),
    Status.VOIDING: timedelta(hours=1),
    Status.REFUNDING: timedelta(hours=1),
}

CAPTURE_REFUSED = "capture_refused"  # why a payment is voided that orders wants; the only such reason


@dataclass(frozen=True, kw_only=True)
class Details:
    """
    What else is known of an event: its time, how much was captured, the refund that it is about, whether the account
    that is charged has too little money, and why charging it, or returning the money, is refused. What is announced is
    stored at once, or with a `batch`.
    """

    now: datetime
    reason: str = ""
    refusal: str = ""
    is_short: bool = False
    captured: int | None = None
    refund: RefundAnswer | None = None
    batch: Batch | None = None


Effect = Callable[[Payment, Details], None]


def charge_account(payment: Payment, details: Details) -> None:
    """
    Go on if the customer's account had the money, which has moved with that of others: see `ledger.capture_all`.

    :raises InsufficientFunds: if it has less than that
    """
    if details.is_short:
        raise InsufficientFunds.of(payment.user_id)


def record_capture(payment: Payment, details: Details) -> None:
    """Record in the ledger how much money came in through the gateway."""
    amount = payment.amount if details.captured is None else details.captured
    source = system_account(CASH, currency=payment.currency)
    ledger.capture(payment, source=source, amount=amount, now=details.now)


def return_money(payment: Payment, details: Details) -> None:
    """Return what the refund returns, or all that is left, by a new entry, to where it came from."""
    refund = details.refund
    ledger.hand_back(
        payment,
        amount=refund.amount if refund else ledger.left(payment),
        gateway_id=refund.gateway_refund_id if refund else "",
        now=details.now,
    )


def take_return_back(payment: Payment, details: Details) -> None:
    """Record by a new entry that a refund which was recorded has not reached the payer."""
    assert details.refund is not None
    ledger.take_back(
        payment, amount=details.refund.amount, gateway_id=details.refund.gateway_refund_id, now=details.now
    )


def call_gateway(payment: Payment, details: Details) -> None:
    """Post the call that the gateway needs now: see gateway_calls.py."""
    Outgoing.post(messages.CallGateway(order_id=payment.order_id))


def _authorized(payment: Payment) -> Message:
    until = payment.authorized_until
    return messages.PaymentAuthorized(
        order_id=payment.order_id,
        payment_id=payment.gateway_payment_id,
        amount=payment.amount,
        expires_at=until.isoformat() if until else None,
    )


def _succeeded(payment: Payment) -> Message:
    return messages.PaymentSucceeded(
        order_id=payment.order_id,
        payment_id=payment.gateway_payment_id or payment.order_id,
        amount=ledger.of_order(payment.order_id).captured if payment.is_manual else None,
    )


def _voided(payment: Payment) -> Message:
    if payment.fail_reason:
        return messages.PaymentFailed(order_id=payment.order_id, reason=payment.fail_reason)
    return messages.PaymentVoided(order_id=payment.order_id)


def _refunded(payment: Payment) -> Message:
    return messages.PaymentRefunded(order_id=payment.order_id, amount=ledger.of_order(payment.order_id).refunded)


ANNOUNCEMENTS: dict[Status, Callable[[Payment], Message]] = {
    Status.PENDING: lambda p: messages.PaymentPending(order_id=p.order_id, payment_id=p.gateway_payment_id),
    Status.AUTHORIZED: _authorized,
    Status.SUCCEEDED: _succeeded,
    Status.FAILED: lambda p: messages.PaymentFailed(order_id=p.order_id, reason=p.fail_reason),
    Status.VOIDED: _voided,
    Status.REFUNDED: _refunded,
    Status.VOID_REFUSED: lambda p: messages.PaymentReturnRefused(order_id=p.order_id, reason=p.refusal),
    Status.REFUND_REFUSED: lambda p: messages.PaymentReturnRefused(order_id=p.order_id, reason=p.refusal),
}


def announce(payment: Payment, details: Details) -> None:
    """Announce the status of the payment to orders. Nothing is announced while the payment is being withdrawn."""
    if (announcement := ANNOUNCEMENTS.get(Status(payment.status))) is not None:
        Outgoing.post(announcement(payment), batch=details.batch)


def announce_undone(payment: Payment, details: Details) -> None:
    """Announce that money which was said to be back is here again."""
    assert details.refund is not None
    Outgoing.post(
        messages.PaymentReturnUndone(
            order_id=payment.order_id,
            amount=details.refund.amount,
            reason=payment.refusal or "refund_failed",
            refunded=ledger.of_order(payment.order_id).refunded,
        )
    )


def announce_refund(payment: Payment, details: Details) -> None:
    """Announce that the money is back, unless what was announced last is that none came in."""
    if payment.fail_reason in ("", CAPTURE_REFUSED) or _was_undone(payment):
        announce(payment, details)


def _was_undone(payment: Payment) -> bool:
    """Return whether the refund of all that was left has failed after it had succeeded: see `announce_undone`."""
    undone = Entry.objects.filter(order_id=payment.order_id, kind=Entry.Kind.REFUND_FAILED, refund_id=None)
    return undone.exists()


def ask_again_later(payment: Payment, details: Details) -> None:
    """Have the gateway called again, after a pause that grows with every call in vain."""
    payment.ask_at = details.now + pause(payment) * (1 + random.random() / 4)
    payment.save(update_fields=["ask_at", "updated_at"])


def pause(payment: Payment) -> timedelta:
    """Return how long to wait until the gateway is called again."""
    return min(pause_after(payment.unanswered), LONGEST_PAUSE[Status(payment.status)])


def pause_after(unanswered: int) -> timedelta:
    """Return the pause after this many calls in vain: 1, 2, 4 s and so on."""
    return timedelta(seconds=2**unanswered)


def do_nothing(payment: Payment, details: Details) -> None:
    """Leave the payment as it is."""


class Contradiction(Exception):
    """The gateway says the opposite of what it said before."""

    code = "contradicts_the_payment"


def contradict(payment: Payment, details: Details) -> None:
    """
    Refuse the event.

    :raises Contradiction: always
    """
    raise Contradiction(f"It contradicts {payment}.")
