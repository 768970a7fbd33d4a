"""What can be done with the money on accounts, and with the payment of an order."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _g

from common.authority import Authority, ReasonMissing
from common.errors import Refusal
from common.money import Money

from . import ledger, lifecycle
from .accounts import (
    AccountTaken,
    BalanceTooLarge,
    CurrencyMismatch,
    NoAccount,
    RequestIdReused,
    account_of,
    accounts_of,
    correct,
    deposit,
    open_account,
    pick,
)
from .ledger import InsufficientFunds
from .lifecycle import Event
from .models import Account, Payment, WebhookReceipt

__all__ = [
    "AccountTaken", "BalanceTooLarge", "CurrencyMismatch", "InsufficientFunds", "Money", "NoAccount", "ReasonMissing",
    "RequestIdReused", "account_of", "correct", "deposit", "open_account", "pick",
]  # fmt: skip


@transaction.atomic(using="payments", savepoint=False)
def charge_account(
    *,
    order_id: str,
    user_id: str | None,
    money: Money,
    now: datetime,
    principal: str = "",
    deadline: datetime | None = None,
) -> Payment:
    """
    Take the money of an order from its customer's account, once, announce the result, and return the payment.

    If the order has a payment already, that one is returned, and its status is announced again. The payment fails after
    the deadline, or if the customer has no account in this currency, or too little money on it. Another principal's
    account counts as none.
    """
    charge = AccountCharge(
        order_id=order_id, user_id=user_id or "", principal=principal, money=money, deadline=deadline
    )
    return charge_accounts([charge], now=now)[order_id]


@dataclass(frozen=True, kw_only=True)
class AccountCharge:
    """The money of an order, whose account it is to be taken from, and the context in which the result is announced."""

    order_id: str
    user_id: str
    principal: str
    money: Money
    deadline: datetime | None
    acting: Callable[[], AbstractContextManager[Any]] = nullcontext


@transaction.atomic(using="payments", savepoint=False)
def charge_accounts(charges: Sequence[AccountCharge], *, now: datetime) -> dict[str, Payment]:
    """Do what `charge_account` does for several orders, each named once; return the payments by order."""
    known = accounts_of([(charge.user_id, charge.principal) for charge in charges])
    in_order = sorted(charges, key=lambda charge: charge.order_id)
    return lifecycle.begin_all([_beginning(charge, known, now=now) for charge in in_order], now=now)


def _beginning(
    charge: AccountCharge, known: Mapping[tuple[str, str], Sequence[Account]], *, now: datetime
) -> lifecycle.Beginning:
    """Return the payment that begins with a charge, and the event that depends on what the account says."""
    money, user = charge.money, charge.user_id
    payment = Payment(
        order_id=charge.order_id, method="account", user_id=user, amount=money.amount, currency=money.currency
    )
    begins = partial(lifecycle.Beginning, payment=payment, acting=charge.acting)
    if charge.deadline is not None and charge.deadline <= now:
        return begins(event=Event.TOO_LATE)
    try:
        source = pick(known.get((user, charge.principal), ()), user_id=user, currency=money.currency)
    except Refusal as refusal:
        return begins(event=Event.ACCOUNT_REFUSED, reason=refusal.code)
    return begins(event=Event.CHARGE_ACCOUNT, source=source)


@transaction.atomic(using="payments")
def charge_gateway(
    *, order_id: str, money: Money, now: datetime, deadline: datetime | None = None, is_manual: bool = False
) -> Payment:
    """
    Begin to take the money of an order through the gateway, or only to reserve it, and return the payment; it fails
    after the deadline.

    If the order has a payment already, that one is returned, and its status is announced again.
    """
    event = Event.CHARGE_GATEWAY if money.amount else Event.NOTHING_TO_PAY
    if (stored := Payment.lock(order_id)) is not None:
        return lifecycle.advance(stored, event, now=now)
    payment = Payment(
        order_id=order_id,
        method="gateway",
        gateway=settings.PAYMENT_GATEWAY,
        amount=money.amount,
        currency=money.currency,
        # Processes of the release before would ask the gateway for it under another name.
        installation="" if settings.UPGRADING else settings.INSTALLATION,
        deadline=deadline,
        is_manual=is_manual,
    )
    is_late = deadline is not None and deadline <= now
    return lifecycle.begin(payment, Event.TOO_LATE if is_late else event, now=now)


class NothingReserved(Refusal):
    """There is no such payment, or it does not reserve as much as is to be captured."""

    code = "not_authorized"


@transaction.atomic(using="payments", savepoint=False)
def capture(*, order_id: str, amount: int, now: datetime) -> Payment:
    """
    Have this much of the money that is reserved for an order taken, and the rest released; return the payment.

    If the money is not reserved, or not any more, the status of the payment is announced again.

    :raises NothingReserved: if the order has no payment, or one of less than that
    """
    payment = Payment.lock(order_id)
    if payment is None or not 0 < amount <= payment.amount:
        raise NothingReserved(_g("No such amount is reserved for order %(order)s.") % {"order": order_id})
    if payment.status == Payment.Status.AUTHORIZED:
        payment.to_capture = amount
    return lifecycle.advance(payment, Event.CAPTURE, now=now)


@transaction.atomic(using="payments", savepoint=False)
def give_back(*, order_id: str, now: datetime) -> Payment:
    """
    Make sure that no money of this order stays in, and return the payment: it is never taken, or it is returned, once.

    An order without a payment gets a voided one, so that a charge that comes later takes nothing. A payment that the
    gateway may know is withdrawn there, which begins here. The status is announced once it is settled.
    """
    payment = Payment.lock(order_id)
    if payment is None:
        return lifecycle.begin(Payment(order_id=order_id), Event.WITHDRAW_HERE, now=now)
    is_at_gateway = (payment.gateway_payment_id or payment.tried_at) and not _is_all_back(payment)
    return lifecycle.advance(payment, Event.WITHDRAW if is_at_gateway else Event.WITHDRAW_HERE, now=now)


def _is_all_back(payment: Payment) -> bool:
    """Return whether the money came in and is back already, part by part."""
    return payment.status == Payment.Status.SUCCEEDED and not ledger.of_order(payment.order_id).kept


class NotRefused(Refusal):
    """The gateway has not refused to return the money of this payment, or not any more."""

    code = "return_not_refused"


@transaction.atomic(using="payments")
def try_return_again(*, order_id: str, now: datetime) -> Payment:
    """
    Have the gateway asked again for what it has refused: to cancel a payment or to refund it. Return the payment.

    :raises NotRefused: if it has refused nothing
    """
    return lifecycle.advance(_refused(order_id), Event.TRY_AGAIN, now=now)


class NotHandledYet(Refusal):
    """The gateway has told where the money is, and that is not handled yet."""

    code = "webhook_not_handled"


@transaction.atomic(using="payments")
def settle_by_hand(*, order_id: str, reason: str, by: Authority, now: datetime) -> Payment:
    """
    Record that money which the gateway refuses to return went back by another way, and return the payment.

    :raises NotRefused: if the gateway has refused nothing
    :raises NotHandledYet: while a webhook is kept that says that money of it has moved
    :raises ReasonMissing: without a reason
    :raises NeedsSecondPerson: if one person may not decide about this amount alone
    """
    by.justify(reason)
    payment = _refused(order_id)
    if (kept := WebhookReceipt.of_moved_money(payment).first()) is not None:
        raise NotHandledYet(
            _g(
                "The webhook %(webhook)s says that the money has moved."
                " Ask the gateway again, or decide about it first."
            )
            % {"webhook": kept.webhook_id}
        )
    by.permit(payment.amount, payment.currency)
    payment.settled_by, payment.settled_why = by.name[:150], reason[:500]
    return lifecycle.advance(payment, Event.SETTLED_BY_HAND, now=now)


def _refused(order_id: str) -> Payment:
    payment = Payment.lock(order_id)
    if payment is None or payment.status not in Payment.REFUSED:
        raise NotRefused(_g("The gateway does not refuse to return the money of this order, or not any more."))
    return payment
