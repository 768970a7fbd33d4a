"""
The life of a refund of a part of a payment: every transition, and what is done with it, in one table.

All that is left of a payment goes back without such a refund: see lifecycle.py. The table is data: `manage.py
refund_lifecycle` prints it and draws it. Each pair of status and event is decided: it is a step, or one of the other
decisions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from . import ledger, lifecycle, messages
from .effects import pause_after
from .models import Outgoing, Payment, Refund

Status = Refund.Status


class Event(StrEnum):
    """Something that happens to a refund."""

    ASKED_OF_ACCOUNT = "asked of an account"
    ASKED_OF_GATEWAY = "asked of a gateway"
    NOT_POSSIBLE = "not possible"  # there is not as much to refund, or the payment is being returned as a whole

    # What the gateway says of it, in reply to a call or by a webhook; of one that is new, it was made there by hand.
    PENDING = "pending at the gateway"
    SUCCEEDED = "succeeded at the gateway"
    FAILED = "failed at the gateway"  # perhaps after it had succeeded
    REFUSED = "call refused"
    NO_REPLY = "no reply"


# What is done -------------------------------------------------------------------------------------------------------

Effect = Callable[[Refund, Payment, datetime], None]


def call_gateway(refund: Refund, payment: Payment, now: datetime) -> None:
    """Post the call that the refund needs now: see refunds.py."""
    Outgoing.post(messages.CallForRefund(order_id=payment.order_id, refund_id=str(refund.refund_id)))


def book(refund: Refund, payment: Payment, now: datetime) -> None:
    """Record in the ledger that the money is back."""
    ledger.hand_back(
        payment, amount=refund.amount, refund_id=refund.refund_id, gateway_id=refund.gateway_refund_id, now=now
    )


def take_back(refund: Refund, payment: Payment, now: datetime) -> None:
    """Record in the ledger that the money, which was said to be back, has not reached the payer."""
    ledger.take_back(
        payment, amount=refund.amount, refund_id=refund.refund_id, gateway_id=refund.gateway_refund_id, now=now
    )


def announce(refund: Refund, payment: Payment, now: datetime) -> None:
    """Announce to orders how the refund has ended."""
    told: dict[str, Any] = {
        "order_id": payment.order_id,
        "refund_id": str(refund.refund_id),
        "amount": refund.amount,
        "currency": refund.currency,
        "refunded": ledger.of_order(payment.order_id).refunded,
    }
    if refund.status == Status.SUCCEEDED:
        Outgoing.post(messages.RefundSucceeded(**told, reason=refund.reason if refund.is_foreign else ""))
    else:
        Outgoing.post(messages.RefundFailed(**told, code=refund.fail_reason))


def tell_payment(refund: Refund, payment: Payment, now: datetime) -> None:
    """Have a payment of which all is to go back return what is left of it by now."""
    lifecycle.advance(payment, lifecycle.Event.PART_ENDED, now=now)


def ask_again_later(refund: Refund, payment: Payment, now: datetime) -> None:
    """Have the gateway asked again, after a pause that grows with every time."""
    refund.unanswered = min(refund.unanswered + 1, 16)
    refund.ask_at = now + max(SHORTEST[Status(refund.status)], min(pause_after(refund.unanswered), LONGEST))


def do_nothing(refund: Refund, payment: Payment, now: datetime) -> None:
    """Leave the refund as it is."""


SHORTEST = {Status.REQUESTED: timedelta(seconds=1), Status.PENDING: timedelta(minutes=5)}
LONGEST = timedelta(hours=6)
LEASE = timedelta(minutes=5)  # after which a call that was posted is posted again

# The table ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One transition: the status that follows, and what is done."""

    becomes: Status
    does: tuple[Effect, ...] = ()


NEW = None
REQUESTED, PENDING, SUCCEEDED, FAILED = Status
E = Event

# fmt: off
STEPS: dict[tuple[Status | None, Event], Step] = {
    # while it IS and HEARS               it BECOMES      and DOES
    (NEW,       E.ASKED_OF_ACCOUNT): Step(SUCCEEDED, (book, announce)),
    (NEW,       E.ASKED_OF_GATEWAY): Step(REQUESTED, (call_gateway,)),
    (NEW,       E.NOT_POSSIBLE):     Step(FAILED,    (announce,)),

    (REQUESTED, E.PENDING):          Step(PENDING),
    (REQUESTED, E.SUCCEEDED):        Step(SUCCEEDED, (book, announce, tell_payment)),
    (PENDING,   E.SUCCEEDED):        Step(SUCCEEDED, (book, announce, tell_payment)),
    (REQUESTED, E.FAILED):           Step(FAILED,    (announce, tell_payment)),
    (PENDING,   E.FAILED):           Step(FAILED,    (announce, tell_payment)),
    (REQUESTED, E.REFUSED):          Step(FAILED,    (announce, tell_payment)),
    (SUCCEEDED, E.FAILED):           Step(FAILED,    (take_back, announce, tell_payment)),

    # made at the gateway by hand
    (NEW,       E.PENDING):          Step(PENDING),
    (NEW,       E.SUCCEEDED):        Step(SUCCEEDED, (book, announce, tell_payment)),
    (NEW,       E.FAILED):           Step(FAILED),
}


def _each(statuses: tuple[Status, ...], effect: Effect) -> dict[Status, Effect]:
    return dict.fromkeys(statuses, effect)


ASKED_AGAIN = _each((SUCCEEDED, FAILED), announce) | _each((REQUESTED, PENDING), do_nothing)
OLD_NEWS: dict[Status, Effect] = {PENDING: ask_again_later, SUCCEEDED: do_nothing, FAILED: do_nothing}

# What is decided where an event is no step. A failure is the last word: a success that comes after it was overtaken.
OTHERWISE: dict[Event, dict[Status, Effect]] = {
    E.ASKED_OF_ACCOUNT: ASKED_AGAIN,
    E.ASKED_OF_GATEWAY: ASKED_AGAIN,
    E.NOT_POSSIBLE:     ASKED_AGAIN,
    E.PENDING:          OLD_NEWS,
    E.SUCCEEDED:        {SUCCEEDED: do_nothing, FAILED: do_nothing},
    E.FAILED:           {FAILED: do_nothing},
    E.REFUSED:          OLD_NEWS,
    E.NO_REPLY:         _each((REQUESTED, PENDING), ask_again_later)
                        | _each((SUCCEEDED, FAILED), do_nothing),
}
# fmt: on

ASK_AT: dict[Status, timedelta] = {REQUESTED: LEASE, PENDING: SHORTEST[PENDING]}

# What carries the table out -----------------------------------------------------------------------------------------


def begin(refund: Refund, payment: Payment, event: Event, *, now: datetime) -> Refund:
    """Store a new refund of a payment, which is locked, with what follows, and return it."""
    _take(STEPS[NEW, event], refund, payment, now=now, is_new=True)
    return refund


def advance(refund: Refund, payment: Payment, event: Event, *, now: datetime) -> Refund:
    """Let an event happen to a stored refund, whose payment is locked: one step, or what is decided otherwise."""
    step = STEPS.get((Status(refund.status), event))
    if step is None:
        OTHERWISE[event][Status(refund.status)](refund, payment, now)
        _keep_reason(refund)
        refund.save()
    else:
        _take(step, refund, payment, now=now)
    return refund


def _take(step: Step, refund: Refund, payment: Payment, *, now: datetime, is_new: bool = False) -> None:
    refund.status, refund.updated_at, refund.unanswered = step.becomes, now, 0
    ask_after = ASK_AT.get(step.becomes)
    refund.ask_at = now + ask_after if ask_after else None
    _keep_reason(refund)
    refund.save(force_insert=is_new)
    for effect in step.does:
        effect(refund, payment, now)


def _keep_reason(refund: Refund) -> None:
    """Only a refund that has failed says why."""
    if refund.status != FAILED:
        refund.fail_reason = ""
