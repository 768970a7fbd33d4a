"""What drives payments in tests, in the place of relay, broker and workers: messages are handled one by one."""

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from payments import decisions, gateway_calls, messages, reading, receipts, refunds
from payments.models import Entry, Outgoing, Payment

NOW = timezone.now()


def work() -> list[dict[str, Any]]:
    """Handle what payments has posted to itself, and return what it has told orders, with the types."""
    told = []
    while (row := Outgoing.objects.filter(published_at=None).order_by("id").first()) is not None:
        told += handle(row)
    return told


def handle(row: Any) -> list[dict[str, Any]]:
    """Handle one message of payments to itself; return it if it is to orders."""
    Outgoing.objects.filter(pk=row.pk).update(published_at=NOW)
    match row.type:
        case "payments.turn_to_gateway":
            call(row.data["order_id"])
        case "payments.call_for_refund":
            call_for = messages.CallForRefund(**row.data)
            refunds.record(reply=refunds.call_gateway(call_for), now=timezone.now(), **row.data)
        case "payments.handle_webhook":
            receipts.handle(receipt_id=row.data["receipt_id"], now=timezone.now())
        case "payments.refund_receipt":
            command = messages.RefundReceipt(**row.data)
            decisions.record(message=command, reply=decisions.refund_at_gateway(command), now=timezone.now())
        case _:
            return [{"type": row.type} | row.data]
    return []


def call(order_id: str) -> None:
    """Make the call that a payment needs now, and record the reply."""
    reply = gateway_calls.call_gateway(messages.CallGateway(order_id=order_id))
    with transaction.atomic("payments"):
        gateway_calls.record(order_id=order_id, reply=reply, now=timezone.now())


def ask_again() -> list[dict[str, Any]]:
    """Have the gateway asked about all that waits for it, as the janitor does in time."""
    later = timezone.now() + timedelta(days=30)
    gateway_calls.post_due_calls(now=later)
    refunds.post_due_calls(now=later)
    receipts.sweep()
    return work()


def types(told: list[dict[str, Any]]) -> list[str]:
    """Return the types of messages."""
    return [message["type"] for message in told]


def stored(order_id: str = "o") -> Payment:
    """Return the payment as it is stored."""
    return Payment.objects.get(pk=order_id)


def moved(order_id: str = "o") -> list[tuple[str, int]]:
    """Return the kinds and amounts of the entries of an order."""
    return list(Entry.objects.filter(order_id=order_id).order_by("id").values_list("kind", "amount"))


def view() -> reading.PaymentView:
    """Return the payment as orders sees it."""
    found = reading.payment_of("o")
    assert found is not None
    return found
