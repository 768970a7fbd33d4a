"""
Webhooks of gateways: each is stored as it came, handled once, and kept for a person where it does not fit.

A receipt is `received` until its message is handled. Then it is `applied`; or `unmatched`, which is kept until its
payment is known; or `quarantined`, because its order, payment, amount or currency differs from that of the payment.
What operators decide about those is in decisions.py.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from django.conf import settings
from django.db import transaction

from common.audit import rows
from common.backlog import work_off
from common.errors import Refusal
from outbox import metrics
from outbox.ids import uuid_of

from . import attempts, disputes, gateways, lifecycle, refunds, returns
from .at_gateway import difference
from .books import answers
from .gateways.base import Answer, BadEvent, DisputeAnswer, RefundAnswer, RefundStatus
from .gateways.base import Status as GatewayStatus
from .lifecycle import Event
from .messages import HandleWebhook, RefundReceipt
from .metrics import WEBHOOKS
from .models import Outgoing, Payment, WebhookReceipt

Status = WebhookReceipt.Status
About = WebhookReceipt.About
Content = Answer | RefundAnswer | DisputeAnswer
KEPT_HEADERS = ("content-type", "user-agent", "x-correlation-id", "traceparent", "stripe-signature")
BATCH = 500  # kept webhooks in one transaction
UPGRADING = "upgrading"  # why a webhook is not handled while processes of the release before would misread it

ABOUT: dict[type[Content], About] = {
    Answer: About.PAYMENT,
    RefundAnswer: About.REFUND,
    DisputeAnswer: About.DISPUTE,
}
EVENTS = {
    GatewayStatus.PENDING: Event.WEBHOOK_PENDING,
    GatewayStatus.AUTHORIZED: Event.WEBHOOK_AUTHORIZED,
    GatewayStatus.SUCCEEDED: Event.WEBHOOK_PAID,
    GatewayStatus.FAILED: Event.WEBHOOK_UNPAID,
    GatewayStatus.CANCELED: Event.WEBHOOK_UNPAID,
    GatewayStatus.REFUNDED: Event.WEBHOOK_REFUNDED,
}


class WebhookIdReused(Refusal):
    """Another webhook was received under this id."""

    code = "webhook_id_reused"


# Receiving ----------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def receive(*, gateway: str, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookReceipt:
    """
    Verify a webhook, store it to be handled, and return its receipt. A webhook that is sent again has the same receipt.

    :raises common.signing.BadSignature: if the gateway did not sign it, or did so long ago
    :raises gateways.base.BadEvent: if the gateway sent it and it cannot be read
    :raises WebhookIdReused: if another webhook was received under its id
    """
    adapter = gateways.get(gateway)
    event = adapter.parse_webhook(headers=headers, body=body, now=now)
    about = event.about and _with_order(gateway, event.about)
    why_not = _why_not(about)
    receipt, created = _store(
        gateway,
        event.webhook_id,
        about,
        status=Status.DISCARDED if why_not else Status.RECEIVED,
        reason=why_not,
        headers={name: value for name, value in headers.items() if _is_kept(name)},
        body=body,
        now=now,
    )
    if not created and bytes(receipt.body) != body and not _is_same(adapter, bytes(receipt.body), body):
        raise WebhookIdReused("Another webhook was received under this id.")
    return receipt


@transaction.atomic(using="payments")
def report(*, gateway: str, about: Content, now: datetime, status: Status = Status.RECEIVED) -> WebhookReceipt:
    """
    Store what a gateway has answered when it was asked, to be handled as if a webhook had said it; return the receipt.

    The same answer has the same receipt until that is settled. With another `status` nothing happens by itself.
    """
    body = answers.dump(about)
    name = f"asked.{hashlib.sha256(body).hexdigest()}"
    told = WebhookReceipt.objects.filter(gateway=gateway, webhook_id__startswith=name)
    number = told.exclude(status__in=WebhookReceipt.UNSETTLED).count()
    about = _with_order(gateway, about)
    return _store(gateway, f"{name}.{number}", about, status=status, headers=answers.HEADER, body=body, now=now)[0]


def _store(
    gateway: str,
    webhook_id: str,
    about: Content | None,
    *,
    status: Status,
    reason: str = "",
    headers: dict[str, str],
    body: bytes,
    now: datetime,
) -> tuple[WebhookReceipt, bool]:
    """Store a receipt, unless there is one of this id, and have it handled; return it, and whether it is new."""
    receipt, created = WebhookReceipt.objects.get_or_create(
        gateway=gateway,
        webhook_id=webhook_id,
        defaults={
            "status": status,
            "reason": reason or (UPGRADING if _is_new(about) and settings.UPGRADING else ""),
            "headers": headers,
            "body": body,
            "received_at": now,
            **(_columns(about) if about else {}),
        },
    )
    if created and receipt.status == Status.RECEIVED and not receipt.reason:
        _post(receipt)
    return receipt, created


def _with_order(gateway: str, about: Content) -> Content:
    """What a webhook is about, with the order of its payment if the gateway does not tell it and we know it."""
    if about.order_id or isinstance(about, Answer):
        return about
    payment = Payment.objects.filter(gateway=gateway, gateway_payment_id=about.payment_id).first()
    return replace(about, order_id=payment.reference) if payment else about


def _why_not(about: Content | None) -> str:
    """Return why a webhook is none of our business; "" if it may be."""
    if about is None:
        return "not_about_a_payment"
    is_named = isinstance(about, Answer) or (isinstance(about, RefundAnswer) and is_return_of_stray(about))
    if not about.order_id and not is_named:
        return "unknown_payment"
    installation, _colon, order_id = about.reference.rpartition(":")
    if (
        installation == settings.INSTALLATION
        or Payment.objects.filter(pk=order_id, installation=installation).exists()  # from under a former name
    ):
        return ""
    return "another_installation"


def _columns(about: Content) -> dict[str, object]:
    installation, _colon, order_id = about.reference.rpartition(":")
    return {
        "about": ABOUT[type(about)],
        "says": str(about.status),
        "amount": about.amount,
        "currency": about.currency,
        "payment_id": about.payment_id,
        "order_id": order_id[:64],
        "installation": installation[:20],
    }


def _is_new(about: Content | None) -> bool:
    """Return whether processes of the release before would misread it: they know ends of payments only."""
    ends = (GatewayStatus.SUCCEEDED, GatewayStatus.FAILED, GatewayStatus.CANCELED)
    return about is not None and not (isinstance(about, Answer) and about.status in ends)


def _is_same(adapter: gateways.Gateway, stored: bytes, body: bytes) -> bool:
    """Return whether two bodies differ only in what is about the delivery."""
    return adapter.read_webhook(body=stored) == adapter.read_webhook(body=body)


def _is_kept(name: str) -> bool:
    return name.lower() in KEPT_HEADERS or name.lower().startswith("webhook-")


def _post(receipt: WebhookReceipt) -> None:
    Outgoing.post(HandleWebhook(receipt_id=str(receipt.pk), order_id=receipt.order_id))


# Handling -----------------------------------------------------------------------------------------------------------


@transaction.atomic(using="payments")
def handle(*, receipt_id: str, now: datetime) -> WebhookReceipt:
    """Handle a webhook, once, and return its receipt; a webhook that does not fit is kept."""
    payment, receipt = _lock(receipt_id)
    if receipt.status not in (Status.RECEIVED, Status.UNMATCHED) or receipt.is_being_returned:
        return receipt
    try:
        about = content(receipt)
    except BadEvent as error:
        return settle(receipt, Status.QUARANTINED, reason=error.code, now=now)
    status, reason = _judge(receipt, about, payment)
    if status == Status.APPLIED:
        assert payment is not None
        status, reason = apply(receipt, about, payment, now=now)
    elif payment is not None and _is_second(payment, about):
        return _return_second(receipt, now=now)
    elif isinstance(about, RefundAnswer) and _is_return_of_stray(receipt, about):
        if about.status == RefundStatus.FAILED:
            _return_again(about, receipt)
        status, reason = Status.DISCARDED, "return_of_stray_money"
    return settle(receipt, status, reason=reason, now=now)


def _lock(receipt_id: str) -> tuple[Payment | None, WebhookReceipt]:
    """Lock the payment that a receipt names, and then the receipt, and return both. Everybody locks in this order."""
    receipt = WebhookReceipt.objects.get(pk=uuid_of(receipt_id))
    payment = Payment.lock(receipt.order_id) if receipt.order_id else None
    return payment, WebhookReceipt.objects.select_for_update().get(pk=receipt.pk)


def content(receipt: WebhookReceipt) -> Content:
    """
    Return what a stored webhook says, about the order that its receipt names, unless it tells none.

    :raises BadEvent: if it cannot be read, or is about nothing of ours
    """
    if receipt.headers == answers.HEADER:
        about: Content | None = answers.load(bytes(receipt.body))
    else:
        about = gateways.get(receipt.gateway).read_webhook(body=bytes(receipt.body)).about
    if about is None:
        raise BadEvent("The webhook is about nothing of ours.")
    # A refund or dispute that tells no order is known by its payment; that it tells none says that it is none of ours.
    return replace(about, order_id=receipt.reference) if about.order_id or isinstance(about, Answer) else about


def _judge(receipt: WebhookReceipt, about: Content, payment: Payment | None) -> tuple[Status, str]:
    """Return the status that a receipt gets by what is known of its payment, and the reason."""
    if payment is None or payment.gateway != receipt.gateway:
        if Payment.objects.filter(gateway=receipt.gateway, gateway_payment_id=receipt.payment_id).exists():
            return Status.QUARANTINED, "order_mismatch"
        return Status.UNMATCHED, "unknown_order"
    if not payment.gateway_payment_id:
        if payment.status in Payment.NAMELESS:
            return Status.UNMATCHED, "unknown_payment"  # the reply to our request is still on its way
        # The reply never came: the webhook is the first to tell the id.
        payment.gateway_payment_id = receipt.payment_id
    reason = difference(payment, about)
    return (Status.QUARANTINED, reason) if reason else (Status.APPLIED, "")


def _is_second(payment: Payment, about: Content) -> bool:
    """Return whether this is another payment that we have made for the order, after the gateway broke at the first."""
    return (
        isinstance(about, Answer)
        and payment.broken > 0
        and "" != payment.gateway_payment_id != about.payment_id
        and not difference(payment, replace(about, payment_id=payment.gateway_payment_id))
    )


def name_of_return(payment_id: str) -> str:
    """Return our name of the first refund of money that belongs to no order; further ones have a number as well."""
    return f"stray.{payment_id}.refund"


def is_return_of_stray(refund: RefundAnswer) -> bool:
    """Return whether a refund has our name of one of money that belongs to no order."""
    return refund.refund_id.startswith(name_of_return(refund.payment_id))


def _is_return_of_stray(receipt: WebhookReceipt, refund: RefundAnswer) -> bool:
    """Return whether this refund is ours of money that belongs to no order, or one by hand that has not failed."""
    if is_return_of_stray(refund):
        return True
    decided = WebhookReceipt.objects.filter(gateway=receipt.gateway, payment_id=receipt.payment_id, about=About.PAYMENT)
    is_decided = decided.exclude(decided_by="").exclude(status=Status.DISCARDED).exists()
    return is_decided and refund.status != RefundStatus.FAILED


def _return_again(refund: RefundAnswer, receipt: WebhookReceipt) -> None:
    """
    Have the gateway asked once more about money that went back, as it says now that this has failed. It may be an old
    failure; if nothing else went back, it is decided about again: see decisions.py.
    """
    returned = WebhookReceipt.objects.select_for_update().filter(
        gateway=receipt.gateway, payment_id=receipt.payment_id, about=About.PAYMENT, status=Status.REFUNDED
    )
    for one in returned.order_by("pk"):
        one.status, one.reason, one.unanswered = Status.QUARANTINED, "refund_failed", 0
        one.save(update_fields=["status", "reason", "unanswered"])
        command = RefundReceipt(
            receipt_id=str(one.pk), order_id=one.order_id, amount=refund.amount, currency=refund.currency
        )
        Outgoing.post(command)


def _return_second(receipt: WebhookReceipt, *, now: datetime) -> WebhookReceipt:
    """Have the gateway cancel or refund a second payment of the order."""
    command = RefundReceipt(
        receipt_id=str(receipt.pk), order_id=receipt.order_id, amount=receipt.amount, currency=receipt.currency
    )
    Outgoing.post(command)
    return settle(receipt, Status.QUARANTINED, reason="second_payment", actor="payments", now=now)


def apply(receipt: WebhookReceipt, about: Content, payment: Payment, *, now: datetime) -> tuple[Status, str]:
    """Let what a webhook says happen to its payment, which is locked; return the new status of its receipt, and why."""
    try:
        match about:
            case Answer():
                attempts.keep(payment, about, now=now)
                lifecycle.advance(payment, EVENTS[about.status], now=now, captured=about.captured)
            case RefundAnswer() if returns.is_ours(payment, about):
                return _apply_return(about, payment, receipt, now=now)
            case RefundAnswer():
                return refunds.apply_webhook(about, receipt, now=now)
            case DisputeAnswer():
                return disputes.apply_webhook(about, receipt, now=now)
    except lifecycle.Contradiction as contradiction:
        return Status.QUARANTINED, contradiction.code
    return Status.APPLIED, ""


def _apply_return(
    refund: RefundAnswer, payment: Payment, receipt: WebhookReceipt, *, now: datetime
) -> tuple[Status, str]:
    event = returns.event(payment, refund, is_webhook=True)
    if event == Event.DIFFERENT:
        return receipt.early_or_wrong(now=now), refunds.EXCEEDS
    if event is not None:
        payment.gateway_refund_id = refund.gateway_refund_id
        refusal = (refund.fail_reason or "refund_failed")[:50]
        lifecycle.advance(payment, event, now=now, refusal=refusal, refund=refund)
    return Status.APPLIED, ""


def settle(
    receipt: WebhookReceipt, status: Status, *, reason: str = "", actor: str = "", now: datetime
) -> WebhookReceipt:
    """Store what became of a webhook, and return its receipt."""
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
    WHERE receipt.status = '{Status.UNMATCHED}' AND (receipt.decided_by = '' OR receipt.about <> '{About.PAYMENT}')
      AND (payment.gateway_payment_id <> '' OR payment.status NOT IN ({NAMELESS}))
    ORDER BY receipt.received_at LIMIT {BATCH}
    FOR UPDATE OF receipt SKIP LOCKED
)
UPDATE payments_webhookreceipt receipt SET status = '{Status.RECEIVED}' FROM known WHERE receipt.id = known.id
RETURNING receipt.id, receipt.order_id
"""  # noqa: S608 - the statuses are ours

UPGRADED = f"""
WITH kept AS (
    SELECT id FROM payments_webhookreceipt WHERE status = '{Status.RECEIVED}' AND reason = '{UPGRADING}'
    ORDER BY received_at LIMIT {BATCH}
    FOR UPDATE SKIP LOCKED
)
UPDATE payments_webhookreceipt receipt SET reason = '' FROM kept WHERE receipt.id = kept.id
RETURNING receipt.id, receipt.order_id
"""  # noqa: S608 - the statuses are ours


def sweep() -> int:
    """
    Have kept webhooks handled whose payment is known by now, or settled without them, or which waited for the end of an
    upgrade; return how many there were.

    They count as received again, so that each is handled once for each time that it is found.
    """
    return work_off(_sweep, batch=BATCH)


@transaction.atomic(using="payments")
def _sweep() -> int:
    found = rows("payments", KNOWN_NOW) + ([] if settings.UPGRADING else rows("payments", UPGRADED))
    Outgoing.post(*(HandleWebhook(receipt_id=str(receipt_id), order_id=order_id) for receipt_id, order_id in found))
    return len(found)
