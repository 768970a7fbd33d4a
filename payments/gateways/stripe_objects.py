"""
What Stripe's objects mean, as they are in its answers and in its events.

Every function raises ValueError, LookupError, TypeError, AttributeError or OverflowError for what is no such object.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from .base import Answer, Attempt, DisputeAnswer, DisputeStatus, RefundAnswer, RefundStatus, Status, Transaction

VERSION = "2026-08-26.dahlia"

INTENTS = {
    "requires_payment_method": Status.PENDING,
    "requires_confirmation": Status.PENDING,
    "requires_action": Status.PENDING,
    "processing": Status.PENDING,
    "requires_capture": Status.AUTHORIZED,
    "succeeded": Status.SUCCEEDED,
    "canceled": Status.CANCELED,
}
REFUNDS = {
    "pending": RefundStatus.PENDING,
    "requires_action": RefundStatus.PENDING,
    "succeeded": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.FAILED,
    "canceled": RefundStatus.FAILED,
}
# Inquiries (`warning_…`) take no money, and are nothing of ours.
DISPUTES = {
    "needs_response": DisputeStatus.OPENED,
    "under_review": DisputeStatus.OPENED,
    "won": DisputeStatus.WON,
    "prevented": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
}
Kind = Transaction.Kind
# By `reporting_category`, not by `type`: that is `adjustment` for disputes and their ends alike, and `refund` also for
# the rest of a capture of less, which is released.
TRANSACTIONS = {
    "charge": Kind.CHARGE,
    "refund": Kind.REFUND,
    "refund_failure": Kind.REFUND_FAILED,
    "dispute": Kind.DISPUTE,
    "dispute_reversal": Kind.DISPUTE_WON,
}
# The reason of a refund that is Stripe's own: what was reserved and not captured in time is released.
RELEASED = "expired_uncaptured_charge"
# Charges by methods that take days are booked before they have succeeded, and booked back if they don't.
UNSURE = ("pending", "failed")
# The hosted page or the instructions of what a payer has to do, where it is not in an object of the action's name.
URLS = ("url", "hosted_voucher_url", "hosted_instructions_url", "hosted_verification_url")


def payment(intent: Any) -> Answer:
    """Return the payment that a PaymentIntent is."""
    payment_id, amount, status = intent["id"], intent["amount"], INTENTS[intent["status"]]
    if not are_texts(payment_id, intent["currency"], order_of(intent), max_length=100) or type(amount) is not int:
        raise ValueError("not a PaymentIntent")
    charge = intent.get("latest_charge")
    charge = charge if isinstance(charge, dict) else {}
    problem = intent.get("last_payment_error") or {}
    received = intent.get("amount_received")
    if status == Status.SUCCEEDED and charge.get("refunded") is True:
        status = Status.REFUNDED
    return Answer(
        payment_id=payment_id,
        order_id=order_of(intent),
        status=status,
        amount=amount,
        currency=intent["currency"].upper(),
        fail_reason=_code_of(problem),
        captured=received if type(received) is int and status == Status.SUCCEEDED and received != amount else None,
        client_secret=_text(intent.get("client_secret"), 255) if status == Status.PENDING else "",
        next_action=_next_action(intent.get("next_action")) if status == Status.PENDING else None,
        attempt=_attempt(intent, problem) if problem else None,
        authorized_until=_moment(_capture_before(charge)) if status == Status.AUTHORIZED else None,
    )


def order_of(content: Mapping[str, Any]) -> str:
    """Return the name of the order that an object of ours carries; "" if it carries none."""
    return (content.get("metadata") or {}).get("order_id") or ""


def _code_of(problem: Mapping[str, Any]) -> str:
    return str(problem.get("decline_code") or problem.get("code") or problem.get("type") or "")[:50]


def _attempt(intent: Mapping[str, Any], problem: Mapping[str, Any]) -> Attempt:
    # An attempt has a charge, unless it failed before there was one, as authentication does.
    method = problem.get("payment_method")
    method_id = method.get("id", "") if isinstance(method, dict) else ""
    attempt_id = _text(problem.get("charge"), 100) or f"{intent['id']}.{method_id}.{_code_of(problem)}"
    return Attempt(
        attempt_id=attempt_id[:100],
        code=_code_of(problem) or "payment_declined",
        message=_text(problem.get("message"), 500),
    )


def _next_action(action: Any) -> dict[str, str] | None:
    """Return what the payer has to do, with the page where that is done if there is one."""
    if not isinstance(action, dict):
        return None
    kind = _text(action.get("type"), 50)
    details = action.get(kind)
    details = details if isinstance(details, dict) else {}
    url = next((url for name in URLS if (url := _text(details.get(name), 2000))), "")
    return {"type": kind} | ({"url": url} if url.startswith("https://") else {})


def _capture_before(charge: Mapping[str, Any]) -> Any:
    methods = charge.get("payment_method_details")
    for details in methods.values() if isinstance(methods, dict) else ():
        if isinstance(details, dict) and "capture_before" in details:
            return details["capture_before"]
    return None


def refund(content: Any) -> RefundAnswer | None:
    """Return the refund that this is; None if reserved money was released, which nobody had taken."""
    if content.get("reason") == RELEASED:
        return None
    refund_id, payment_id, amount = content["id"], content["payment_intent"], content["amount"]
    metadata = content.get("metadata") or {}
    ours = metadata.get("refund_id") or ""
    texts = (refund_id, payment_id, content["currency"], order_of(content), ours)
    if not are_texts(*texts, max_length=100) or type(amount) is not int:
        raise ValueError("not a refund")
    status = REFUNDS[content["status"]]
    reason = _text(content.get("failure_reason"), 50) or ("canceled" if content["status"] == "canceled" else "")
    return RefundAnswer(
        gateway_refund_id=refund_id,
        payment_id=payment_id,
        status=status,
        amount=amount,
        currency=content["currency"].upper(),
        order_id=order_of(content),
        refund_id=ours,
        fail_reason=reason if status == RefundStatus.FAILED else "",
    )


def dispute(content: Any) -> DisputeAnswer | None:
    """Return the dispute that this is; None if it is an inquiry, which takes no money."""
    status = content["status"]
    if not isinstance(status, str) or status.startswith("warning_"):
        return None
    dispute_id, payment_id, amount = content["id"], content["payment_intent"], content["amount"]
    if not are_texts(dispute_id, payment_id, content["currency"], max_length=100) or type(amount) is not int:
        raise ValueError("not a dispute")
    evidence = content.get("evidence_details")
    return DisputeAnswer(
        dispute_id=dispute_id,
        payment_id=payment_id,
        status=DISPUTES[status],
        amount=amount,
        currency=content["currency"].upper(),
        order_id=order_of(content),
        reason=_text(content.get("reason"), 100),
        respond_by=_moment(evidence.get("due_by")) if isinstance(evidence, dict) else None,
    )


def transaction(content: Any) -> Transaction:
    """Return the movement that a balance transaction, with its source, is."""
    transaction_id, amount, fee = content["id"], content["amount"], content["fee"]
    source = content.get("source")
    source = source if isinstance(source, dict) else {}
    kind = TRANSACTIONS.get(content["reporting_category"], Kind.OTHER)
    if kind == Kind.CHARGE and source.get("status") in UNSURE:
        kind = Kind.OTHER
    payment_id = source.get("payment_intent") or ""
    source_id = payment_id if kind == Kind.CHARGE else source.get("id") or ""
    if not are_texts(transaction_id, content["currency"], payment_id, source_id, max_length=100) or not all(
        type(number) is int for number in (amount, fee, content["created"])
    ):
        raise ValueError("not a balance transaction")
    of_balance, of_payment = content["currency"], source.get("currency") or content["currency"]
    if kind == Kind.CHARGE:  # booked with all that was reserved, the rest of which is released by another transaction
        amount = source.get("amount_captured", amount)
    elif kind != Kind.OTHER and of_payment != of_balance:  # converted: the amount is that of the refund or dispute
        amount = source["amount"]
    if not are_texts(of_payment, max_length=3) or type(amount) is not int:
        raise ValueError("not a balance transaction")
    return Transaction(
        transaction_id=transaction_id,
        kind=kind,
        amount=abs(amount),
        fee=fee,
        currency=of_payment.upper(),
        fee_currency="" if of_payment == of_balance else of_balance.upper(),
        at=datetime.fromtimestamp(content["created"], UTC),
        payment_id=payment_id,
        source_id=source_id,
        order_id=order_of(source)[:100],
        description=_text(content.get("description"), 200),
    )


def are_texts(*values: object, max_length: int) -> bool:
    """Whether all of these are texts that can be stored."""
    return all(isinstance(value, str) and len(value) <= max_length and "\0" not in value for value in values)


def _text(value: object, max_length: int) -> str:
    return value[:max_length].replace("\0", "") if isinstance(value, str) else ""


def _moment(seconds: object) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if type(seconds) is int else None


# Events -------------------------------------------------------------------------------------------------------------

About = Answer | RefundAnswer | DisputeAnswer | None


def _of_payment(intent: Any, kind: str, at: datetime | None) -> About:
    """The attempt that failed is as old as the event about it."""
    answer = payment(intent)
    if answer.attempt is None:
        return answer
    attempt = Attempt(**{**vars(answer.attempt), "at": at}) if kind.endswith(".payment_failed") else None
    return Answer(**{**vars(answer), "attempt": attempt})


def _of_refund(content: Any, kind: str, at: datetime | None) -> About:
    return refund(content) if content.get("payment_intent") else None  # one of a charge without a PaymentIntent


def _of_dispute(content: Any, kind: str, at: datetime | None) -> About:
    return dispute(content) if content.get("payment_intent") else None


EVENTS: dict[str, Callable[[Any, str, datetime | None], About]] = {
    **dict.fromkeys(
        (
            "payment_intent.succeeded",
            "payment_intent.payment_failed",
            "payment_intent.canceled",
            "payment_intent.processing",
            "payment_intent.requires_action",
            "payment_intent.amount_capturable_updated",
        ),
        _of_payment,
    ),
    **dict.fromkeys(("refund.created", "refund.updated", "refund.failed", "charge.refund.updated"), _of_refund),
    **dict.fromkeys(
        (
            "charge.dispute.created",
            "charge.dispute.updated",
            "charge.dispute.closed",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.funds_reinstated",
        ),
        _of_dispute,
    ),
}
