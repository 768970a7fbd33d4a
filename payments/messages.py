"""What payments can be asked, and what it tells."""

from outbox.message import Message


class Charge(Message, name="payments.charge", to="payments"):
    """Take the money for this order: from the account of `user_id`, if it is the principal's, or through a gateway."""

    order_id: str
    amount: int
    currency: str
    method: str
    user_id: str | None = None
    principal: str = ""


class Void(Message, name="payments.void", to="payments"):
    """Let no money of this order stay in: never take it, or give it back if it was taken."""

    order_id: str


class Refund(Message, name="payments.refund", to="payments"):
    """Give the money of this order back."""

    order_id: str


class PaymentPending(Message, name="payment.pending", to="orders"):
    """The gateway has the payment; the money is not in yet."""

    order_id: str
    payment_id: str


class PaymentSucceeded(Message, name="payment.succeeded", to="orders"):
    """The money is in."""

    order_id: str
    payment_id: str


class PaymentFailed(Message, name="payment.failed", to="orders"):
    """No money was taken, and none will be."""

    order_id: str
    reason: str


class PaymentVoided(Message, name="payment.voided", to="orders"):
    """Nothing was taken for this order, and nothing ever will be."""

    order_id: str


class PaymentRefunded(Message, name="payment.refunded", to="orders"):
    """What was taken has been given back."""

    order_id: str


class TurnToGateway(Message, name="payments.turn_to_gateway", to="payments"):
    """To ourselves: do at the gateway what this payment needs as it stands: open it, ask, cancel or give back."""

    order_id: str


class HandleWebhook(Message, name="payments.handle_webhook", to="payments"):
    """To ourselves: act on a webhook that was taken in."""

    receipt_id: str
    order_id: str


class RefundReceipt(Message, name="payments.refund_receipt", to="payments"):
    """To ourselves: give back, at the gateway, money that belongs to no order."""

    receipt_id: str
    order_id: str
