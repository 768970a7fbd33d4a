"""The commands that payments takes, and the events that it announces."""

from outbox.message import Message


class Charge(Message, name="payments.charge", to="payments", withheld=("deadline", "capture"), batched=True):
    """
    Take the money for this order: from the account of `user_id`, if it is the principal's, or through a gateway.

    After `deadline` no money is taken any more. With `capture` `manual` a gateway only reserves it; an account reserves
    nothing, and is charged at once.
    """

    order_id: str
    amount: int
    currency: str
    method: str
    user_id: str | None = None
    principal: str = ""
    deadline: str | None = None
    capture: str | None = None  # None, as before there was a choice, is automatic


class Capture(Message, name="payments.capture", to="payments"):
    """Take this much of the money that is reserved for the order, and release the rest."""

    order_id: str
    amount: int


class Void(Message, name="payments.void", to="payments"):
    """Make sure that no money of this order stays in: never take it, or give it back if it was taken."""

    order_id: str


class Refund(Message, name="payments.refund", to="payments"):
    """Give back all the money of this order that is left."""

    order_id: str


class RefundPart(Message, name="payments.refund_part", to="payments"):
    """Give a part of the money of this order back, and answer with `refund.succeeded` or `refund.failed`."""

    order_id: str
    refund_id: str
    amount: int
    currency: str
    reason: str = ""


class PaymentPending(Message, name="payment.pending", to="orders"):
    """The gateway has accepted the payment; the money is not in yet."""

    order_id: str
    payment_id: str


class PaymentAuthorized(Message, name="payment.authorized", to="orders"):
    """The money is reserved, until `expires_at`, and waits to be captured."""

    order_id: str
    payment_id: str
    amount: int
    expires_at: str | None = None


class PaymentSucceeded(Message, name="payment.succeeded", to="orders", withheld=("amount",), batched=True):
    """The money is in: `amount` of it, or all of it."""

    order_id: str
    payment_id: str
    amount: int | None = None


class PaymentFailed(Message, name="payment.failed", to="orders"):
    """No money was taken, and none will be."""

    order_id: str
    reason: str


class PaymentVoided(Message, name="payment.voided", to="orders"):
    """No money was taken for this order, and none ever will be."""

    order_id: str


class PaymentRefunded(Message, name="payment.refunded", to="orders", withheld=("amount",)):
    """The money that was taken has been given back: all of it, or the `amount` that no lost dispute has taken."""

    order_id: str
    amount: int | None = None


class RefundSucceeded(Message, name="refund.succeeded", to="orders"):
    """
    A part of the money is back, which makes `refunded` of it in all. `reason` says why if it was not asked for here but
    made at the gateway.
    """

    order_id: str
    refund_id: str
    amount: int
    currency: str
    reason: str = ""
    refunded: int | None = None


class RefundFailed(Message, name="refund.failed", to="orders"):
    """
    A part of the money did not go back, perhaps after it was said to have; `code` says why. `refunded` of it is back.
    """

    order_id: str
    refund_id: str
    amount: int
    currency: str
    code: str
    refunded: int | None = None


class PaymentDisputed(Message, name="payment.disputed", to="orders"):
    """The payer's bank wants the money back: the dispute was `opened`, `won` or `lost`."""

    order_id: str
    dispute_id: str
    status: str
    amount: int
    currency: str
    reason: str = ""


class PaymentReturnRefused(Message, name="payment.return_refused", to="orders"):
    """The gateway refuses to cancel the payment or to return its money; `reason` is its code. A person decides."""

    order_id: str
    reason: str


class PaymentReturnUndone(Message, name="payment.return_undone", to="orders"):
    """
    Money that was said to be back has not reached the payer: `amount` of it is here again, and `refunded` is back. A
    person decides.
    """

    order_id: str
    amount: int
    reason: str
    refunded: int | None = None


class CallGateway(Message, name="payments.turn_to_gateway", to="payments"):
    """Payments to itself: make the call that this payment needs in its status: create, look up, cancel or refund."""

    order_id: str


class CallForRefund(Message, name="payments.call_for_refund", to="payments"):
    """Payments to itself: make the call that this refund needs in its status."""

    order_id: str
    refund_id: str


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
