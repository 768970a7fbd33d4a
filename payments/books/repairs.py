"""What can be done about a difference: have happen what the gateway says, have money refunded, or accept it."""

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _g

from common.authority import Authority, ReasonMissing
from common.errors import Refusal
from common.money import Money

from .. import decisions, gateway_calls, gateways, receipts, returns, services
from ..gateways.base import (
    Answer,
    DisputeAnswer,
    DisputeStatus,
    Gateway,
    GatewayRefused,
    GatewayUnavailable,
    RefundAnswer,
    RefundStatus,
)  # fmt: skip
from ..gateways.base import Status as GatewayStatus
from ..models import Difference, GatewayTransaction, Payment, WebhookReceipt

Kind, Status = Difference.Kind, Difference.Status

REPAIR = "manage.py reconcile --repair {id}"
ADVICE = {
    Kind.MISSING_HERE: f"{REPAIR}: what the gateway says of the payment happens to it, as by a webhook",
    Kind.UNKNOWN_PAYMENT: (
        f"{REPAIR}: the order that it names gets it; or --refund {{id}} --why REASON; or --accept {{id}} --why REASON"
    ),
    Kind.MISSING_THERE: f"{REPAIR}: the gateway is asked about the payment; or --accept {{id}} --why REASON",
    Kind.DIFFERING: "find out which is right, and correct the other; then --accept {id} --why REASON",
}


class NotOpen(Refusal):
    """The difference has been repaired or accepted."""

    code = "difference_not_open"


class CannotAsk(Refusal):
    """Nobody can be asked about this difference."""

    code = "gateway_cannot_be_asked"


class NotStrayMoney(Refusal):
    """The difference is not about money that came in for no payment."""

    code = "money_is_not_stray"


class OrderIsPaidOtherwise(Refusal):
    """The order that the gateway names has another payment, or is not ours."""

    code = "order_has_another_payment"


def repair(*, difference_id: UUID | str, now: datetime) -> str:
    """
    Ask the gateway about the payment of a difference, have what it says happen as if its webhooks had come, and return
    what was done. Call it outside of any transaction. A later run closes the difference if both agree then.

    :raises NotOpen: if it has been repaired or accepted
    :raises CannotAsk: if there is no payment to ask about, or the gateway does not answer
    :raises OrderIsPaidOtherwise: if the payment is unknown, and no order here can have it
    """
    return apply(difference_id=difference_id, said=ask(difference_id=difference_id), now=now)


@dataclass(frozen=True)
class Said:
    """What a gateway says of a payment: the payment, and its refunds and disputes."""

    answer: Answer
    about: tuple[receipts.Content, ...]


def ask(*, difference_id: UUID | str) -> Said:
    """Ask the gateway about the payment of a difference: see `repair`."""
    difference = _open(difference_id)
    if difference.kind == Kind.DIFFERING:
        raise CannotAsk(_g("Both sides have it, with different amounts: the gateway has nothing to add."))
    if difference.gateway not in gateways.GATEWAYS:
        raise CannotAsk(_g("%(gateway)s is known by files only.") % {"gateway": difference.gateway})
    gateway = gateways.get(difference.gateway)
    try:
        answer = _answer(gateway, difference)
        returned = gateway.refunds(payment_id=answer.payment_id) if answer is not None else []
    except (GatewayRefused, GatewayUnavailable) as error:
        raise CannotAsk(_g("The gateway does not say what it has: %(error)s") % {"error": error}) from error
    if answer is None:
        raise CannotAsk(_g("The gateway knows no such payment."))
    return Said(answer, (answer, *returned, *_disputes(difference, answer)))


def _answer(gateway: Gateway, difference: Difference) -> Answer | None:
    """
    Return the payment as it was when its money came in. What went back since is said of each refund.
    """
    if difference.payment_id:
        answer = gateway.status(payment_id=difference.payment_id)
    else:
        payment = Payment.objects.filter(pk=difference.order_id).first()
        answer = gateway.status(order_id=payment.reference) if payment else None
    if answer is not None and answer.status == GatewayStatus.REFUNDED:
        return replace(answer, status=GatewayStatus.SUCCEEDED)
    return answer


def _disputes(difference: Difference, answer: Answer) -> list[DisputeAnswer]:
    """Return the disputes of a payment, by what the gateway has booked for them."""
    booked = GatewayTransaction.objects.filter(gateway=difference.gateway, payment_id=answer.payment_id)
    states = {"dispute": DisputeStatus.OPENED, "dispute_won": DisputeStatus.WON}
    return [
        DisputeAnswer(
            dispute_id=one.source_id,
            payment_id=answer.payment_id,
            order_id=answer.order_id,
            status=states[one.kind],
            amount=one.amount,
            currency=one.currency,
        )
        for one in booked.filter(kind__in=states).exclude(source_id="").order_by("at", "pk")
    ]


@transaction.atomic(using="payments")
def apply(*, difference_id: UUID | str, said: Said, now: datetime) -> str:
    """Have happen what the gateway has said: see `repair`."""
    difference = _open(difference_id, lock=True)
    if difference.kind == Kind.UNKNOWN_PAYMENT and not _is_known(difference):
        _adopt(said.answer, gateway=difference.gateway, now=now)
    payment = Payment.objects.filter(gateway=difference.gateway, gateway_payment_id=said.answer.payment_id).first()
    stored = []
    for about in said.about:
        if payment is not None and isinstance(about, RefundAnswer) and _is_forgotten(payment, about):
            # The payment begins to go back once more, and the gateway says then that it is back.
            services.give_back(order_id=payment.order_id, now=now)
        else:
            stored.append(receipts.report(gateway=difference.gateway, about=about, now=now))
    difference.tried_at = now
    difference.save(update_fields=["tried_at"])
    kept = [receipt for receipt in stored if receipt.status == WebhookReceipt.Status.QUARANTINED]
    if kept:
        return _g("What the gateway says contradicts the payment: decide about the webhook %(webhook)s.") % {
            "webhook": kept[0].webhook_id
        }
    return _g("The gateway says that the payment %(payment)s is %(status)s; what follows from it is being done.") % {
        "payment": said.answer.payment_id,
        "status": said.answer.status,
    }


def _is_forgotten(payment: Payment, refund: RefundAnswer) -> bool:
    """Return whether all that was left went back, and the payment does not know that this was asked for."""
    return (
        payment.status in (*Payment.PAYABLE, Payment.Status.AUTHORIZED, Payment.Status.SUCCEEDED)
        and returns.is_ours(payment, refund)
        and refund.status == RefundStatus.SUCCEEDED
    )


def _is_known(difference: Difference) -> bool:
    return Payment.objects.filter(gateway=difference.gateway, gateway_payment_id=difference.payment_id).exists()


def _adopt(answer: Answer, *, gateway: str, now: datetime) -> None:
    """
    Let the order that a payment names have it: it has none here, as after a restore to an earlier time.

    :raises OrderIsPaidOtherwise: if it has one, or belongs to another installation
    """
    installation, _colon, order_id = answer.order_id.rpartition(":")
    is_ours = installation == settings.INSTALLATION and gateway == settings.PAYMENT_GATEWAY and order_id
    if not is_ours or settings.UPGRADING or Payment.lock(order_id) is not None:
        raise OrderIsPaidOtherwise(
            _g("No order here can have this payment: it names %(order)s. Have it refunded, or accept it.")
            % {"order": answer.order_id or _g("none")}
        )
    if answer.status != GatewayStatus.SUCCEEDED:
        raise CannotAsk(_g("The gateway has no money of this payment: it is %(status)s.") % {"status": answer.status})
    services.charge_gateway(order_id=order_id, money=Money(answer.amount, answer.currency), now=now)
    reply = gateway_calls.GatewayReply(Payment.Status.REQUESTED, answer=answer)
    gateway_calls.record(order_id=order_id, reply=reply, now=now)


@dataclass(frozen=True)
class Stray:
    """Money that came in for no payment: the receipt that stands for it, and how much of it the gateway has."""

    receipt_id: str
    money: Money


def stray(*, difference_id: UUID | str, now: datetime) -> Stray:
    """
    Ask the gateway how much it has of the money of an unknown payment. Call it outside of any transaction.

    :raises NotOpen: if the difference has been repaired or accepted
    :raises NotStrayMoney: if it is not about money that came in for no payment
    :raises CannotAsk: if the gateway knows no such payment, or does not answer
    :raises decisions.NoMoney: if the gateway has none of it
    """
    difference = _open(difference_id)
    if difference.kind != Kind.UNKNOWN_PAYMENT or difference.what != GatewayTransaction.Kind.CHARGE:
        raise NotStrayMoney(_g("This is not about money that came in for no payment."))
    receipt = receipts.report(
        gateway=difference.gateway,
        about=ask(difference_id=difference_id).answer,
        now=now,
        status=WebhookReceipt.Status.QUARANTINED,
    )
    return Stray(str(receipt.pk), decisions.money_at_gateway(receipt_id=str(receipt.pk)))


def refund(*, difference_id: UUID | str, reason: str, by: Authority, now: datetime) -> str:
    """
    Have the gateway refund the money of an unknown payment, and return what was done. The next run closes the
    difference. Call it outside of any transaction.

    :raises ReasonMissing: without a reason
    :raises NeedsSecondPerson: if one person may not refund this amount alone
    :raises NotOpen, NotStrayMoney, CannotAsk, decisions.NoMoney: see `stray`
    """
    by.justify(reason)
    return refund_stray(stray(difference_id=difference_id, now=now), reason=reason, by=by)


def refund_stray(found: Stray, *, reason: str, by: Authority) -> str:
    """Have the gateway refund money that came in for no payment: see `refund`."""
    decisions.refund(receipt_id=found.receipt_id, money=found.money, reason=reason, by=by)
    return _g("The gateway is being asked to refund the money.")


@transaction.atomic(using="payments")
def accept(*, difference_id: UUID | str, reason: str, by: Authority, now: datetime) -> Difference:
    """
    Leave a difference as it is, and return it. If it changes, a run opens it again.

    :raises NotOpen: if it has been repaired or accepted
    :raises ReasonMissing: without a reason
    :raises NeedsSecondPerson: if one person may not accept this amount alone
    """
    if not reason.strip():
        raise ReasonMissing(_g("Give a reason."), errors={"reason": [_g("Give a reason.")]})
    difference = _open(difference_id, lock=True)
    stake = at_stake(difference)
    by.permit(stake.amount, stake.currency)
    difference.status, difference.closed_at = Status.ACCEPTED, now
    difference.closed_by, difference.closed_why = by.name[:150], reason[:200]
    difference.save(update_fields=["status", "closed_at", "closed_by", "closed_why"])
    return difference


def at_stake(difference: Difference) -> Money:
    """Return by how much both sides differ; where the currencies differ, what the gateway has."""
    if difference.currency_there == difference.currency_here:
        amount = (difference.amount_there or 0) - (difference.amount_here or 0)
        return Money(abs(amount), difference.currency_there)
    if difference.currency_there:
        return Money(difference.amount_there or 0, difference.currency_there)
    return Money(difference.amount_here or 0, difference.currency_here)


def _open(difference_id: UUID | str, *, lock: bool = False) -> Difference:
    rows = Difference.objects.select_for_update() if lock else Difference.objects
    difference = rows.get(pk=difference_id)
    if difference.status != Status.OPEN:
        raise NotOpen(_g("The difference is %(status)s.") % {"status": difference.get_status_display()})
    return difference
