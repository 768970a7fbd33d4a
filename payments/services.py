"""What may be done with money on accounts, and with the payment of an order."""

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _g

from common.errors import Refusal
from common.locks import take_turn
from common.money import LARGEST

from . import lifecycle as clearing
from .ledger import CASH, CORRECTIONS, InsufficientFunds, capture, hand_back, move, system_account
from .models import ROWS, Account, Entry, Payment

__all__ = ["InsufficientFunds"]


class NoAccount(Refusal):
    code = "no_account"


class CurrencyMismatch(Refusal):
    code = "currency_mismatch"


class AccountTaken(Refusal):
    """The account of this user belongs to somebody else."""

    code = "account_taken"


class BalanceTooLarge(Refusal):
    code = "balance_too_large"


class ReasonMissing(Refusal):
    code = "reason_missing"


def open_account(*, user_id: str, principal: str = "", currency: str | None = None) -> tuple[Account, bool]:
    """The account of this user, and whether it was made just now. It may be another principal's: see its door."""
    return Account.objects.get_or_create(
        user_id=user_id,
        kind=Account.Kind.CUSTOMER,
        defaults={"currency": currency or settings.CURRENCY, "principal": principal},
    )


def account_of(user_id: str) -> Account:
    """
    The customer's account.

    :raises NoAccount: if there is none
    """
    account = ROWS.first(Account, "WHERE user_id = %s AND kind = 'customer'", user_id)
    if account is None:
        raise NoAccount(_g("%(user)s has no account.") % {"user": user_id})
    return account


@transaction.atomic(using="payments")
def deposit(
    *, user_id: str, amount: int, now: datetime, reason: str = "", actor: str = "", request_id: str = ""
) -> Entry:
    """
    Put money on a customer's account. Under the same `request_id` it happens once.

    :raises NoAccount: if there is none
    :raises BalanceTooLarge: if that would be more than an account may hold
    """
    account = account_of(user_id)
    known = _entry_of(request_id)
    if known is not None:
        return known
    entry = move(
        kind=Entry.Kind.DEPOSIT,
        source=system_account(CASH, currency=account.currency),
        target=account,
        amount=amount,
        now=now,
        reason=reason,
        actor=actor,
        request_id=request_id,
    )
    if Account.objects.get(pk=account.pk).balance > LARGEST:
        raise BalanceTooLarge(_g("%(user)s would have more than an account may hold.") % {"user": user_id})
    return entry


@transaction.atomic(using="payments")
def correct(*, user_id: str, amount: int, reason: str, actor: str, now: datetime, request_id: str = "") -> Entry:
    """
    Set a customer's balance right by a new entry, up or (with a negative amount) down, saying who did it and why.

    :raises NoAccount: if there is no account
    :raises InsufficientFunds: if it would fall below zero
    :raises ReasonMissing: without a reason and an actor
    """
    if not (reason.strip() and actor):
        raise ReasonMissing(_g("A correction says who made it and why."))
    account = account_of(user_id)
    known = _entry_of(request_id)
    if known is not None:
        return known
    ours = system_account(CORRECTIONS, currency=account.currency)
    source, target = (ours, account) if amount > 0 else (account, ours)
    return move(
        kind=Entry.Kind.CORRECTION,
        source=source,
        target=target,
        amount=abs(amount),
        now=now,
        reason=reason,
        actor=actor,
        request_id=request_id,
    )


def _entry_of(request_id: str) -> Entry | None:
    """The entry that this request has made, once whoever is making it has done so."""
    if not request_id:
        return None
    take_turn("payments", f"entry {request_id}")
    return Entry.objects.filter(request_id=request_id).first()


@dataclass(frozen=True)
class Money:
    """An amount in minor units of a currency."""

    amount: int
    currency: str


@transaction.atomic(using="payments", savepoint=False)
def charge_account(*, order_id: str, user_id: str | None, money: Money, now: datetime, principal: str = "") -> Payment:
    """
    Take the money of an order from its customer's account, once; a payment that exists already is the answer.

    Another principal's account is no account.
    """
    payment = Payment(
        order_id=order_id,
        method="account",
        user_id=user_id or "",
        amount=money.amount,
        currency=money.currency,
        status=Payment.Status.SUCCEEDED,
    )
    standing = payment.put()
    if standing is payment:
        try:
            _take(payment, principal=principal, now=now)
        except Refusal as refusal:  # said before anything was written
            payment.status, payment.fail_reason = Payment.Status.FAILED, refusal.code
            payment.save(update_fields=["status", "fail_reason"])
    return standing


def _take(payment: Payment, *, principal: str, now: datetime) -> None:
    account = account_of(payment.user_id)
    if account.principal != principal:
        raise NoAccount(f"{payment.user_id} has no account.")
    if account.currency != payment.currency:
        raise CurrencyMismatch(f"{payment.user_id} has an account in {account.currency}.")
    capture(payment, source=account, now=now)


@transaction.atomic(using="payments", savepoint=False)
def give_back(*, order_id: str, now: datetime) -> Payment:
    """
    See to it that no money of this order stays in: never take it, or return it by a new entry, once.

    An order without a payment gets a tombstone, so that a charge that comes later is refused. Where a gateway has to
    be asked, that begins here.
    """
    tombstone = Payment(order_id=order_id, status=Payment.Status.VOIDED)
    payment = Payment.lock(order_id) or tombstone.put()
    if payment.gateway_payment_id or payment.status == Payment.Status.REQUESTED:
        clearing.withdraw(payment, now=now)
    elif payment.status == Payment.Status.SUCCEEDED:
        hand_back(payment, now=now)
        payment.status = Payment.Status.REFUNDED
        payment.save(update_fields=["status", "updated_at"])
    return payment
