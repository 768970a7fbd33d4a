"""
The refund of all that is left of a payment, while it is `refunding`: its name, and what becomes of it.

Orders asks for it when it turns an order back. What goes back is what was captured, without the parts that went back or
are on their way; if one of those fails, the rest follows in a refund of its own. So a payment may have several, one
after the other.

# Note [A refund is known by its name]: each attempt has another idempotency key, which is also our name of the refund
at the gateway. So whatever order replies and webhooks come in, and even if a reply was lost, a refund is recognized;
the ledger says whether it has been recorded already. The previous release gave its refunds no name. The only refund
without one that tells our order is such a refund.
"""

from collections.abc import Iterable

from django.db.models import QuerySet

from . import ledger
from .gateways.base import RefundAnswer, RefundStatus
from .lifecycle import Event
from .models import Entry, Payment


def name(payment: Payment) -> str:
    """Return the name of the refund that is to be made now."""
    number = payment.refusals + payment.broken + _returns(payment).filter(kind=Entry.Kind.REFUND).count()
    return f"{payment.reference}.refund" + (f".{number}" if number else "")


def is_ours(payment: Payment, refund: RefundAnswer) -> bool:
    """Return whether this refund is one of all that was left, and no part."""
    first = f"{payment.reference}.refund"
    if refund.refund_id:
        return refund.refund_id == first or refund.refund_id.startswith(f"{first}.")
    if payment.gateway_refund_id:
        return refund.gateway_refund_id == payment.gateway_refund_id
    return (
        payment.status in (Payment.Status.REFUNDING, Payment.Status.REFUNDED) and refund.order_id == payment.reference
    )


def current(payment: Payment, made: Iterable[RefundAnswer]) -> RefundAnswer | None:
    """
    Return the refund that is being made now, of those that the gateway has made of this payment; None if there is none.

    It may have another name than the next one would have, if the gateway made it and then answered with an error.
    """
    for refund in made:
        if is_ours(payment, refund) and event(payment, refund) is not None:
            return refund
    return None


def event(payment: Payment, refund: RefundAnswer, *, is_webhook: bool = False) -> Event | None:
    """
    Return what this refund, one of ours, means for the payment; None if nothing new.

    A webhook may be overtaken by the one that says the refund has failed after all. So it is believed about the refund
    that is being made now only; about an earlier one, the gateway is asked. Nobody asks where a person decides: what
    says there that money went back, and is not known to have failed since, is different from what is known.
    """
    recorded = _recorded(payment, refund)
    if refund.status == RefundStatus.FAILED:
        if recorded == Entry.Kind.REFUND:
            return Event.RETURN_UNDONE
        # One without a name is told apart by no number: once a refusal is known, it is an old one.
        is_current = refund.refund_id == name(payment) or (not refund.refund_id and not payment.refusals)
        return Event.RETURN_FAILED if recorded is None and is_current else None
    if recorded is not None:
        return None
    if refund.status == RefundStatus.PENDING:
        return Event.RETURN_PENDING
    if is_webhook and refund.refund_id != name(payment):
        is_news = _is_by_hand(payment) and refund.gateway_refund_id != payment.gateway_refund_id
        return Event.DIFFERENT if is_news else Event.RETURN_PENDING
    kept = ledger.of_order(payment.order_id).kept
    if refund.amount > kept or refund.currency != payment.currency:
        return Event.DIFFERENT
    return Event.RETURNED if refund.amount == kept else Event.RETURNED_IN_PART


def _is_by_hand(payment: Payment) -> bool:
    """Return whether a person decides, or has decided, how the money goes back."""
    settled = payment.status == Payment.Status.REFUNDED and bool(payment.settled_by)
    return settled or payment.status == Payment.Status.REFUND_REFUSED


def _recorded(payment: Payment, refund: RefundAnswer) -> str | None:
    """Return the kind of the last entry of this refund."""
    entries = _returns(payment)
    found = entries.filter(gateway_id=refund.gateway_refund_id).order_by("-id").first()
    if found is None and payment.status == Payment.Status.REFUNDED and not payment.settled_by:
        # Recorded when the gateway had nothing left to return, or by the previous release: without its id.
        found = entries.filter(gateway_id="").order_by("-id").first()
    return found.kind if found else None


def _returns(payment: Payment) -> QuerySet[Entry]:
    """The entries of refunds of all that was left."""
    kinds = (Entry.Kind.REFUND, Entry.Kind.REFUND_FAILED)
    return Entry.objects.filter(order_id=payment.order_id, kind__in=kinds, refund_id=None)
