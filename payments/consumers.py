"""Commands in, answers out."""

from django.utils import timezone

from outbox.consumers import consumes

from . import lifecycle as clearing
from . import messages, receipts, services


@consumes(messages.Charge)
def charge(command: messages.Charge) -> None:
    """Take the money, or say plainly why not; or begin to, through a gateway."""
    now = timezone.now()
    if command.method == "gateway":
        payment = clearing.request(order_id=command.order_id, amount=command.amount, currency=command.currency, now=now)
    else:
        payment = services.charge_account(
            order_id=command.order_id,
            user_id=command.user_id,
            principal=command.principal,
            money=services.Money(command.amount, command.currency),
            now=now,
        )
    clearing.tell(payment)


@consumes(messages.Void)
def void(command: messages.Void) -> None:
    """Let no money stay in, and say what became of it."""
    clearing.tell(services.give_back(order_id=command.order_id, now=timezone.now()))


@consumes(messages.Refund)
def refund(command: messages.Refund) -> None:
    """Give the money back, and say so."""
    clearing.tell(services.give_back(order_id=command.order_id, now=timezone.now()))


@consumes(messages.TurnToGateway, first=clearing.turn_to_gateway)
def turn_to_gateway(message: messages.TurnToGateway, heard: clearing.Heard | None) -> None:
    """Record what the gateway said."""
    clearing.record(order_id=message.order_id, heard=heard, now=timezone.now())


@consumes(messages.HandleWebhook)
def handle_webhook(message: messages.HandleWebhook) -> None:
    """Act on what a gateway has told."""
    receipts.handle(receipt_id=message.receipt_id, now=timezone.now())


@consumes(messages.RefundReceipt, first=receipts.refund_at_gateway)
def refund_receipt(message: messages.RefundReceipt, refunded: bool) -> None:
    """Record that stray money went back."""
    receipts.refunded(receipt_id=message.receipt_id, now=timezone.now())
