"""
Refunds of orders that stay: how much of the money goes back, for which lines, and what became of it.

Payments moves the money, and refuses what was not captured; here it is decided who may ask for how much. An order that
is turned back needs no refund of its own: all of its money goes back by the saga.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_noop

from common import money
from common.authority import Authority
from common.errors import NotDuringUpgrade, Refusal
from common.idempotency import KeyReused
from outbox.ids import uuid7, uuid_of
from payments.messages import PaymentDisputed, RefundFailed, RefundPart, RefundSucceeded
from processing.messages import TakeBack

from . import services, shares, transitions
from .models import Order, OrderLine, Outgoing, Refund, Status

OPEN = (Refund.Status.PENDING, Refund.Status.SUCCEEDED)  # their money is back, or on its way

# Why nothing can be refunded, by the status of the order.
NOT_REFUNDABLE = {
    **dict.fromkeys(
        (Status.PENDING, Status.RESERVED, Status.PAYMENT_PENDING, Status.AUTHORIZED, Status.CAPTURING), "not_paid"
    ),
    **dict.fromkeys((Status.VOIDING, Status.REFUNDING, Status.RELEASING), "being_returned"),
    **dict.fromkeys((Status.CANCELED, Status.FAILED), "nothing_kept"),
}
REFUSALS = {
    "not_paid": gettext_noop("Order %(order)s is not paid. Cancel it instead."),
    "being_returned": gettext_noop("Order %(order)s is being turned back: all of its money goes back."),
    "nothing_kept": gettext_noop("Order %(order)s has ended, and none of its money was kept."),
    "nothing_collected": gettext_noop("Order %(order)s is paid by invoice: no money is collected here."),
}


class NotRefundable(Refusal):
    """No money of this order can be refunded."""

    def __init__(self, code: str, order: Order) -> None:
        super().__init__(_g(REFUSALS[code]) % {"order": order.shown_id})
        self.code = code


class ExceedsCaptured(Refusal):
    """That is more than there is to refund."""

    code = "refund_exceeds_captured"

    def __init__(self, left: int, order: Order) -> None:
        text = money.text(left, currency=order.currency)
        super().__init__(
            _g("Only %(left)s of order %(order)s is left to refund.") % {"left": text, "order": order.shown_id},
            errors={"amount": [_g("%(left)s is left.") % {"left": text}]},
            extra={"left": money.number(left, currency=order.currency)},
        )


class WrongLines(Refusal):
    """These lines cannot be refunded like this."""

    code = "invalid"


class NotSoldYet(Refusal):
    """Stock that is not sold yet cannot come back."""

    code = "not_sold_yet"


class NoSuchRefund(Refusal):
    code = "refund_not_found"


@dataclass(frozen=True)
class Wanted:
    """What to refund: an amount, or lines as quantities by position; without both, all that is left."""

    amount: int | None = None
    lines: Mapping[int, int] | None = None
    restock: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Left:
    """What is refunded of an order, or on its way, and what is left: in minor units, and pieces by their position."""

    before: int
    amount: int
    pieces: Mapping[int, int]


def obstacle(order: Order) -> str:
    """Why no money of an order can be refunded, as a code; empty if some can."""
    is_invoice = order.payment_method == Order.Method.INVOICE
    return "nothing_collected" if is_invoice else NOT_REFUNDABLE.get(Status(order.status), "")


def left_of(order: Order) -> Left:
    """Return what is left to refund of an order that has no obstacle. To decide by it, lock the order first."""
    known = list(order.refunds.filter(status__in=OPEN))
    before, returned = sum(refund.amount for refund in known), _sums(known, "quantity")
    goods = order.lines.filter(kind=OrderLine.Kind.ITEM)
    return Left(
        before=before,
        amount=order.paid - before,
        pieces={line.position: line.quantity - returned.get(line.position, 0) for line in goods},
    )


# Asking -------------------------------------------------------------------------------------------------------------


@transaction.atomic(using="orders")
def ask(
    *,
    order_id: str,
    wanted: Wanted,
    by: Authority,
    now: datetime,
    key: str | None = None,
    if_version: int | None = None,
) -> Refund:
    """
    Have money of an order refunded, and return the refund, which is pending.

    A refund is asked for only once under the same idempotency `key`: the second time, the stored one is returned.

    :param order_id: as it is stored: see `services.stored_id`

    :raises NotRefundable: if the order keeps no money, or not yet
    :raises ExceedsCaptured: if less is left than is wanted
    :raises WrongLines: if there are no such lines, or fewer pieces of them are left
    :raises NotSoldYet: if stock is to come back that is not sold yet
    :raises KeyReused: if another amount was asked for under the key
    :raises transitions.VersionConflict: if the order is at another version
    :raises ReasonMissing: if staff give no reason
    :raises NeedsSecondPerson: if staff have refunded more of the order than one person may
    """
    by.justify(wanted.reason)
    if settings.UPGRADING:
        raise NotDuringUpgrade
    order = transitions.lock(order_id)
    ids = _ids_under(key, order_id=order_id, principal=by.name, now=now)
    since = now - settings.IDEMPOTENCY_RETENTION
    if (stored := order.refunds.filter(pk__in=ids, created_at__gt=since).first()) is not None:
        if wanted.amount not in (None, stored.amount):
            raise KeyReused("This key was already used for another request.")
        return stored
    if if_version is not None and order.version != if_version:
        raise transitions.VersionConflict(order)
    if code := obstacle(order):
        raise NotRefundable(code, order)
    if wanted.restock and order.status != Status.DONE:
        raise NotSoldYet(_g("The stock of order %(order)s is not sold yet.") % {"order": order.shown_id})
    known = list(order.refunds.filter(status__in=OPEN))
    before = sum(refund.amount for refund in known)
    lines, amount = _lines_and_amount(wanted, order, known, left=order.paid - before)
    if lines and not amount:
        raise WrongLines(_g("These pieces cost nothing."), errors={"lines": [_g("These pieces cost nothing.")]})
    if not 0 < amount <= order.paid - before:
        raise ExceedsCaptured(order.paid - before, order)
    by.permit(before + amount, order.currency)  # all refunds of an order count together
    refund = Refund.objects.create(
        refund_id=ids[0],
        order=order,
        amount=amount,
        currency=order.currency,
        reason=wanted.reason[:200],
        lines=lines,
        restock=wanted.restock,
        actor=by.name,
        created_at=now,
        updated_at=now,
    )
    transitions.record(
        order, kind="order.refund_requested", now=now, by=by, note=wanted.reason, about={"refund": told(refund)}
    )
    Outgoing.post(
        RefundPart(
            order_id=order.order_id,
            refund_id=str(refund.refund_id),
            amount=amount,
            currency=order.currency,
            reason=refund.reason,
        )
    )
    return refund


def _ids_under(key: str | None, *, order_id: str, principal: str, now: datetime) -> list[UUID]:
    """
    Return the ids that a refund under this key may have, that of one that is asked for today first.

    # Note [Known by its id]: payments knows a refund by its id, and makes it once. So a client that asks again after
    # orders has forgotten its answer is paid once. See `services.id_under`.
    """
    if key is None:
        return [uuid7()]
    name, days = f"{order_id} {key}", (now.date() - (now - settings.IDEMPOTENCY_RETENTION).date()).days
    return [
        UUID(services.derived_id("orders.refund_id", name, principal=principal, day=now.date() - timedelta(day)))
        for day in range(days + 1)
    ]


def _lines_and_amount(
    wanted: Wanted, order: Order, known: Sequence[Refund], *, left: int
) -> tuple[list[dict[str, int]], int]:
    """Return the lines to refund, as they are stored, and their amount, or the amount that is wanted without any."""
    lines = list(order.lines.all())
    returned = _sums(known, "quantity")
    restocked = _sums(order.refunds.filter(restock=True), "quantity")
    if wanted.lines is not None:
        _check_lines(wanted.lines, lines, returned, restocked=restocked if wanted.restock else None)
        amounts = shares.of_pieces(
            lines, paid=order.paid, wanted=wanted.lines, returned=returned, given_back=_sums(known, "amount")
        )
        stored = [
            {"position": position, "quantity": quantity, "amount": amounts[position]}
            for position, quantity in sorted(wanted.lines.items())
        ]
        return stored, sum(amounts.values())
    if not wanted.restock:
        return [], left if wanted.amount is None else wanted.amount
    if not any(line.product_id for line in lines):
        detail = _g("A line without a product has no stock.")
        raise WrongLines(detail, errors={"restock": [detail]})
    if wanted.amount is not None:
        raise WrongLines(_g("Say which lines go back into stock."), errors={"restock": [_g("Give lines.")]})
    taken = {position: max(returned.get(position, 0), restocked.get(position, 0)) for position in returned | restocked}
    rest = {line.position: line.quantity - taken.get(line.position, 0) for line in lines if line.product_id}
    return [{"position": position, "quantity": quantity} for position, quantity in rest.items() if quantity], left


def _sums(known: Iterable[Refund], name: str) -> dict[int, int]:
    """The quantities or the amounts of the lines that have been refunded, by position."""
    sums: dict[int, int] = {}
    for refund in known:
        for line in refund.lines:
            sums[line["position"]] = sums.get(line["position"], 0) + line.get(name, 0)
    return sums


def _check_lines(
    wanted: Mapping[int, int],
    lines: Sequence[OrderLine],
    returned: Mapping[int, int],
    *,
    restocked: Mapping[int, int] | None,
) -> None:
    """Check the pieces that are wanted; `restocked` are those in stock again, if these are to go back as well."""
    goods = {line.position: line for line in lines if line.kind == OrderLine.Kind.ITEM}
    errors: dict[str, list[str]] = {}
    for number, (position, quantity) in enumerate(wanted.items()):
        line, where = goods.get(position), f"lines[{number}]"
        if line is None:
            errors[f"{where}.position"] = [_g("There is no line of goods at this position.")]
        elif quantity > (left := line.quantity - returned.get(position, 0)):
            errors[f"{where}.quantity"] = [_g("%(left)d of them are left to refund.") % {"left": left}]
        elif restocked is not None and line.product_id is None:
            errors[f"{where}.position"] = [_g("A line without a product has no stock.")]
        elif restocked is not None and quantity > (left := line.quantity - restocked.get(position, 0)):
            errors[f"{where}.quantity"] = [_g("%(left)d of them can still go back into stock.") % {"left": left}]
    if errors:
        reasons = dict.fromkeys(reason for found in errors.values() for reason in found)
        raise WrongLines(" ".join([_g("These lines cannot be refunded like this."), *reasons]), errors=errors)


def told(refund: Refund) -> dict[str, Any]:
    """What the history and the events of an order tell of a refund; the amount is in minor units."""
    return {
        "refund_id": str(refund.refund_id),
        "amount": refund.amount,
        "currency": refund.currency,
        "status": str(refund.status),
        "reason": refund.reason,
        "fail_code": refund.fail_code or None,
        "lines": refund.lines,
        "restock": refund.restock,
    }


# What became of it --------------------------------------------------------------------------------------------------


@transaction.atomic(using="orders", savepoint=False)
def succeeded(event: RefundSucceeded, *, now: datetime) -> None:
    """
    Record that a part of the money is back. A refund that was made at the gateway is not known here before.

    A failure is the last word, as in payments: a success that comes after it was overtaken.
    """
    order = transitions.lock(event.order_id)
    refund = _refund(event, order, now=now, reason=event.reason)
    is_new = refund.status == Refund.Status.PENDING
    refunded = transitions.refunded_by(event, order, change=refund.amount if is_new else 0)
    if not is_new:
        _correct(order, event, refunded, now=now)
        return
    _become(refund, Refund.Status.SUCCEEDED, now=now)
    transitions.record(
        order,
        kind=event.type,
        changes={"refunded": refunded},
        fact="refunded",
        now=now,
        about={"refund": told(refund)},
    )
    take_back(refund, order)


def take_back(refund: Refund, order: Order) -> None:
    """Have the pieces of a refund put back into stock, if they are to go there; asked for twice, it is done once."""
    if refund.restock and (quantities := _products(refund, order)):
        Outgoing.post(
            TakeBack(
                order_id=order.order_id,
                hold_id=str(order.hold_id),
                request_id=str(refund.refund_id),
                quantities=quantities,
            )
        )


@transaction.atomic(using="orders", savepoint=False)
def failed(event: RefundFailed, *, now: datetime) -> None:
    """
    Record that a part of the money did not go back, perhaps after it was said to have.

    Pieces that are in stock again stay there, and `restock` says so: they cannot go back a second time.
    """
    order = transitions.lock(event.order_id)
    refund = _refund(event, order, now=now)
    was_back = refund.status == Refund.Status.SUCCEEDED
    refunded = transitions.refunded_by(event, order, change=-refund.amount if was_back else 0)
    if refund.status == Refund.Status.FAILED:
        _correct(order, event, refunded, now=now)
        return
    refund.restock = refund.restock and was_back
    _become(refund, Refund.Status.FAILED, now=now, fail_code=event.code)
    changes = {"refunded": refunded} if refunded != order.refunded else {}
    transitions.record(
        order, kind=event.type, changes=changes, fact="refund_failed", now=now, about={"refund": told(refund)}
    )


def _correct(order: Order, event: RefundSucceeded | RefundFailed, refunded: int, *, now: datetime) -> None:
    """Record how much is back if an event that tells nothing else says so."""
    if refunded != order.refunded:
        transitions.record(order, kind=event.type, changes={"refunded": refunded}, now=now)


@transaction.atomic(using="orders", savepoint=False)
def disputed(event: PaymentDisputed, *, now: datetime) -> None:
    """Record that the payer's bank wants the money of an order back, or what came of it. The order stays as it is."""
    told = {name: getattr(event, name) for name in ("dispute_id", "status", "amount", "currency", "reason")}
    order = transitions.lock(event.order_id)
    transitions.record(order, kind=event.type, fact="disputed", now=now, about={"dispute": told})


def _refund(event: RefundSucceeded | RefundFailed, order: Order, *, now: datetime, reason: str = "") -> Refund:
    return Refund.objects.get_or_create(
        refund_id=uuid_of(event.refund_id),
        defaults={
            "order": order,
            "amount": event.amount,
            "currency": event.currency,
            "reason": reason[:200],
            "created_at": now,
            "updated_at": now,
        },
    )[0]


def _become(refund: Refund, status: Refund.Status, *, now: datetime, fail_code: str = "") -> None:
    refund.status, refund.fail_code, refund.updated_at = status, fail_code[:50], now
    refund.save(update_fields=["status", "fail_code", "restock", "updated_at"])


def _products(refund: Refund, order: Order) -> dict[str, int]:
    """How much of each product comes back with a refund."""
    quantities = {line["position"]: line["quantity"] for line in refund.lines}
    return {
        str(line.product_id): quantities[line.position]
        for line in order.lines.filter(position__in=quantities)
        if line.product_id is not None
    }


# Reading ------------------------------------------------------------------------------------------------------------


def refund_of(order: Order, refund_id: str) -> Refund:
    """
    Return one refund of an order.

    :raises NoSuchRefund: if it has no such one
    """
    refund = order.refunds.filter(pk=refund_id).first()
    if refund is None:
        raise NoSuchRefund("There is no such refund.")
    return refund
