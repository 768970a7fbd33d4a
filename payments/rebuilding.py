"""
Payments that are lost because the database of payments was set back to an earlier moment, made again.

What became of the money is told by who was told of it then (orders), and by the gateway, which is asked. What is said
here once more, orders knows already: see `ALREADY` in its table.

# Note [Before its messages come again]: what orders has asked for since is sent again afterwards, and then finds the
payment as it was: a charge whose deadline is long over, or a refund of a payment that is not there, would fail.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction

from common.errors import NotRebuilt, Refusal
from common.money import Money
from common.money import text as _text

from . import accounts, gateway_calls, gateways, lifecycle, refunds, services
from .at_gateway import CLOCKS_DIFFER, KEYS_LAST
from .gateways.base import Answer, GatewayRefused, GatewayUnavailable
from .gateways.base import Status as GatewayStatus
from .lifecycle import Event
from .models import Account, Payment, Refund
from .models import reference as reference_of

logger = logging.getLogger(__name__)

Status = Payment.Status
ASKED = (*Payment.PAYABLE, Status.AUTHORIZED, Status.CAPTURING)  # the gateway may know more of it than is known here
CAME_IN = (Status.SUCCEEDED, Status.REFUNDING, Status.REFUNDED, Status.REFUND_REFUSED)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was told of the payment of an order, and what is known of it."""

    order_id: str
    method: str
    money: Money
    placed_at: datetime
    user_id: str = ""
    principal: str = ""
    is_manual: bool = False
    came_in: bool = False  # the money, or as much of it as was to be captured
    went_back: bool = False  # all of it
    is_over: bool = False  # the order takes no money any more
    reason: str = ""  # why none came in, if it has failed


# Payments -----------------------------------------------------------------------------------------------------------


def needed(told: Told) -> "Step | None":
    """Return what has to be done so that the payment is what was told of it; None if nothing, or nothing before its
    messages come again."""
    payment = Payment.objects.filter(pk=told.order_id).first()
    if payment is not None:
        if payment.status in ASKED:
            return ask_gateway
        return give_back if told.went_back and payment.status == Status.SUCCEEDED else None
    if told.method == "gateway" and told.money.amount:
        return ask_gateway
    if told.came_in:
        return charge_again
    return close if told.is_over else None


def charge_again(told: Told, now: datetime) -> None:
    """
    Take the money of an order from its account, after its deadline as well.

    :raises NotRebuilt: if there is no such account, or it has less money than that
    """
    with transaction.atomic(using="payments"):
        if Payment.lock(told.order_id) is not None:
            return
        payment = _new(told)
        if told.method == "gateway":
            lifecycle.begin(payment, Event.NOTHING_TO_PAY, now=now)
        else:
            lifecycle.begin(payment, Event.CHARGE_ACCOUNT, now=now, source=_source(told))


def _source(told: Told) -> Account:
    """Return the account that an order is paid from, locked, if it has the money."""
    try:
        found = accounts.account_of(told.user_id, principal=told.principal, currency=told.money.currency)
    except Refusal as refusal:
        raise NotRebuilt(
            f"it was paid from the account of {told.user_id}, and there is none ({refusal.code}): open it again, with"
            f" what was deposited since, at least {_shown(told.money)}, and run this again"
        ) from refusal
    account = Account.objects.select_for_update(no_key=True).get(pk=found.pk)
    if account.balance < told.money.amount:
        left = _shown(Money(account.balance, account.currency))
        raise NotRebuilt(
            f"it was paid {_shown(told.money)} from the account of {told.user_id}, which has {left}: deposit again what"
            " was deposited since, and run this again"
        )
    return account


def close(told: Told, now: datetime) -> None:
    """Store that no money came in for an order, and that none ever will."""
    with transaction.atomic(using="payments"):
        if Payment.lock(told.order_id) is None:
            event = Event.TOO_LATE if told.reason else Event.WITHDRAW_HERE
            lifecycle.begin(_new(told), event, now=now, reason=told.reason)


def give_back(told: Told, now: datetime) -> None:
    """Give all the money of an order that is left back, as it went back before."""
    with transaction.atomic(using="payments"):
        payment = Payment.lock(told.order_id)
        if payment is not None and payment.status == Status.SUCCEEDED:
            services.give_back(order_id=told.order_id, now=now)


def ask_gateway(told: Told, now: datetime) -> None:
    """
    Have the payment become what the gateway says it is; without one there, close it if the order is over.

    :raises NotRebuilt: if the gateway does not answer, or contradicts what was told
    """
    payment = Payment.objects.filter(pk=told.order_id).first()
    answer = _answer(told, payment, now=now)
    if answer is None and payment is None and told.is_over and not told.came_in:
        close(told, now)
        return
    if answer is not None:
        _adopt(told, answer, now=now)
    elif payment is not None and payment.status == Status.REQUESTED and now - payment.created_at >= KEYS_LAST:
        # The gateway has forgotten the key, so it is searched before the request is repeated: see at_gateway.py.
        Payment.objects.filter(pk=payment.pk, broken=0).update(broken=1)
    payment = Payment.objects.filter(pk=told.order_id).first()
    if told.came_in and (payment is None or payment.status not in (*CAME_IN, Status.VOIDING, Status.CAPTURING)):
        said = answer.status if answer is not None else "no such payment"
        raise NotRebuilt(
            f"orders was told that it is paid, and the gateway says: {said}. Look it up at the gateway; if it has no"
            " money, cancel the order or deliver it unpaid"
        )


def _answer(told: Told, payment: Payment | None, *, now: datetime) -> Answer | None:
    """Return the payment as it is at the gateway, or was when its money came in; None if there is none."""
    began = payment.created_at if payment else told.placed_at
    known = payment.gateway_payment_id if payment else ""
    reference = payment.reference if payment else reference_of(told.order_id, installation=settings.INSTALLATION)
    gateway = gateways.get(payment.gateway if payment else settings.PAYMENT_GATEWAY)
    try:
        if known:
            answer = gateway.status(payment_id=known)
        else:
            since = began - CLOCKS_DIFFER if now - began < KEYS_LAST else None  # see AtGateway
            answer = gateway.status(order_id=reference, since=since)
    except (GatewayRefused, GatewayUnavailable) as error:
        logger.warning("%s: the gateway does not say what it has: %s", told.order_id, error)
        raise NotRebuilt(f"the gateway does not answer ({error}): run this again") from error
    if answer is not None and answer.status == GatewayStatus.REFUNDED:
        return replace(answer, status=GatewayStatus.SUCCEEDED)  # what went back since is said of each refund
    return answer


@transaction.atomic(using="payments")
def _adopt(told: Told, answer: Answer, *, now: datetime) -> None:
    payment = Payment.lock(told.order_id)
    if payment is None:
        payment = lifecycle.begin(_new(told), Event.CHARGE_GATEWAY, now=now)
        # The gateway has had it since then.
        Payment.objects.filter(pk=payment.pk).update(created_at=told.placed_at, tried_at=told.placed_at)
    if payment.status not in ASKED:
        return
    if told.is_over and not told.came_in and not told.reason:
        payment = services.give_back(order_id=told.order_id, now=now)  # it was, or is being, withdrawn
    reply = gateway_calls.GatewayReply(Status(payment.status), answer=answer)
    gateway_calls.record(order_id=told.order_id, reply=reply, now=now)


def _new(told: Told) -> Payment:
    is_at_gateway = told.method == "gateway"
    return Payment(
        order_id=told.order_id,
        method=told.method,
        gateway=settings.PAYMENT_GATEWAY if is_at_gateway else "",
        installation=settings.INSTALLATION if is_at_gateway else "",
        user_id="" if is_at_gateway else told.user_id,
        amount=told.money.amount,
        currency=told.money.currency,
        is_manual=is_at_gateway and told.is_manual,
    )


Step = Callable[[Told, datetime], None]


# Refunds of parts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ToldRefund:
    """What was told of the refund of a part of a payment."""

    order_id: str
    refund_id: UUID
    money: Money
    reason: str
    fail_code: str  # "" if it has succeeded
    is_foreign: bool  # made at the gateway by hand


def is_lost(told: ToldRefund) -> bool:
    """Return whether payments does not know this refund."""
    return not Refund.objects.filter(pk=told.refund_id).exists()


def rebuild_refund(told: ToldRefund, *, now: datetime) -> None:
    """
    Make a refund again that has ended, as it was told. Call it outside of any transaction.

    :raises NotRebuilt: if there is not as much to give back, or the gateway does not know it
    """
    made = _made_by_hand(told) if told.is_foreign and not told.fail_code else None
    with transaction.atomic(using="payments"):
        payment = Payment.lock(told.order_id)
        if payment is None or not is_lost(told):
            return
        refund = Refund(
            refund_id=told.refund_id,
            payment=payment,
            amount=told.money.amount,
            currency=told.money.currency,
            reason=told.reason,
            gateway=payment.gateway,
            is_foreign=told.is_foreign,
            created_at=now,
        )
        if told.fail_code:
            refund.fail_reason = told.fail_code
            refunds.begin(refund, payment, refunds.Event.NOT_POSSIBLE, now=now)
        elif code := refunds.why_not(payment, told.money):
            raise NotRebuilt(
                f"{_shown(told.money)} of it went back, and payments cannot book that ({code}): see its payment in the"
                " admin"
            )
        elif made is not None:
            refund.gateway_refund_id = made
            refunds.begin(refund, payment, refunds.Event.SUCCEEDED, now=now)
        else:
            is_at_gateway = bool(payment.gateway_payment_id)
            event = refunds.Event.ASKED_OF_GATEWAY if is_at_gateway else refunds.Event.ASKED_OF_ACCOUNT
            refunds.begin(refund, payment, event, now=now)


def _made_by_hand(told: ToldRefund) -> str:
    """Return the id of this refund at the gateway, where it has no name of ours."""
    payment = Payment.objects.get(pk=told.order_id)
    try:
        made = gateways.get(payment.gateway).refunds(payment_id=payment.gateway_payment_id)
    except (GatewayRefused, GatewayUnavailable) as error:
        raise NotRebuilt(f"the gateway does not answer ({error}): run this again") from error
    known = set(payment.refunds.values_list("gateway_refund_id", flat=True))
    for one in made:
        is_it = not one.refund_id and (one.amount, one.currency) == (told.money.amount, told.money.currency)
        if is_it and one.gateway_refund_id not in known:
            return one.gateway_refund_id
    raise NotRebuilt(
        f"{_shown(told.money)} of it was refunded at the gateway by hand, and the gateway lists no such refund: look it"
        " up there"
    )


def _shown(money: Money) -> str:
    return _text(money.amount, currency=money.currency)
