"""
What operators decide about webhooks of gateways that were kept: see receipts.py.

Such a webhook is matched with an order, its money is refunded as stray, or it is discarded.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.db import transaction
from django.db.models import Sum
from django.utils.translation import gettext as _g

from common.authority import Authority
from common.errors import Refusal
from common.money import Money
from outbox.ids import uuid_of

from . import gateways, receipts
from .effects import pause_after
from .gateways.base import Answer, GatewayBroke, GatewayRefused, GatewayUnavailable, RefundRequest, RefundStatus
from .gateways.base import Status as GatewayStatus
from .messages import RefundReceipt
from .models import Outgoing, Payment, WebhookReceipt

logger = logging.getLogger(__name__)

Status = WebhookReceipt.Status
LONGEST_PAUSE = timedelta(hours=1)  # until a gateway that has not replied is asked again
OPEN = (Status.UNMATCHED, Status.QUARANTINED)  # kept for a person to decide


class NotOpen(Refusal):
    """The webhook is not kept for a decision."""

    code = "webhook_not_open"


class DoesNotMatch(Refusal):
    """The webhook is about other money than the payment of this order."""

    code = "webhook_does_not_match"


class NoMoney(Refusal):
    """The gateway has no money of this payment, or does not say."""

    code = "no_money_at_gateway"


class NotStray(Refusal):
    """The money belongs to an order, which has to be canceled to return it."""

    code = "money_is_not_stray"


# To match it --------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def match(*, receipt_id: str, order_id: str, reason: str, by: Authority, now: datetime) -> WebhookReceipt:
    """
    Decide that a kept webhook is about the payment of this order, handle it, and return its receipt.

    The money then pays the order or, if the order was turned back, goes back to whoever paid it.

    :raises NotOpen: if it is not kept, or its money goes back
    :raises DoesNotMatch: if the payment has another gateway, amount, currency, or id at the gateway
    :raises ReasonMissing: without a reason
    :raises NeedsSecondPerson: if one person may not decide about this amount alone
    """
    by.justify(reason)
    payment = Payment.lock(order_id)
    receipt, *others = _lock_open(receipt_id)
    if receipt.about == WebhookReceipt.About.PAYMENT and any(map(_goes_back, (receipt, *others))):
        raise NotOpen(_g("The money is being refunded already."))
    if payment is None or payment.gateway != receipt.gateway:
        raise DoesNotMatch(
            _g("Order %(order)s has no payment at %(gateway)s.") % {"order": order_id, "gateway": receipt.gateway}
        )
    payment.gateway_payment_id = payment.gateway_payment_id or receipt.payment_id
    receipt.order_id, receipt.installation = order_id, payment.installation
    about = receipts.content(receipt)
    if differs := receipts.difference(payment, about):
        raise DoesNotMatch(
            _g("The webhook is about other money than the payment of %(order)s: %(reason)s.")
            % {"order": order_id, "reason": differs}
        )
    by.permit(receipt.amount, receipt.currency)
    payment.save(update_fields=["gateway_payment_id", "updated_at"])
    receipt.save(update_fields=["order_id", "installation"])
    status, differs = receipts.apply(receipt, about, payment, now=now)
    # Of one that is still kept, `decided_by` would say that its money goes back.
    return receipts.settle(receipt, status, reason=differs, actor="" if status in OPEN else by.name, now=now)


def _goes_back(receipt: WebhookReceipt) -> bool:
    return receipt.is_being_returned or receipt.status == Status.REFUNDED


# To refund its money ------------------------------------------------------------------------------------------------


def money_at_gateway(*, receipt_id: str) -> Money:
    """
    Return what the gateway itself has of the money of a webhook, whatever the webhook says. Call it outside of any
    transaction.

    :raises NoMoney: if it has none, or does not answer
    """
    receipt = WebhookReceipt.objects.get(pk=receipt_id)
    try:
        found = gateways.get(receipt.gateway).status(payment_id=receipt.payment_id)
    except (GatewayRefused, GatewayUnavailable) as error:
        raise NoMoney(_g("The gateway does not say what it has: %(error)s") % {"error": error}) from error
    if found is None or found.status != GatewayStatus.SUCCEEDED or _difference(receipt, found):
        raise NoMoney(_g("The gateway has no such money."))
    return Money(found.taken, found.currency)


@transaction.atomic(using="payments")
def refund(*, receipt_id: str, money: Money, reason: str, by: Authority) -> WebhookReceipt:
    """
    Decide that the money of a kept webhook belongs to no order, have it refunded, and return the receipt.

    `money` is what the gateway has: see `money_at_gateway`. Nothing is refunded if that has changed by then.

    :raises NotOpen: if the webhook is not kept, is being refunded, or does not say that money came in
    :raises NotStray: if the money belongs to an order
    :raises ReasonMissing: without a reason
    :raises NeedsSecondPerson: if one person may not refund this amount alone
    """
    by.justify(reason)
    receipt, *others = _lock_open(receipt_id)
    if not receipt.says_that_money_came_in:
        raise NotOpen(_g("The webhook does not say that money came in."))
    if any(one.is_being_returned for one in (receipt, *others)):
        raise NotOpen(_g("The money is being refunded already."))
    if _is_ours(receipt):
        raise NotStray(_g("The money belongs to an order. Cancel the order to return it."))
    by.permit(money.amount, money.currency)
    receipt.decided_by, receipt.unanswered = by.name, 0
    receipt.save(update_fields=["decided_by", "unanswered"])
    Outgoing.post(
        RefundReceipt(
            receipt_id=str(receipt.pk), order_id=receipt.order_id, amount=money.amount, currency=money.currency
        )
    )
    return receipt


def _is_ours(receipt: WebhookReceipt) -> bool:
    return Payment.objects.filter(gateway=receipt.gateway, gateway_payment_id=receipt.payment_id).exists()


# Note [As often as it takes]: an attempt that the gateway refuses, or that breaks there, ends its idempotency key: the
# gateway may repeat that answer for as long as it remembers the key. Attempts are counted for all webhooks of a payment
# together, and the key is the name of the refund as well. So attempts at the same time have the same key, or one finds
# what the other has made. What goes back is always all that was taken: the gateway has it once only.


class Outcome(StrEnum):
    """What came of an attempt to return the money of a webhook."""

    RETURNED = "returned"  # or it never came in
    OTHER_AMOUNT = "other amount"  # the gateway has another one than was decided about
    REFUSED = "refused"
    NO_REPLY = "no reply"


@dataclass(frozen=True)
class Reply:
    """The outcome of an attempt, and its number."""

    outcome: Outcome
    number: int = 0
    refused: str = ""
    broke: bool = False


def refund_at_gateway(message: RefundReceipt) -> Reply | None:
    """
    Have the gateway refund money that belongs to no order, or cancel the payment before any money comes in. Return the
    reply; None if that is not decided any more.

    It runs outside of any transaction, and may run again.
    """
    receipt = WebhookReceipt.objects.get(pk=uuid_of(message.receipt_id))
    if not receipt.is_being_returned:
        return None
    number = _attempt(receipt)
    try:
        return Reply(_return(message, receipt, number=number), number)
    except GatewayRefused as refused:
        logger.warning("%s: its money is not returned: %s %s", receipt, refused.code, refused)
        return Reply(Outcome.REFUSED, number, refused=refused.code)
    except GatewayUnavailable as unavailable:
        logger.warning("%s: the gateway does not reply: %s", receipt, unavailable)
        return Reply(Outcome.NO_REPLY, number, broke=isinstance(unavailable, GatewayBroke))


def _attempt(receipt: WebhookReceipt) -> int:
    """Return how many attempts to return this payment have failed."""
    of_payment = WebhookReceipt.objects.filter(gateway=receipt.gateway, payment_id=receipt.payment_id)
    failures: int = of_payment.aggregate(sum=Sum("failures"))["sum"]
    return failures


def _return(message: RefundReceipt, receipt: WebhookReceipt, *, number: int) -> Outcome:
    if _is_ours(receipt):
        raise GatewayRefused("money_is_not_stray", "The money belongs to an order.")
    gateway = gateways.get(receipt.gateway)
    found = gateway.status(payment_id=receipt.payment_id)
    if found is None:
        raise GatewayRefused("no_such_payment", "The gateway knows no such payment.")
    if different := _difference(receipt, found):
        raise GatewayRefused(different, "The gateway answers about other money than the webhook.")
    call = CALLS.get(found.status)
    if call is None:
        return Outcome.RETURNED
    try:
        return call(gateway, found, _decided(message, receipt), f".{number}" if number else "")
    except GatewayRefused as refused:
        moved = gateway.status(payment_id=receipt.payment_id)
        if moved is None or moved.status == found.status:
            raise
        raise GatewayUnavailable(f"{receipt.gateway}: the payment has moved on.") from refused


def _cancel(gateway: gateways.Gateway, found: Answer, decided: tuple[int, str], number: str) -> Outcome:
    key = f"stray.{found.payment_id}.void{number}"
    if gateway.cancel(payment_id=found.payment_id, idempotency_key=key).status in CALLS:
        raise GatewayUnavailable(f"{gateway.name}: the payment is not canceled yet.")
    return Outcome.RETURNED


def _refund(gateway: gateways.Gateway, found: Answer, decided: tuple[int, str], number: str) -> Outcome:
    name = receipts.name_of_return(found.payment_id) + number
    made = [one for one in gateway.refunds(payment_id=found.payment_id) if receipts.is_return_of_stray(one)]
    under_way = (one for one in made if one.status != RefundStatus.FAILED)
    current = next(under_way, None) or next((one for one in made if one.refund_id == name), None)
    if current is None:
        if found.status == GatewayStatus.REFUNDED:  # by hand
            return Outcome.RETURNED
        if (found.taken, found.currency) != decided:
            return Outcome.OTHER_AMOUNT
        current = gateway.refund(
            RefundRequest(
                payment_id=found.payment_id,
                order_id=found.order_id,
                amount=found.taken,
                currency=found.currency,
                idempotency_key=name,
                refund_id=name,
            )
        )
        if (current.payment_id, current.amount, current.currency) != (found.payment_id, *decided):
            raise GatewayUnavailable(f"{gateway.name}: the answer is about another refund.")
    if current.status == RefundStatus.PENDING:  # it can still fail, so the gateway is asked until it has an end
        raise GatewayUnavailable(f"{gateway.name}: the money is on its way back.")
    if current.status == RefundStatus.FAILED:
        raise GatewayRefused(current.fail_reason or "refund_failed")
    return Outcome.RETURNED


# The call that a payment needs in its status, so that nothing of it stays in; in the others nothing does. A gateway may
# say that all went back while it is on its way.
CALLS: dict[GatewayStatus, Callable[[gateways.Gateway, Answer, tuple[int, str], str], Outcome]] = {
    GatewayStatus.PENDING: _cancel,
    GatewayStatus.AUTHORIZED: _cancel,
    GatewayStatus.SUCCEEDED: _refund,
    GatewayStatus.REFUNDED: _refund,
}


def _decided(message: RefundReceipt, receipt: WebhookReceipt) -> tuple[int, str]:
    """What was decided to be refunded. A message from before it said so means what the webhook says."""
    if message.amount is None:
        return receipt.amount, receipt.currency
    return message.amount, message.currency


def _difference(receipt: WebhookReceipt, found: Answer) -> str:
    """Return in what the gateway speaks of another payment than the webhook did; "" if it is the same."""
    for name in ("payment_id", "reference"):
        if getattr(receipt, name) != getattr(found, name):
            return f"{name.removesuffix('_id')}_mismatch"
    return ""


@transaction.atomic(using="payments")
def record(*, message: RefundReceipt, reply: Reply | None, now: datetime) -> None:
    """
    Record the reply to an attempt: the money went back; or it waits for another decision, and why; or the gateway is
    asked again later, after a pause that grows with every time.
    """
    if reply is None:
        return
    receipt = _lock_all(message.receipt_id)[0]
    if reply.outcome == Outcome.RETURNED:
        if receipt.status != Status.REFUNDED:
            receipts.settle(receipt, Status.REFUNDED, now=now)
        return
    if not receipt.is_being_returned:
        return  # another decision was faster
    is_current = reply.number == _attempt(receipt)
    if reply.outcome == Outcome.NO_REPLY or not is_current:
        _ask_again_later(message, receipt, has_failed=reply.broke and is_current, now=now)
        return
    receipt.failures += reply.outcome == Outcome.REFUSED
    receipt.unanswered, receipt.decided_by = 0, ""
    receipt.save(update_fields=["failures", "unanswered"])
    receipts.settle(receipt, Status.QUARANTINED, reason=(reply.refused or "amount_mismatch")[:50], now=now)


def _ask_again_later(message: RefundReceipt, receipt: WebhookReceipt, *, has_failed: bool, now: datetime) -> None:
    receipt.failures += has_failed
    receipt.unanswered = min(receipt.unanswered + 1, 16)
    receipt.save(update_fields=["failures", "unanswered"])
    Outgoing.post(message, due_at=now + min(pause_after(receipt.unanswered), LONGEST_PAUSE))


# To discard it ------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def discard(*, receipt_id: str, reason: str, by: Authority, now: datetime) -> WebhookReceipt:
    """
    Decide that nothing follows from a kept webhook, and return its receipt. Money that it tells of stays where it is.

    :raises NotOpen: if it is not kept
    :raises ReasonMissing: without a reason
    :raises NeedsSecondPerson: if one person may not forget this amount alone
    """
    by.justify(reason)
    receipt = _lock_open(receipt_id)[0]
    if receipt.says_that_money_came_in or receipt.about != WebhookReceipt.About.PAYMENT:
        by.permit(receipt.amount, receipt.currency)
    return receipts.settle(receipt, Status.DISCARDED, reason=reason[:50], actor=by.name, now=now)


def _lock_open(receipt_id: str) -> list[WebhookReceipt]:
    """
    Return a kept webhook, and then the others of its payment, all locked: what is decided about one counts for all.

    :raises NotOpen: if it is not kept
    """
    found = _lock_all(receipt_id)
    if found[0].status not in OPEN:
        raise NotOpen(_g("The webhook is %(status)s.") % {"status": found[0].get_status_display()})
    return found


def _lock_all(receipt_id: str) -> list[WebhookReceipt]:
    """Return a webhook, and then the others of its payment, locked in an order that is always the same."""
    known = WebhookReceipt.objects.get(pk=receipt_id)
    of_payment = WebhookReceipt.objects.select_for_update().order_by("pk")
    if known.payment_id:
        of_payment = of_payment.filter(gateway=known.gateway, payment_id=known.payment_id)
    else:
        of_payment = of_payment.filter(pk=known.pk)
    return sorted(of_payment, key=lambda one: one.pk != known.pk)
