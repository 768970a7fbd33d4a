"""
What operators decide about webhooks of gateways that were kept: see receipts.py.

Such a webhook is matched with an order, its money is refunded as stray, or it is discarded.
"""

from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext as _g

from common.authority import Authority
from common.errors import Refusal
from common.money import Money
from outbox.errors import Undeliverable

from . import gateways, receipts
from .gateways.base import Answer, GatewayRefused, GatewayUnavailable, RefundRequest, RefundStatus
from .gateways.base import Status as GatewayStatus
from .messages import RefundReceipt
from .models import Outgoing, Payment, WebhookReceipt

Status = WebhookReceipt.Status
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

    :raises NotOpen: if it is not kept
    :raises DoesNotMatch: if the payment has another gateway, amount, currency, or id at the gateway
    :raises ReasonMissing: without a reason
    :raises NeedsSecondPerson: if one person may not decide about this amount alone
    """
    by.justify(reason)
    payment = Payment.lock(order_id)
    receipt = _open_receipt(receipt_id)
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
    return receipts.settle(receipt, status, reason=differs, actor=by.name, now=now)


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
    receipt = _open_receipt(receipt_id)
    if not receipt.says_that_money_came_in:
        raise NotOpen(_g("The webhook does not say that money came in."))
    if receipt.decided_by:
        raise NotOpen(_g("The money is being refunded already."))
    if _is_ours(receipt):
        raise NotStray(_g("The money belongs to an order. Cancel the order to return it."))
    by.permit(money.amount, money.currency)
    receipt.decided_by = by.name
    receipt.save(update_fields=["decided_by"])
    Outgoing.post(
        RefundReceipt(
            receipt_id=str(receipt.pk), order_id=receipt.order_id, amount=money.amount, currency=money.currency
        )
    )
    return receipt


def _is_ours(receipt: WebhookReceipt) -> bool:
    return Payment.objects.filter(gateway=receipt.gateway, gateway_payment_id=receipt.payment_id).exists()


def refund_at_gateway(message: RefundReceipt) -> bool:
    """
    Have the gateway refund money that belongs to no order, or cancel the payment before any money comes in.

    It runs outside of any transaction, and may run again.

    Returns False, and refunds nothing, if the gateway has another amount than was decided about.

    :raises Undeliverable: if the money belongs to an order, or the gateway refuses
    """
    receipt = WebhookReceipt.objects.get(pk=message.receipt_id)
    if receipt.status not in OPEN or _is_ours(receipt):
        raise Undeliverable("money_is_not_stray", "The money belongs to an order, or was refunded already.")
    gateway = gateways.get(receipt.gateway)
    try:
        found = gateway.status(payment_id=receipt.payment_id)
        if found is None:
            raise Undeliverable("no_such_payment", "The gateway knows no such payment.")
        if different := _difference(receipt, found):
            raise Undeliverable(different, "The gateway answers about other money than the webhook.")
        if found.status in (GatewayStatus.PENDING, GatewayStatus.AUTHORIZED):
            gateway.cancel(payment_id=found.payment_id, idempotency_key=f"{receipt.pk}.void")
        if found.status == GatewayStatus.SUCCEEDED:
            if (found.taken, found.currency) != _decided(message, receipt):
                return False
            answer = gateway.refund(
                RefundRequest(
                    payment_id=found.payment_id,
                    order_id=found.order_id,
                    amount=found.taken,
                    currency=found.currency,
                    idempotency_key=f"{receipt.pk}.refund",
                )
            )
            if answer.status == RefundStatus.FAILED:
                raise GatewayRefused(answer.fail_reason or "refund_failed")
    except GatewayRefused as refused:
        raise Undeliverable(refused.code, f"The gateway refuses the refund: {refused}") from refused
    return True


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
def refunded(*, receipt_id: str, done: bool, now: datetime) -> WebhookReceipt:
    """Record that the money of this webhook was refunded, or that it waits for another decision; return the receipt."""
    receipt = WebhookReceipt.objects.select_for_update().get(pk=receipt_id)
    if done:
        return receipts.settle(receipt, Status.REFUNDED, now=now)
    receipt.decided_by = ""
    return receipts.settle(receipt, Status.QUARANTINED, reason="amount_mismatch", now=now)


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
    receipt = _open_receipt(receipt_id)
    if receipt.says_that_money_came_in or receipt.about != WebhookReceipt.About.PAYMENT:
        by.permit(receipt.amount, receipt.currency)
    return receipts.settle(receipt, Status.DISCARDED, reason=reason[:50], actor=by.name, now=now)


def _open_receipt(receipt_id: str) -> WebhookReceipt:
    receipt = WebhookReceipt.objects.select_for_update().get(pk=receipt_id)
    if receipt.status not in OPEN:
        raise NotOpen(_g("The webhook is %(status)s.") % {"status": receipt.get_status_display()})
    return receipt
