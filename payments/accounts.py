"""Customers' accounts: opening one, finding the one that is meant, and deposits and corrections."""

from collections.abc import Sequence
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _g

from common.authority import SYSTEM, Authority, ReasonMissing
from common.errors import NotDuringUpgrade, Refusal
from common.locks import take_turn
from common.money import LARGEST

from .ledger import CASH, CORRECTIONS, move, system_account
from .models import ROWS, Account, Entry


class NoAccount(Refusal):
    """The principal has no account of this user."""

    code = "no_account"


class CurrencyMismatch(Refusal):
    """The user has accounts in other currencies only."""

    code = "currency_mismatch"


class AccountTaken(Refusal):
    """Another principal has an account of this name, and processes of the release before can't tell them apart."""

    code = "account_taken"


class BalanceTooLarge(Refusal):
    """The balance would exceed what an account may hold."""

    code = "balance_too_large"


class RequestIdReused(Refusal):
    """Another deposit or correction was made under this request id."""

    code = "request_id_reused"


def open_account(*, user_id: str, principal: str = "", currency: str | None = None) -> tuple[Account, bool]:
    """
    Return this principal's account of the user in a currency, and whether it was created by this call.

    :param currency: the default one, if it is not given
    :raises AccountTaken: during an upgrade, if another principal has one of this name
    :raises NotDuringUpgrade: if it would be in another currency than the default, or than the one that the user has
    """
    currency = currency or settings.CURRENCY
    customers = Account.objects.filter(user_id=user_id, kind=Account.Kind.CUSTOMER)
    own = customers.filter(principal=principal, currency=currency)
    if settings.UPGRADING and not own.exists():
        if customers.exclude(principal=principal).exists():
            raise AccountTaken(_g("Another client has an account of this name. Try again after the upgrade."))
        # In the default currency a process of the release before may be opening one at this moment.
        if currency != settings.CURRENCY or customers.exists():
            raise NotDuringUpgrade
    return Account.objects.get_or_create(
        user_id=user_id, principal=principal, currency=currency, kind=Account.Kind.CUSTOMER
    )


def account_of(user_id: str, *, principal: str = "", currency: str = "") -> Account:
    """
    Return this principal's account of the user. User ids are names that each principal gives for itself.

    :param currency: of the account; without one it is the only account, or of several the one in the default currency
    :raises NoAccount: if there is none
    :raises CurrencyMismatch: if there are only accounts in other currencies
    """
    found = accounts_of([(user_id, principal)])
    return pick(found.get((user_id, principal), ()), user_id=user_id, currency=currency)


OF = "WHERE user_id = ANY(%s) AND principal = ANY(%s) AND kind = %s"


def accounts_of(users: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[Account]]:
    """Return the accounts of these users of principals; those who have none are left out."""
    names, principals = sorted({name for name, _ in users}), sorted({principal for _, principal in users})
    found: dict[tuple[str, str], list[Account]] = {}
    for account in ROWS.select(Account, OF, names, principals, Account.Kind.CUSTOMER):
        found.setdefault((account.user_id, account.principal), []).append(account)
    return {user: found[user] for user in users if user in found}


def pick(accounts: Sequence[Account], *, user_id: str, currency: str = "") -> Account:
    """
    Return the one of a user's accounts that is meant: see `account_of`.

    :raises NoAccount: if there is none
    :raises CurrencyMismatch: if there are only accounts in other currencies
    """
    if not accounts:
        raise NoAccount(_g("%(user)s has no account.") % {"user": user_id})
    if len(accounts) == 1 and not currency:
        return accounts[0]
    wanted = currency or settings.CURRENCY
    for account in accounts:
        if account.currency == wanted:
            return account
    others = ", ".join(sorted(account.currency for account in accounts))
    raise CurrencyMismatch(
        _g("%(user)s has no account in %(wanted)s, but in %(others)s.")
        % {"user": user_id, "wanted": wanted, "others": others}
    )


@transaction.atomic(using="payments")
def deposit(
    *,
    user_id: str,
    amount: int,
    now: datetime,
    principal: str = "",
    currency: str = "",
    reason: str = "",
    by: Authority = SYSTEM,
    request_id: str = "",
) -> Entry:
    """
    Put money on a customer's account and return the entry. The same `request_id` has the same entry.

    :param currency: of the account, of which a user may have several: see `account_of`
    :raises NoAccount: if there is no account
    :raises CurrencyMismatch: if there are only accounts in other currencies
    :raises BalanceTooLarge: if the balance would exceed what an account may hold
    :raises RequestIdReused: if another amount or account was named under the request id
    :raises ReasonMissing: if staff give no reason
    :raises NeedsSecondPerson: if one person may not deposit this amount alone
    """
    by.justify(reason)
    account = account_of(user_id, principal=principal, currency=currency)
    entry = _moved(
        Entry.Kind.DEPOSIT,
        source=system_account(CASH, currency=account.currency),
        target=account,
        amount=amount,
        reason=reason,
        by=by,
        now=now,
        request_id=request_id,
    )
    if Account.objects.get(pk=account.pk).balance > LARGEST:
        raise BalanceTooLarge(_g("The account of %(user)s would hold more than an account may.") % {"user": user_id})
    return entry


@transaction.atomic(using="payments")
def correct(
    *,
    user_id: str,
    amount: int,
    reason: str,
    by: Authority,
    now: datetime,
    principal: str = "",
    currency: str = "",
    request_id: str = "",
) -> Entry:
    """
    Correct a customer's balance by a new entry, up or (with a negative amount) down, and return the entry.

    :param currency: of the account, of which a user may have several: see `account_of`
    :raises NoAccount: if there is no account
    :raises CurrencyMismatch: if there are only accounts in other currencies
    :raises InsufficientFunds: if the balance would fall below zero
    :raises RequestIdReused: if another amount or account was named under the request id
    :raises ReasonMissing: without a reason and a name
    :raises NeedsSecondPerson: if one person may not correct by this amount alone
    """
    if not (reason.strip() and by.name):
        raise ReasonMissing(_g("A correction needs a reason and the name of who makes it."))
    account = account_of(user_id, principal=principal, currency=currency)
    system = system_account(CORRECTIONS, currency=account.currency)
    source, target = (system, account) if amount > 0 else (account, system)
    return _moved(
        Entry.Kind.CORRECTION,
        source=source,
        target=target,
        amount=abs(amount),
        reason=reason,
        by=by,
        now=now,
        request_id=request_id,
    )


def _moved(
    kind: Entry.Kind,
    *,
    source: Account,
    target: Account,
    amount: int,
    reason: str,
    by: Authority,
    now: datetime,
    request_id: str,
) -> Entry:
    """Move the money unless that was done under the request id, and return the entry."""
    if (known := _entry_of(request_id)) is not None:
        if (known.kind, known.source_id, known.target_id, known.amount) != (kind, source.pk, target.pk, amount):
            raise RequestIdReused(_g("Another amount was moved under this request id."))
        return known
    by.permit(amount, source.currency)
    return move(
        kind=kind,
        source=source,
        target=target,
        amount=amount,
        now=now,
        reason=reason,
        actor=by.name,
        request_id=request_id,
    )


def _entry_of(request_id: str) -> Entry | None:
    """Return the entry of this request, after waiting for a transaction that is making it."""
    if not request_id:
        return None
    take_turn("payments", f"entry {request_id}")
    return Entry.objects.filter(request_id=request_id).first()
