"""
What gateways tell us by webhook: taken in in the raw, acted on once, and kept for a person where it doesn't fit.

A receipt is `received` until its letter is handled. Then it is `applied`; or `unmatched`, kept until the payment that
it speaks of is known; or `quarantined`, because order, payment, amount or currency are not those of the payment.
"""

from collections.abc import Mapping
from datetime import datetime

from django.db import connections, transaction
from django.utils.translation import gettext as _g

from common.errors import Refusal
from outbox import metrics
from outbox.consumers import Undeliverable

from . import gateways
from . import lifecycle as clearing
from .gateways.base import GatewayRefused, RefundRequest
from .gateways.base import Status as Says
from .messages import HandleWebhook, RefundReceipt
from .metrics import WEBHOOKS
from .models import Outgoing, Payment, WebhookReceipt

Status = WebhookReceipt.Status
KEPT_HEADERS = ("content-type", "user-agent", "x-correlation-id", "traceparent", "stripe-signature")
OPEN = (Status.UNMATCHED, Status.QUARANTINED)


class WebhookIdReused(Refusal):
    """Another webhook was sent under this id."""

    code = "webhook_id_reused"


class NotOpen(Refusal):
    """There is nothing left to decide about this webhook."""

    code = "webhook_not_open"


class DoesNotMatch(Refusal):
    """The webhook speaks of other money than the payment of this order."""

    code = "webhook_does_not_match"


class NotStray(Refusal):
    """The money belongs to an order: cancel that, and it goes back."""

    code = "money_is_not_stray"


# Taking in ----------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def take_in(*, gateway: str, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookReceipt:
    """
    Verify a webhook and store it, and see to it that it is acted on. Sent again, it is the same receipt.

    :raises common.signing.BadSignature: if the gateway didn't send it, now
    :raises gateways.base.BadEvent: if it did and it can't be read
    :raises WebhookIdReused: if another one was taken in under its id
    """
    event = gateways.get(gateway).parse_webhook(headers=headers, body=body, now=now)
    receipt, made = WebhookReceipt.objects.get_or_create(
        gateway=gateway,
        webhook_id=event.webhook_id,
        defaults={
            "status": Status.RECEIVED if event.status else Status.DISCARDED,
            "reason": "" if event.status else "not_about_a_payment",
            "headers": {name: value for name, value in headers.items() if _is_kept(name)},
            "body": body,
            "says": event.status or "",
            "amount": event.amount,
            "currency": event.currency,
            "payment_id": event.payment_id,
            "order_id": event.order_id[:64],
            "received_at": now,
        },
    )
    if made and receipt.status == Status.RECEIVED:
        _post(receipt)
    elif not made and bytes(receipt.body) != body:
        raise WebhookIdReused("Another webhook was sent under this id.")
    return receipt


def _is_kept(name: str) -> bool:
    return name.lower() in KEPT_HEADERS or name.lower().startswith("webhook-")


def _post(receipt: WebhookReceipt) -> None:
    Outgoing.post(HandleWebhook(receipt_id=str(receipt.pk), order_id=receipt.order_id))


# Acting -------------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def handle(*, receipt_id: str, now: datetime) -> WebhookReceipt:
    """Act on a webhook, once; keep it where it can't be acted on."""
    payment, receipt = _lock(receipt_id)
    if receipt.status not in (Status.RECEIVED, Status.UNMATCHED):
        return receipt
    status, reason = _judge(receipt, payment)
    if status == Status.APPLIED:
        assert payment is not None
        status, reason = _apply(receipt, payment, now=now)
    return _decide(receipt, status, reason=reason, now=now)


def _lock(receipt_id: str) -> tuple[Payment | None, WebhookReceipt]:
    """The payment that a receipt names, and the receipt; locked in this order everywhere."""
    receipt = WebhookReceipt.objects.get(pk=receipt_id)
    payment = Payment.lock(receipt.order_id) if receipt.order_id else None
    return payment, WebhookReceipt.objects.select_for_update().get(pk=receipt_id)


def _judge(receipt: WebhookReceipt, payment: Payment | None) -> tuple[Status, str]:
    """Whether what a webhook says fits what we know."""
    if payment is None or payment.gateway != receipt.gateway:
        if Payment.objects.filter(gateway=receipt.gateway, gateway_payment_id=receipt.payment_id).exists():
            return Status.QUARANTINED, "order_mismatch"
        return Status.UNMATCHED, "unknown_order"
    if not payment.gateway_payment_id:
        if payment.status not in (Payment.Status.FAILED, Payment.Status.VOIDED):
            return Status.UNMATCHED, "unknown_payment"  # the gateway's answer to our request is still on its way
        payment.gateway_payment_id = receipt.payment_id  # it never came; the webhook is the first that we hear of it
    reason = clearing.mismatch(payment, receipt)
    return (Status.QUARANTINED, reason) if reason else (Status.APPLIED, "")


def _apply(receipt: WebhookReceipt, payment: Payment, *, now: datetime) -> tuple[Status, str]:
    try:
        clearing.told(payment, Says(receipt.says), now=now)
    except clearing.Contradiction as contradiction:
        return Status.QUARANTINED, contradiction.code
    return Status.APPLIED, ""


def _decide(
    receipt: WebhookReceipt, status: Status, *, reason: str = "", actor: str = "", now: datetime
) -> WebhookReceipt:
    receipt.status, receipt.reason, receipt.handled_at = status, reason, now
    receipt.decided_by = actor or receipt.decided_by
    receipt.save(update_fields=["status", "reason", "handled_at", "decided_by"])
    metrics.after_commit("payments", WEBHOOKS.labels(receipt.gateway, str(status)).inc)
    return receipt


KNOWN_NOW = """
SELECT receipt.id FROM payments_webhookreceipt receipt
JOIN payments_payment payment ON payment.order_id = receipt.order_id AND payment.gateway = receipt.gateway
WHERE receipt.status = 'unmatched' AND payment.gateway_payment_id <> ''
ORDER BY receipt.received_at
LIMIT %s
"""


@transaction.atomic(using="payments")
def sweep(*, most: int = 100) -> int:
    """Act on kept webhooks whose payment is known by now; how many there were."""
    with connections["payments"].cursor() as cursor:
        cursor.execute(KNOWN_NOW, [most])
        found = [row[0] for row in cursor.fetchall()]
    for receipt in WebhookReceipt.objects.filter(pk__in=found):
        _post(receipt)
    return len(found)


# What operators decide ----------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def match(*, receipt_id: str, order_id: str, actor: str, now: datetime) -> WebhookReceipt:
    """
    Decide that a kept webhook speaks of the payment of this order, and act on it.

    :raises NotOpen: if it isn't kept any more
    :raises DoesNotMatch: if gateway, amount or currency are others, or the gateway has that payment under another id
    """
    payment = Payment.lock(order_id)
    receipt = _open_receipt(receipt_id)
    if payment is None or payment.gateway != receipt.gateway:
        raise DoesNotMatch(
            _g("Order %(order)s has no payment at %(gateway)s.") % {"order": order_id, "gateway": receipt.gateway}
        )
    payment.gateway_payment_id = payment.gateway_payment_id or receipt.payment_id
    receipt.order_id = order_id
    if reason := clearing.mismatch(payment, receipt):
        raise DoesNotMatch(
            _g("It speaks of other money than the payment of %(order)s: %(reason)s.")
            % {"order": order_id, "reason": reason}
        )
    payment.save(update_fields=["gateway_payment_id"])
    receipt.save(update_fields=["order_id"])
    status, reason = _apply(receipt, payment, now=now)
    return _decide(receipt, status, reason=reason, actor=actor, now=now)


@transaction.atomic(using="payments")
def refund(*, receipt_id: str, actor: str) -> WebhookReceipt:
    """
    Decide that the money which a kept webhook tells of belongs to no order, and have it given back.

    :raises NotOpen: if it isn't kept any more, or doesn't tell of money that came in
    :raises NotStray: if it belongs to an order after all
    """
    receipt = _open_receipt(receipt_id)
    if receipt.says != Says.SUCCEEDED:
        raise NotOpen(_g("It tells of no money that came in."))
    if _is_ours(receipt):
        raise NotStray(_g("The money belongs to an order: cancel that, and it goes back."))
    receipt.decided_by = actor
    receipt.save(update_fields=["decided_by"])
    Outgoing.post(RefundReceipt(receipt_id=str(receipt.pk), order_id=receipt.order_id))
    return receipt


def _is_ours(receipt: WebhookReceipt) -> bool:
    return Payment.objects.filter(gateway=receipt.gateway, gateway_payment_id=receipt.payment_id).exists()


def refund_at_gateway(message: RefundReceipt) -> bool:
    """Give stray money back at its gateway. Runs outside of any transaction, and may run again."""
    receipt = WebhookReceipt.objects.get(pk=message.receipt_id)
    if receipt.status not in OPEN or _is_ours(receipt):
        raise Undeliverable("money_is_not_stray", "The money has found its order, or is back already.")
    gateway = gateways.get(receipt.gateway)
    try:
        found = gateway.status(payment_id=receipt.payment_id)
        if found is None:
            raise Undeliverable("no_such_payment", "The gateway knows no such payment.")
        if found.status == Says.SUCCEEDED:
            gateway.refund(
                RefundRequest(
                    payment_id=found.payment_id,
                    order_id=found.order_id,
                    amount=found.amount,
                    currency=found.currency,
                    idempotency_key=f"{receipt.pk}.refund",
                )
            )
    except GatewayRefused as refused:
        raise Undeliverable(refused.code, f"The gateway refuses: {refused}") from refused
    return True


@transaction.atomic(using="payments")
def refunded(*, receipt_id: str, now: datetime) -> WebhookReceipt:
    """Note that the money which this webhook told of is back where it came from."""
    receipt = WebhookReceipt.objects.select_for_update().get(pk=receipt_id)
    return _decide(receipt, Status.REFUNDED, now=now)


@transaction.atomic(using="payments")
def discard(*, receipt_id: str, reason: str, actor: str, now: datetime) -> WebhookReceipt:
    """
    Decide that nothing follows from a kept webhook.

    :raises NotOpen: if it isn't kept any more
    """
    return _decide(_open_receipt(receipt_id), Status.DISCARDED, reason=reason[:50], actor=actor, now=now)


def _open_receipt(receipt_id: str) -> WebhookReceipt:
    receipt = WebhookReceipt.objects.select_for_update().get(pk=receipt_id)
    if receipt.status not in OPEN:
        raise NotOpen(_g("The webhook is %(status)s.") % {"status": receipt.get_status_display()})
    return receipt
