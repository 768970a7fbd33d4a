"""The ledger: the system's own accounts, and the entries that move money between accounts."""

from datetime import datetime

from django.utils.translation import gettext as _g

from common.errors import Refusal
from outbox.store import Statement

from .models import ROWS, Account, Entry, Payment

CASH = "cash"  # the outside world: money comes from it by deposits and gateways, and goes back to it
REVENUE = "revenue"  # what customers have paid
CORRECTIONS = "corrections"  # the other side of operators' corrections

BALANCE = "UPDATE payments_account SET balance = balance + %s WHERE id = %s AND balance + %s >= 0"


class InsufficientFunds(Refusal):
    """The account has less money than is to be taken from it."""

    code = "insufficient_funds"


def system_account(name: str, *, currency: str) -> Account:
    """Return one of the system's own accounts, which is created when it is first needed."""
    known = ROWS.first(
        Account, "WHERE user_id = %s AND kind = %s AND currency = %s", name, Account.Kind.SYSTEM, currency
    )
    return known or Account.objects.get_or_create(user_id=name, kind=Account.Kind.SYSTEM, currency=currency)[0]


def move(
    *,
    kind: Entry.Kind,
    source: Account,
    target: Account,
    amount: int,
    now: datetime,
    order_id: str = "",
    reason: str = "",
    actor: str = "",
    request_id: str = "",
) -> Entry:
    """
    Move money between the system and a customer, or within the system, and return the entry that does it.

    :raises InsufficientFunds: if the customer has less than that; then nothing was written
    """
    entry = Entry(
        kind=kind,
        source=source,
        target=target,
        amount=amount,
        currency=source.currency,
        order_id=order_id,
        reason=reason,
        actor=actor,
        request_id=request_id,
        at=now,
    )
    customer, change = (source, -amount) if source.kind == Account.Kind.CUSTOMER else (target, amount)
    if customer.kind == Account.Kind.CUSTOMER:
        stored = ROWS.insert_if(Statement(BALANCE, [change, customer.pk, change]), entry)
    else:
        stored = ROWS.insert(entry)
    if ROWS.run(stored) != [1]:
        raise InsufficientFunds(_g("The account of %(user)s has less money than that.") % {"user": source.user_id})
    return entry


def capture(payment: Payment, *, source: Account, now: datetime) -> None:
    """
    Take the money of an order, once: the database refuses a second time.

    :raises InsufficientFunds: if the source is a customer's and has less than that
    """
    if payment.amount:
        move(
            kind=Entry.Kind.CHARGE,
            source=source,
            target=system_account(REVENUE, currency=payment.currency),
            amount=payment.amount,
            now=now,
            order_id=payment.order_id,
        )


def hand_back(payment: Payment, *, now: datetime) -> None:
    """Give back what was taken for an order, to where it came from, once: the database refuses a second time."""
    charged = Entry.objects.select_related("source", "target").filter(order_id=payment.order_id, kind=Entry.Kind.CHARGE)
    for entry in charged:
        move(
            kind=Entry.Kind.REFUND,
            source=entry.target,
            target=entry.source,
            amount=entry.amount,
            now=now,
            order_id=payment.order_id,
        )
