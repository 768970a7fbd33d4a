"""What payments does with each message that it receives."""

from collections.abc import Sequence
from datetime import datetime

from outbox import clock
from outbox.arrivals import Arrived
from outbox.consumers import consumes

from . import decisions, gateway_calls, messages, receipts, refunds, services


def charge_all(arrived: Sequence[Arrived]) -> None:
    """Do for many orders what `charge` does for one; those that are paid from accounts at once."""
    from_accounts: dict[str, services.AccountCharge] = {}
    others = []
    for one in arrived:
        command = one.message
        if command.method == "gateway" or command.order_id in from_accounts:
            others.append(one)
        else:
            from_accounts[command.order_id] = services.AccountCharge(
                order_id=command.order_id,
                user_id=command.user_id or "",
                principal=command.principal,
                money=services.Money(command.amount, command.currency),
                deadline=_deadline(command),
                acting=one.acting,
            )
    services.charge_accounts(list(from_accounts.values()), now=clock.now("payments"))
    for one in others:
        with one.acting() as command:
            charge(command)


@consumes(messages.Charge, together=charge_all)
def charge(command: messages.Charge) -> None:
    """Take the money from the account, or begin to take it through the gateway."""
    now, money = clock.now("payments"), services.Money(command.amount, command.currency)
    deadline = _deadline(command)
    if command.method == "gateway":
        services.charge_gateway(
            order_id=command.order_id,
            money=money,
            now=now,
            deadline=deadline,
            is_manual=command.capture == "manual",
        )
    else:
        services.charge_account(
            order_id=command.order_id,
            user_id=command.user_id,
            principal=command.principal,
            money=money,
            now=now,
            deadline=deadline,
        )


def _deadline(command: messages.Charge) -> datetime | None:
    return clock.moment_of(command.deadline) if command.deadline else None


@consumes(messages.Capture)
def capture(command: messages.Capture) -> None:
    """Have money that is reserved taken."""
    services.capture(order_id=command.order_id, amount=command.amount, now=clock.now("payments"))


@consumes(messages.Void)
def void(command: messages.Void) -> None:
    """Make sure that no money of the order stays in."""
    services.give_back(order_id=command.order_id, now=clock.now("payments"))


@consumes(messages.Refund)
def refund(command: messages.Refund) -> None:
    """Give the money of the order back."""
    services.give_back(order_id=command.order_id, now=clock.now("payments"))


@consumes(messages.CallGateway, first=gateway_calls.call_gateway)
def call_gateway(message: messages.CallGateway, reply: gateway_calls.GatewayReply | None) -> None:
    """Record the gateway's reply, with what follows."""
    gateway_calls.record(order_id=message.order_id, reply=reply, now=clock.now("payments"))


@consumes(messages.RefundPart)
def refund_part(command: messages.RefundPart) -> None:
    """Begin to give a part of the money of the order back."""
    refunds.request(
        order_id=command.order_id,
        refund_id=command.refund_id,
        money=services.Money(command.amount, command.currency),
        reason=command.reason,
        now=clock.now("payments"),
    )


@consumes(messages.CallForRefund, first=refunds.call_gateway)
def call_for_refund(message: messages.CallForRefund, reply: refunds.Reply | None) -> None:
    """Record the gateway's reply about a refund, with what follows."""
    refunds.record(order_id=message.order_id, refund_id=message.refund_id, reply=reply, now=clock.now("payments"))


@consumes(messages.HandleWebhook)
def handle_webhook(message: messages.HandleWebhook) -> None:
    """Handle a webhook that was stored."""
    receipts.handle(receipt_id=message.receipt_id, now=clock.now("payments"))


@consumes(messages.RefundReceipt, first=decisions.refund_at_gateway)
def refund_receipt(message: messages.RefundReceipt, reply: decisions.Reply | None) -> None:
    """Record whether money which belongs to no order went back, with what follows."""
    decisions.record(message=message, reply=reply, now=clock.now("payments"))
