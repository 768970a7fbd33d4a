"""The commands that payments takes, and the events that it announces."""

from outbox.message import Message


class Charge(Message, name="payments.charge", to="payments", withheld=("deadline",)):
    """
    Take the money for this order: from the account of `user_id`, if it is the principal's, or through a gateway.

    After `deadline` no money is taken any more.
    """

    order_id: str
    amount: int
    currency: str
    method: str
    user_id: str | None = None
    principal: str = ""
    deadline: str | None = None


class Void(Message, name="payments.void", to="payments"):
    """Make sure that no money of this order stays in: never take it, or give it back if it was taken."""

    order_id: str


class Refund(Message, name="payments.refund", to="payments"):
    """Give the money of this order back."""

    order_id: str


class PaymentPending(Message, name="payment.pending", to="orders"):
    """The gateway has accepted the payment; the money is not in yet."""

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
    """No money was taken for this order, and none ever will be."""

    order_id: str


class PaymentRefunded(Message, name="payment.refunded", to="orders"):
    """The money that was taken has been given back."""

    order_id: str


class PaymentReturnRefused(Message, name="payment.return_refused", to="orders"):
    """The gateway refuses to cancel the payment or to return its money; `reason` is its code. A person decides."""

    order_id: str
    reason: str


class CallGateway(Message, name="payments.turn_to_gateway", to="payments"):
    """Payments to itself: make the call that this payment needs in its status: create, look up, cancel or refund."""

    order_id: str


class HandleWebhook(Message, name="payments.handle_webhook", to="payments"):
    """Payments to itself: handle a webhook that was stored."""

    receipt_id: str
    order_id: str


class RefundReceipt(Message, name="payments.refund_receipt", to="payments", withheld=("amount", "currency")):
    """Payments to itself: have the gateway refund money that belongs to no order, if it has exactly this amount."""

    receipt_id: str
    order_id: str
    amount: int | None = None
    currency: str = ""
