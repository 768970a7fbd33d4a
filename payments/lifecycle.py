"""
The life of a payment: every transition, and what is done with it, in one table.

A payment changes only here. An event is a command of orders, the reply of the gateway to a call, or a webhook of the
gateway. The table is data: `manage.py payment_lifecycle` prints it and draws it. Each pair of status and event is
decided: it is a step, or one of the other decisions.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from . import ledger
from .effects import (
    CAPTURE_REFUSED,
    Contradiction,
    Details,
    Effect,
    announce,
    announce_refund,
    announce_undone,
    ask_again_later,
    call_gateway,
    charge_account,
    contradict,
    do_nothing,
    record_capture,
    return_money,
    take_return_back,
)
from .gateways.base import RefundAnswer
from .ledger import InsufficientFunds
from .models import ROWS, Account, Payment

__all__ = ["Contradiction"]

Status = Payment.Status


class Event(StrEnum):
    """Something that happens to a payment."""

    # A command of orders. Which event it is depends on what the account or the order says, and on who holds the money.
    CHARGE_ACCOUNT = "charge account"
    ACCOUNT_REFUSED = "account refused"
    CHARGE_GATEWAY = "charge gateway"
    NOTHING_TO_PAY = "nothing to pay"
    TOO_LATE = "too late"  # the deadline passed before anything was done
    CAPTURE = "capture"  # take what is reserved
    WITHDRAW = "withdraw"  # void or refund a payment that the gateway may know
    WITHDRAW_HERE = "withdraw here"  # void or refund a payment that no gateway knows

    # The reply of the gateway to a call.
    PENDING = "reply pending"
    AUTHORIZED = "reply authorized"
    PAID = "reply paid"
    UNPAID = "reply not paid"  # failed, canceled, or refunded: the gateway has no money for us
    DIFFERENT = "reply different"  # another order, payment, amount or currency than ours
    UNKNOWN = "reply unknown"  # the gateway knows no such payment, which is certain
    REFUSED = "reply refused"
    NO_REPLY = "no reply"
    OUTDATED = "reply outdated"  # the payment has changed since the call
    OUTDATED_WITH_MONEY = "reply outdated, with money"  # so has this one, and the gateway has or may get the money

    # A webhook of the gateway, which was verified and compared with the payment.
    WEBHOOK_PENDING = "webhook pending"
    WEBHOOK_AUTHORIZED = "webhook authorized"
    WEBHOOK_PAID = "webhook paid"
    WEBHOOK_UNPAID = "webhook not paid"  # failed or canceled
    WEBHOOK_REFUNDED = "webhook refunded"

    # The refund of all that was left, as a reply or as a webhook: see returns.py.
    RETURN_PENDING = "return pending"
    RETURNED = "returned"
    RETURNED_IN_PART = "returned in part"  # and more is left by now
    RETURN_FAILED = "return failed"
    RETURN_UNDONE = "return undone"  # it has failed after it had succeeded
    PART_ENDED = "part ended"  # the refund of a part has succeeded, or has failed, so that more is left

    # What a person decides after the gateway has refused to return the money.
    TRY_AGAIN = "try again"
    SETTLED_BY_HAND = "settled by hand"


# The table ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One transition: the status that follows, what is done, and the reason that is kept unless there is one."""

    becomes: Status
    does: tuple[Effect, ...] = ()
    reason: str = ""


NEW = None  # the status of a payment that is not stored yet
REQUESTED, PENDING, AUTHORIZED, CAPTURING = Status.REQUESTED, Status.PENDING, Status.AUTHORIZED, Status.CAPTURING
SUCCEEDED, FAILED, VOIDING, VOIDED = Status.SUCCEEDED, Status.FAILED, Status.VOIDING, Status.VOIDED
REFUNDING, REFUNDED = Status.REFUNDING, Status.REFUNDED
VOID_REFUSED, REFUND_REFUSED = Status.VOID_REFUSED, Status.REFUND_REFUSED
EXPIRED = "authorization_expired"
E = Event

# fmt: off
STEPS: dict[tuple[Status | None, Event], Step] = {
    # while it IS and HEARS              it BECOMES      and DOES
    (NEW,       E.CHARGE_ACCOUNT):  Step(SUCCEEDED, (charge_account, announce)),
    (NEW,       E.ACCOUNT_REFUSED): Step(FAILED,    (announce,)),  # for the reason that the account gives
    (NEW,       E.CHARGE_GATEWAY):  Step(REQUESTED, (call_gateway,)),
    (NEW,       E.NOTHING_TO_PAY):  Step(SUCCEEDED, (announce,)),
    (NEW,       E.TOO_LATE):        Step(FAILED,    (announce,), "payment_timeout"),
    (NEW,       E.WITHDRAW_HERE):   Step(VOIDED,    (announce,)),  # a tombstone: a charge that comes later does nothing

    # the gateway has been asked for the money; whoever pays may try again until it is paid, or canceled
    (REQUESTED, E.PENDING):         Step(PENDING,   (announce,)),
    (PENDING,   E.PENDING):         Step(PENDING),
    (REQUESTED, E.WEBHOOK_PENDING): Step(PENDING,   (announce, call_gateway)),
    (PENDING,   E.WEBHOOK_PENDING): Step(PENDING,   (call_gateway,)),  # it may be late, so the gateway is asked
    (REQUESTED, E.PAID):            Step(SUCCEEDED, (record_capture, announce)),
    (PENDING,   E.PAID):            Step(SUCCEEDED, (record_capture, announce)),
    (REQUESTED, E.WEBHOOK_PAID):    Step(SUCCEEDED, (record_capture, announce)),
    (PENDING,   E.WEBHOOK_PAID):    Step(SUCCEEDED, (record_capture, announce)),
    (REQUESTED, E.UNPAID):          Step(FAILED,    (announce,), "payment_declined"),
    (PENDING,   E.UNPAID):          Step(FAILED,    (announce,), "payment_declined"),
    (REQUESTED, E.WEBHOOK_UNPAID):  Step(FAILED,    (announce,), "payment_declined"),
    (PENDING,   E.WEBHOOK_UNPAID):  Step(FAILED,    (announce,), "payment_declined"),
    (REQUESTED, E.REFUSED):         Step(FAILED,    (announce,), "payment_refused"),
    (REQUESTED, E.TOO_LATE):        Step(FAILED,    (announce,), "payment_timeout"),

    # the money is only reserved, until orders wants it, or somebody captures it at the gateway, or it expires
    (REQUESTED,  E.AUTHORIZED):         Step(AUTHORIZED, (announce,)),
    (PENDING,    E.AUTHORIZED):         Step(AUTHORIZED, (announce,)),
    (REQUESTED,  E.WEBHOOK_AUTHORIZED): Step(PENDING,    (announce, call_gateway)),
    (PENDING,    E.WEBHOOK_AUTHORIZED): Step(PENDING,    (call_gateway,)),  # the reply says until when
    (AUTHORIZED, E.AUTHORIZED):         Step(AUTHORIZED),
    (AUTHORIZED, E.CAPTURE):            Step(CAPTURING,  (call_gateway,)),
    (AUTHORIZED, E.PAID):               Step(SUCCEEDED,  (record_capture, announce)),
    (CAPTURING,  E.PAID):               Step(SUCCEEDED,  (record_capture, announce)),
    (AUTHORIZED, E.WEBHOOK_PAID):       Step(SUCCEEDED,  (record_capture, announce)),
    (CAPTURING,  E.WEBHOOK_PAID):       Step(SUCCEEDED,  (record_capture, announce)),
    (AUTHORIZED, E.UNPAID):             Step(FAILED,     (announce,), EXPIRED),
    (CAPTURING,  E.UNPAID):             Step(FAILED,     (announce,), EXPIRED),
    (AUTHORIZED, E.WEBHOOK_UNPAID):     Step(FAILED,     (announce,), EXPIRED),
    (CAPTURING,  E.WEBHOOK_UNPAID):     Step(FAILED,     (announce,), EXPIRED),
    (CAPTURING,  E.REFUSED):            Step(VOIDING,    (call_gateway,), CAPTURE_REFUSED),  # the payer gets it back

    # orders wants no money to stay in: cancel the payment, or return its money
    (REQUESTED,  E.WITHDRAW_HERE):  Step(VOIDED,    (announce,)),
    (SUCCEEDED,  E.WITHDRAW_HERE):  Step(REFUNDED,  (return_money, announce)),
    (REQUESTED,  E.WITHDRAW):       Step(VOIDING,   (call_gateway,)),
    (PENDING,    E.WITHDRAW):       Step(VOIDING,   (call_gateway,)),
    (AUTHORIZED, E.WITHDRAW):       Step(VOIDING,   (call_gateway,)),
    (CAPTURING,  E.WITHDRAW):       Step(VOIDING,   (call_gateway,)),
    (SUCCEEDED,  E.WITHDRAW):       Step(REFUNDING, (call_gateway,)),
    (VOIDING,    E.UNPAID):         Step(VOIDED,    (announce,)),
    (VOIDING,    E.UNKNOWN):        Step(VOIDED,    (announce,)),
    (VOIDING,    E.WEBHOOK_UNPAID): Step(VOIDED,    (announce,)),
    (VOIDING,    E.PAID):           Step(REFUNDING, (record_capture, call_gateway)),
    (VOIDING,    E.WEBHOOK_PAID):   Step(REFUNDING, (record_capture, call_gateway)),
    (REFUNDING,  E.UNPAID):         Step(REFUNDED,  (return_money, announce_refund)),
    (REFUNDING,  E.RETURNED):       Step(REFUNDED,  (return_money, announce_refund)),
    (REFUNDING,  E.RETURNED_IN_PART): Step(REFUNDING, (return_money, call_gateway)),
    (REFUNDING,  E.PART_ENDED):     Step(REFUNDING, (call_gateway,)),
    (REFUNDED,   E.PART_ENDED):     Step(REFUNDING, (call_gateway,)),

    # the gateway refuses: repeating it by itself would not help, so a person has it repeated, or settles it
    (VOIDING,   E.REFUSED):         Step(VOID_REFUSED,   (announce,)),
    (REFUNDING, E.REFUSED):         Step(REFUND_REFUSED, (announce,)),
    (REFUNDING, E.UNKNOWN):         Step(REFUND_REFUSED, (announce,)),
    (REFUNDING, E.RETURN_FAILED):   Step(REFUND_REFUSED, (announce,)),
    (REFUNDING, E.RETURN_UNDONE):   Step(REFUND_REFUSED, (take_return_back, announce)),
    (REFUNDED,  E.RETURN_UNDONE):   Step(REFUND_REFUSED, (take_return_back, announce_undone)),
    (REFUND_REFUSED, E.RETURN_UNDONE): Step(REFUND_REFUSED, (take_return_back, announce)),
    (VOID_REFUSED,   E.TRY_AGAIN):  Step(VOIDING,   (call_gateway,)),
    (REFUND_REFUSED, E.TRY_AGAIN):  Step(REFUNDING, (call_gateway,)),
    (VOID_REFUSED,   E.SETTLED_BY_HAND): Step(VOIDED,   (announce,)),
    (REFUND_REFUSED, E.SETTLED_BY_HAND): Step(REFUNDED, (return_money, announce_refund)),
    (VOID_REFUSED,   E.WEBHOOK_PAID):    Step(REFUNDING, (record_capture, call_gateway)),
    (VOID_REFUSED,   E.WEBHOOK_UNPAID):  Step(VOIDED,    (announce,)),

    # late news: it was announced that no money came in, so it goes back by itself
    (FAILED,    E.WEBHOOK_PAID):       Step(REFUNDING, (record_capture, call_gateway), "paid_after_void"),
    (VOIDED,    E.WEBHOOK_PAID):       Step(REFUNDING, (record_capture, call_gateway), "paid_after_void"),
    (FAILED,    E.WEBHOOK_AUTHORIZED): Step(VOIDING,   (call_gateway,)),
    (VOIDED,    E.WEBHOOK_AUTHORIZED): Step(VOIDING,   (call_gateway,)),

    # the payment changed while the gateway was called: call it again for the status of now
    (REQUESTED,  E.OUTDATED):       Step(REQUESTED,  (call_gateway,)),
    (PENDING,    E.OUTDATED):       Step(PENDING,    (call_gateway,)),
    (AUTHORIZED, E.OUTDATED):       Step(AUTHORIZED, (call_gateway,)),
    (CAPTURING,  E.OUTDATED):       Step(CAPTURING,  (call_gateway,)),
    (VOIDING,    E.OUTDATED):       Step(VOIDING,    (call_gateway,)),
    (REFUNDING,  E.OUTDATED):       Step(REFUNDING,  (call_gateway,)),
    (REQUESTED,  E.OUTDATED_WITH_MONEY): Step(REQUESTED,  (call_gateway,)),
    (PENDING,    E.OUTDATED_WITH_MONEY): Step(PENDING,    (call_gateway,)),
    (AUTHORIZED, E.OUTDATED_WITH_MONEY): Step(AUTHORIZED, (call_gateway,)),
    (CAPTURING,  E.OUTDATED_WITH_MONEY): Step(CAPTURING,  (call_gateway,)),
    (VOIDING,    E.OUTDATED_WITH_MONEY): Step(VOIDING,    (call_gateway,)),
    (REFUNDING,  E.OUTDATED_WITH_MONEY): Step(REFUNDING,  (call_gateway,)),
    (VOIDED,     E.OUTDATED_WITH_MONEY): Step(VOIDING,    (call_gateway,)),
}
# fmt: on


class Otherwise(StrEnum):
    """What is decided where an event is no step."""

    REPEAT = "the answer is repeated"
    OLD_NEWS = "old news"
    AGAIN = "asked again later"
    CONTRADICTION = "refused as a contradiction"


CARRY_OUT: dict[Otherwise, Effect] = {
    Otherwise.REPEAT: announce,
    Otherwise.OLD_NEWS: do_nothing,
    Otherwise.AGAIN: ask_again_later,
    Otherwise.CONTRADICTION: contradict,
}

REPEAT, OLD_NEWS, AGAIN, CONTRADICTION = Otherwise
ASKED = Payment.ASKED
SETTLED = (SUCCEEDED, FAILED, VOIDED, REFUNDED)
REFUSED = Payment.REFUSED
RESTING = (*SETTLED, *REFUSED)  # the gateway has no call to answer
NOT_RETURNED = (REQUESTED, PENDING, AUTHORIZED, CAPTURING, VOIDING, SUCCEEDED, FAILED, VOIDED, VOID_REFUSED)

# fmt: off
OTHERWISE: dict[Event, dict[Otherwise, tuple[Status, ...]]] = {
    E.CHARGE_ACCOUNT:      {REPEAT: (*ASKED, *RESTING)},
    E.ACCOUNT_REFUSED:     {REPEAT: (*ASKED, *RESTING)},
    E.CHARGE_GATEWAY:      {REPEAT: (*ASKED, *RESTING)},
    E.NOTHING_TO_PAY:      {REPEAT: (*ASKED, *RESTING)},
    E.TOO_LATE:            {REPEAT: (PENDING, AUTHORIZED, CAPTURING, VOIDING, REFUNDING, *RESTING)},
    E.CAPTURE:             {REPEAT: (REQUESTED, PENDING, CAPTURING, VOIDING, REFUNDING, *RESTING)},
    E.WITHDRAW:            {REPEAT: (VOIDING, REFUNDING, FAILED, VOIDED, REFUNDED, *REFUSED)},
    E.WITHDRAW_HERE:       {REPEAT: (PENDING, AUTHORIZED, CAPTURING, VOIDING, REFUNDING, FAILED, VOIDED, REFUNDED,
                                     *REFUSED)},
    E.PENDING:             {AGAIN: (AUTHORIZED, CAPTURING, VOIDING, REFUNDING), OLD_NEWS: RESTING},
    E.AUTHORIZED:          {AGAIN: (CAPTURING, VOIDING, REFUNDING), OLD_NEWS: RESTING},
    E.PAID:                {AGAIN: (REFUNDING,), OLD_NEWS: RESTING},
    E.UNPAID:              {OLD_NEWS: RESTING},
    E.DIFFERENT:           {AGAIN: ASKED, OLD_NEWS: RESTING},
    E.UNKNOWN:             {AGAIN: (REQUESTED, PENDING, AUTHORIZED, CAPTURING), OLD_NEWS: RESTING},
    E.REFUSED:             {AGAIN: (PENDING, AUTHORIZED), OLD_NEWS: RESTING},
    E.NO_REPLY:            {AGAIN: ASKED, OLD_NEWS: RESTING},
    E.OUTDATED:            {OLD_NEWS: RESTING},
    E.OUTDATED_WITH_MONEY: {OLD_NEWS: (SUCCEEDED, FAILED, REFUNDED, *REFUSED)},
    E.WEBHOOK_PENDING:     {OLD_NEWS: (AUTHORIZED, CAPTURING, VOIDING, REFUNDING, *RESTING)},
    E.WEBHOOK_AUTHORIZED:  {OLD_NEWS: (AUTHORIZED, CAPTURING, VOIDING, REFUNDING, SUCCEEDED, REFUNDED, *REFUSED)},
    E.WEBHOOK_PAID:        {OLD_NEWS: (SUCCEEDED, REFUNDING, REFUNDED, REFUND_REFUSED)},
    E.WEBHOOK_UNPAID:      {OLD_NEWS: (FAILED, VOIDED, REFUNDED),
                            CONTRADICTION: (SUCCEEDED, REFUNDING, REFUND_REFUSED)},
    E.WEBHOOK_REFUNDED:    {OLD_NEWS: (REFUNDED,), CONTRADICTION: (*ASKED, SUCCEEDED, FAILED, VOIDED, *REFUSED)},
    E.RETURN_PENDING:      {AGAIN: (REFUNDING,), OLD_NEWS: (REFUNDED, REFUND_REFUSED), CONTRADICTION: NOT_RETURNED},
    E.RETURNED:            {OLD_NEWS: (REFUNDED, REFUND_REFUSED), CONTRADICTION: NOT_RETURNED},
    E.RETURNED_IN_PART:    {OLD_NEWS: (REFUNDED, REFUND_REFUSED), CONTRADICTION: NOT_RETURNED},
    E.RETURN_FAILED:       {OLD_NEWS: (REFUNDED, REFUND_REFUSED), CONTRADICTION: NOT_RETURNED},
    E.RETURN_UNDONE:       {CONTRADICTION: NOT_RETURNED},
    E.PART_ENDED:          {OLD_NEWS: (REFUND_REFUSED, *NOT_RETURNED)},
    E.TRY_AGAIN:           {OLD_NEWS: (*ASKED, *SETTLED)},
    E.SETTLED_BY_HAND:     {OLD_NEWS: (*ASKED, *SETTLED)},
}
# fmt: on

# When the gateway is called again by itself -------------------------------------------------------------------------

LEASE = timedelta(minutes=5)  # after which a call that was posted is posted again
CHECK_AFTER = (timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2), timedelta(days=1))


def _lease(payment: Payment, now: datetime) -> datetime:
    return now + LEASE


def _next_check(payment: Payment, now: datetime) -> datetime:
    """The next of the times of `CHECK_AFTER`, counted from the beginning of the payment; then daily."""
    times = (payment.created_at + after for after in CHECK_AFTER)
    return next((time for time in times if time > now), now + CHECK_AFTER[-1])


def _at_expiry(payment: Payment, now: datetime) -> datetime:
    """When the gateway releases what it has reserved, if it has told; a little later, if it has not done so by then."""
    if payment.authorized_until is None:
        return _next_check(payment, now)
    return max(payment.authorized_until, now + LEASE)


ASK_AT: dict[Status, Callable[[Payment, datetime], datetime]] = {
    REQUESTED: _lease,
    PENDING: _next_check,
    AUTHORIZED: _at_expiry,
    CAPTURING: _lease,
    VOIDING: _lease,
    REFUNDING: _lease,
}

# What carries the table out -----------------------------------------------------------------------------------------


def otherwise(status: Status, event: Event) -> Otherwise:
    """Return what is decided for a payment in this status and an event that is no step."""
    return next(decision for decision, statuses in OTHERWISE[event].items() if status in statuses)


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A new payment, what happens to it first, and the context in which its status is announced."""

    payment: Payment
    event: Event
    reason: str = ""
    source: Account | None = None
    acting: Callable[[], AbstractContextManager[Any]] = nullcontext


def begin(payment: Payment, event: Event, *, now: datetime, reason: str = "", source: Account | None = None) -> Payment:
    """Store the payment of an order, with what follows, and return it: see `begin_all`."""
    beginning = Beginning(payment=payment, event=event, reason=reason, source=source)
    return begin_all([beginning], now=now)[payment.order_id]


def begin_all(beginnings: Sequence[Beginning], *, now: datetime) -> dict[str, Payment]:
    """
    Store the payments of orders, of each order one, with what follows, and return them by order.

    If an order has a payment already, that one is returned, and its status is announced again. Call it in a transaction
    of payments.
    """
    if not beginnings:
        return {}
    for one in beginnings:
        _become(one.payment, STEPS[NEW, one.event], Details(now=now, reason=one.reason))
    new = set(ROWS.insert_new(*(one.payment for one in beginnings)))
    charges = [
        (one.payment, one.source)
        for one in beginnings
        if one.payment.order_id in new and charge_account in STEPS[NEW, one.event].does and one.source is not None
    ]
    short = ledger.capture_all(charges, now=now)
    payments: dict[str, Payment] = {}
    with ROWS.batch() as batch:
        for one in beginnings:
            payment, step = one.payment, STEPS[NEW, one.event]
            details = Details(now=now, reason=one.reason, is_short=payment.order_id in short, batch=batch)
            with one.acting():
                if payment.order_id not in new:
                    payment = advance(Payment.objects.select_for_update().get(pk=payment.order_id), one.event, now=now)
                else:
                    _carry_out(payment, step, details)
            payments[payment.order_id] = payment
    return payments


def _carry_out(payment: Payment, step: Step, details: Details) -> None:
    """Do what the first step of a payment does, or let it have failed if its account has less money than that."""
    try:
        _do(payment, step, details)
    except InsufficientFunds as refusal:  # raised before anything else was done
        step, details = STEPS[NEW, Event.ACCOUNT_REFUSED], replace(details, reason=refusal.code)
        _become(payment, step, details)
        payment.save(update_fields=["status", "fail_reason", "updated_at"])
        _do(payment, step, details)


def advance(
    payment: Payment,
    event: Event,
    *,
    now: datetime,
    refusal: str = "",
    captured: int | None = None,
    refund: RefundAnswer | None = None,
) -> Payment:
    """
    Let an event happen to a stored payment, which is locked: one step of the table, or what is decided otherwise.

    :param refusal: why the gateway does not return the money, if that is what has happened
    :param captured: how much the gateway has taken; None for all of it
    :param refund: the refund that has become something

    :raises Contradiction: if the table refuses the event
    """
    status, details = Status(payment.status), Details(now=now, refusal=refusal, captured=captured, refund=refund)
    step = STEPS.get((status, event))
    if step is None:
        CARRY_OUT[otherwise(status, event)](payment, details)
    else:
        _become(payment, step, details)
        payment.save()
        _do(payment, step, details)
    return payment


def _become(payment: Payment, step: Step, details: Details) -> None:
    payment.status = step.becomes
    payment.fail_reason = payment.fail_reason or details.reason or step.reason
    payment.refusal = details.refusal if step.becomes in REFUSED else ""
    payment.refusals += step.becomes in REFUSED
    payment.unanswered = 0
    if step.becomes not in Payment.PAYABLE:
        payment.client_secret, payment.next_action = "", None
    ask_at = ASK_AT.get(step.becomes)
    payment.ask_at = ask_at(payment, details.now) if ask_at else None


def _do(payment: Payment, step: Step, details: Details) -> None:
    for effect in step.does:
        effect(payment, details)
