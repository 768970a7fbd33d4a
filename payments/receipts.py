"""
Webhooks of gateways: each is stored as it came, handled once, and kept for a person where it does not fit.

A receipt is `received` until its message is handled. Then it is `applied`; or `unmatched`, which is kept until its
payment is known; or `quarantined`, because its order, payment, amount or currency differs from that of the payment.
"""

from collections.abc import Mapping
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _g

from common.audit import rows
from common.authority import Authority
from common.backlog import work_off
from common.errors import Refusal
from common.money import Money
from outbox import metrics
from outbox.errors import Undeliverable

from . import gateways, lifecycle
from .gateway_calls import mismatch
from .gateways.base import Answer, GatewayRefused, GatewayUnavailable, RefundRequest
from .gateways.base import Event as EventOfGateway
from .gateways.base import Status as GatewayStatus
from .lifecycle import Event
from .messages import HandleWebhook, RefundReceipt
from .metrics import WEBHOOKS
from .models import Outgoing, Payment, WebhookReceipt

Status = WebhookReceipt.Status
KEPT_HEADERS = ("content-type", "user-agent", "x-correlation-id", "traceparent", "stripe-signature")
BATCH = 500  # kept webhooks in one transaction
OPEN = (Status.UNMATCHED, Status.QUARANTINED)  # kept for a person to decide

EVENTS = {
    GatewayStatus.PENDING: Event.WEBHOOK_PENDING,
    GatewayStatus.SUCCEEDED: Event.WEBHOOK_PAID,
    GatewayStatus.FAILED: Event.WEBHOOK_UNPAID,
    GatewayStatus.CANCELED: Event.WEBHOOK_UNPAID,
    GatewayStatus.REFUNDED: Event.WEBHOOK_REFUNDED,
}


class WebhookIdReused(Refusal):
    """Another webhook was received under this id."""

    code = "webhook_id_reused"


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


# Receiving ----------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def receive(*, gateway: str, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookReceipt:
    """
    Verify a webhook, store it to be handled, and return its receipt. A webhook that is sent again has the same receipt.

    :raises common.signing.BadSignature: if the gateway did not sign it, or did so long ago
    :raises gateways.base.BadEvent: if the gateway sent it and it cannot be read
    :raises WebhookIdReused: if another webhook was received under its id
    """
    event = gateways.get(gateway).parse_webhook(headers=headers, body=body, now=now)
    installation, _colon, order_id = event.order_id.rpartition(":")
    why_not = _why_not(event, installation=installation, order_id=order_id)
    receipt, created = WebhookReceipt.objects.get_or_create(
        gateway=gateway,
        webhook_id=event.webhook_id,
        defaults={
            "status": Status.DISCARDED if why_not else Status.RECEIVED,
            "reason": why_not,
            "headers": {name: value for name, value in headers.items() if _is_kept(name)},
            "body": body,
            "says": event.status or "",
            "amount": event.amount,
            "currency": event.currency,
            "payment_id": event.payment_id,
            "order_id": order_id[:64],
            "installation": installation[:20],
            "received_at": now,
        },
    )
    if created and receipt.status == Status.RECEIVED:
        _post(receipt)
    elif not created and bytes(receipt.body) != body:
        raise WebhookIdReused("Another webhook was received under this id.")
    return receipt


def _why_not(event: EventOfGateway, *, installation: str, order_id: str) -> str:
    """Return why a webhook is none of our business; "" if it may be."""
    if not event.status:
        return "not_about_a_payment"
    if (
        installation == settings.INSTALLATION
        or Payment.objects.filter(pk=order_id, installation=installation).exists()  # from under a former name
    ):
        return ""
    return "another_installation"


def _is_kept(name: str) -> bool:
    return name.lower() in KEPT_HEADERS or name.lower().startswith("webhook-")


def _post(receipt: WebhookReceipt) -> None:
    Outgoing.post(HandleWebhook(receipt_id=str(receipt.pk), order_id=receipt.order_id))


# Handling -----------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def handle(*, receipt_id: str, now: datetime) -> WebhookReceipt:
    """Handle a webhook, once, and return its receipt; a webhook that does not fit is kept."""
    payment, receipt = _lock(receipt_id)
    if receipt.status not in (Status.RECEIVED, Status.UNMATCHED):
        return receipt
    status, reason = _judge(receipt, payment)
    if status == Status.APPLIED:
        assert payment is not None
        status, reason = _apply(receipt, payment, now=now)
    return _decide(receipt, status, reason=reason, now=now)


def _lock(receipt_id: str) -> tuple[Payment | None, WebhookReceipt]:
    """Lock the payment that a receipt names, and then the receipt, and return both. Everybody locks in this order."""
    receipt = WebhookReceipt.objects.get(pk=receipt_id)
    payment = Payment.lock(receipt.order_id) if receipt.order_id else None
    return payment, WebhookReceipt.objects.select_for_update().get(pk=receipt_id)


def _judge(receipt: WebhookReceipt, payment: Payment | None) -> tuple[Status, str]:
    """Return the status that a receipt gets by what is known of its payment, and the reason."""
    if payment is None or payment.gateway != receipt.gateway:
        if Payment.objects.filter(gateway=receipt.gateway, gateway_payment_id=receipt.payment_id).exists():
            return Status.QUARANTINED, "order_mismatch"
        return Status.UNMATCHED, "unknown_order"
    if not payment.gateway_payment_id:
        if payment.status in Payment.NAMELESS:
            return Status.UNMATCHED, "unknown_payment"  # the reply to our request is still on its way
        payment.gateway_payment_id = (
            receipt.payment_id
        )  # the reply never came: the webhook has the first word of the id
    reason = mismatch(payment, receipt)
    return (Status.QUARANTINED, reason) if reason else (Status.APPLIED, "")


def _apply(receipt: WebhookReceipt, payment: Payment, *, now: datetime) -> tuple[Status, str]:
    try:
        lifecycle.advance(payment, EVENTS[GatewayStatus(receipt.says)], now=now)
    except lifecycle.Contradiction as contradiction:
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


NAMELESS = ", ".join(f"'{status}'" for status in Payment.NAMELESS)
KNOWN_NOW = f"""
WITH known AS (
    SELECT receipt.id FROM payments_webhookreceipt receipt
    JOIN payments_payment payment ON payment.order_id = receipt.order_id AND payment.gateway = receipt.gateway
    WHERE receipt.status = '{Status.UNMATCHED}'
      AND (payment.gateway_payment_id <> '' OR payment.status NOT IN ({NAMELESS}))
    ORDER BY receipt.received_at LIMIT {BATCH}
    FOR UPDATE OF receipt SKIP LOCKED
)
UPDATE payments_webhookreceipt receipt SET status = '{Status.RECEIVED}' FROM known WHERE receipt.id = known.id
RETURNING receipt.id, receipt.order_id
"""  # noqa: S608 - the statuses are ours


def sweep() -> int:
    """
    Have kept webhooks handled whose payment is known by now, or settled without them; return how many there were.

    They count as received again, so that each is handled once for each time that it is found.
    """
    return work_off(_sweep, batch=BATCH)


@transaction.atomic(using="payments")
def _sweep() -> int:
    found = rows("payments", KNOWN_NOW)
    Outgoing.post(*(HandleWebhook(receipt_id=str(receipt_id), order_id=order_id) for receipt_id, order_id in found))
    return len(found)


# What operators decide ----------------------------------------------------------------------------------------------


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
    if differs := mismatch(payment, receipt):
        raise DoesNotMatch(
            _g("The webhook is about other money than the payment of %(order)s: %(reason)s.")
            % {"order": order_id, "reason": differs}
        )
    by.permit(payment.amount, payment.currency)
    payment.save(update_fields=["gateway_payment_id", "updated_at"])
    receipt.save(update_fields=["order_id", "installation"])
    status, differs = _apply(receipt, payment, now=now)
    return _decide(receipt, status, reason=differs, actor=by.name, now=now)


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
    return Money(found.amount, found.currency)


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
    if receipt.says != GatewayStatus.SUCCEEDED:
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
    Have the gateway refund money that belongs to no order. It runs outside of any transaction, and may run again.

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
        if found.status == GatewayStatus.SUCCEEDED:
            if (found.amount, found.currency) != _decided(message, receipt):
                return False
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
        return _decide(receipt, Status.REFUNDED, now=now)
    receipt.decided_by = ""
    return _decide(receipt, Status.QUARANTINED, reason="amount_mismatch", now=now)


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
    if receipt.says == GatewayStatus.SUCCEEDED:
        by.permit(receipt.amount, receipt.currency)
    return _decide(receipt, Status.DISCARDED, reason=reason[:50], actor=by.name, now=now)


def _open_receipt(receipt_id: str) -> WebhookReceipt:
    receipt = WebhookReceipt.objects.select_for_update().get(pk=receipt_id)
    if receipt.status not in OPEN:
        raise NotOpen(_g("The webhook is %(status)s.") % {"status": receipt.get_status_display()})
    return receipt
