"""The ledger: the system's own accounts, and the entries that move money between accounts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.db import connections
from django.db.models import Sum
from django.utils.translation import gettext as _g

from common.errors import Refusal
from outbox.store import Statement

from .models import ROWS, Account, Entry, Payment, Refund

CASH = "cash"  # the outside world: money comes from it by deposits and gateways, and goes back to it
REVENUE = "revenue"  # what customers have paid
CORRECTIONS = "corrections"  # the other side of operators' corrections
DISPUTES = "disputes"  # what payers' banks have taken back, until it is decided
FEES = "fees"  # what gateways have kept

BALANCE = "UPDATE payments_account SET balance = balance + %s WHERE id = %s AND balance + %s >= 0"


class InsufficientFunds(Refusal):
    """The account has less money than is to be taken from it."""

    code = "insufficient_funds"

    @classmethod
    def of(cls, user_id: str) -> Self:
        return cls(_g("The account of %(user)s has less money than that.") % {"user": user_id})


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
    refund_id: UUID | None = None,
    gateway_id: str = "",
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
        refund_id=refund_id,
        gateway_id=gateway_id,
        at=now,
    )
    customer, change = (source, -amount) if source.kind == Account.Kind.CUSTOMER else (target, amount)
    if customer.kind == Account.Kind.CUSTOMER:
        stored = ROWS.insert_if(Statement(BALANCE, [change, customer.pk, change]), entry)
    else:
        stored = ROWS.insert(entry)
    if ROWS.run(stored) != [1]:
        raise InsufficientFunds.of(source.user_id)
    return entry


def capture(payment: Payment, *, source: Account, amount: int, now: datetime) -> None:
    """
    Take the money of an order, once: the database refuses a second time.

    :raises InsufficientFunds: if the source is a customer's and has less than that
    """
    if amount:
        move(
            kind=Entry.Kind.CHARGE,
            source=source,
            target=system_account(REVENUE, currency=payment.currency),
            amount=amount,
            now=now,
            order_id=payment.order_id,
        )


OWNED = "WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE"
TAKEN = """
UPDATE payments_account account SET balance = account.balance - taken.amount
FROM unnest(%s::uuid[], %s::bigint[]) AS taken(id, amount) WHERE account.id = taken.id
"""


def capture_all(charges: Sequence[tuple[Payment, Account]], *, now: datetime) -> set[str]:
    """
    Do what `capture` does for several orders of customers; return the orders whose customer has less than that.

    The accounts are locked in the order of their ids, which is that of everybody who locks several.
    """
    charges = [(payment, source) for payment, source in charges if payment.amount]
    if not charges:
        return set()
    keys = sorted({source.pk for _payment, source in charges})
    left = {account.pk: account.balance for account in ROWS.select(Account, OWNED, keys)}
    targets = {code: system_account(REVENUE, currency=code) for code in {source.currency for _p, source in charges}}
    entries: list[Entry] = []
    taken: dict[Any, int] = defaultdict(int)
    lacking: set[str] = set()
    for payment, source in charges:
        if left[source.pk] < payment.amount:
            lacking.add(payment.order_id)
            continue
        left[source.pk] -= payment.amount
        taken[source.pk] += payment.amount
        entries.append(
            Entry(
                kind=Entry.Kind.CHARGE,
                source=source,
                target=targets[source.currency],
                amount=payment.amount,
                currency=source.currency,
                order_id=payment.order_id,
                at=now,
            )
        )
    if entries:
        ROWS.run(ROWS.insert(*entries), Statement(TAKEN, [list(taken), list(taken.values())]))
    return lacking


def hand_back(
    payment: Payment, *, amount: int, now: datetime, refund_id: UUID | None = None, gateway_id: str = ""
) -> None:
    """Give back this much of what was taken for an order, to where it came from."""
    charge = _charge_of(payment.order_id)
    if charge is not None and amount:
        move(
            kind=Entry.Kind.REFUND,
            source=charge.target,
            target=charge.source,
            amount=amount,
            now=now,
            order_id=payment.order_id,
            refund_id=refund_id,
            gateway_id=gateway_id,
        )


def take_back(
    payment: Payment, *, amount: int, now: datetime, refund_id: UUID | None = None, gateway_id: str = ""
) -> None:
    """Record that this much, which was given back before, has not reached whoever paid it."""
    charge = _charge_of(payment.order_id)
    assert charge is not None
    move(
        kind=Entry.Kind.REFUND_FAILED,
        source=charge.source,
        target=charge.target,
        amount=amount,
        now=now,
        order_id=payment.order_id,
        refund_id=refund_id,
        gateway_id=gateway_id,
    )


def _charge_of(order_id: str) -> Entry | None:
    """Return the entry by which the money of an order was taken."""
    return Entry.objects.select_related("source", "target").filter(order_id=order_id, kind=Entry.Kind.CHARGE).first()


@dataclass(frozen=True, kw_only=True)
class MoneyOfOrder:
    """What the ledger says of the money of an order, in minor units."""

    captured: int = 0
    refunded: int = 0  # without what did not reach the payer
    disputed: int = 0  # by disputes that are open
    lost: int = 0  # by disputes that were lost

    @property
    def kept(self) -> int:
        """What has not gone back, be it disputed or not."""
        return self.captured - self.refunded - self.lost


def left(payment: Payment) -> int:
    """Return how much of what was captured can still go back: it is not back, not on its way and not disputed."""
    money = of_order(payment.order_id)
    on_its_way = payment.refunds.filter(status__in=Refund.OPEN).aggregate(sum=Sum("amount"))["sum"] or 0
    return max(0, money.kept - money.disputed - on_its_way)  # what went back by hand can be on its way here as well


OF_ORDER = "SELECT kind, sum(amount)::bigint FROM payments_entry WHERE order_id = %s GROUP BY kind"


def of_order(order_id: str) -> MoneyOfOrder:
    """Return what was taken and given back for an order: the sums of its entries."""
    with connections["payments"].cursor() as cursor:
        cursor.execute(OF_ORDER, [order_id])
        sums: defaultdict[str, int] = defaultdict(int, cursor.fetchall())
    kinds = Entry.Kind
    return MoneyOfOrder(
        captured=sums[kinds.CHARGE],
        refunded=sums[kinds.REFUND] - sums[kinds.REFUND_FAILED],
        disputed=sums[kinds.DISPUTE] - sums[kinds.DISPUTE_WON] - sums[kinds.DISPUTE_LOST],
        lost=sums[kinds.DISPUTE_LOST],
    )
