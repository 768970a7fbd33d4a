"""The handlers of orders: most of them pass an event to the saga."""

from collections.abc import Sequence

from common.authority import SYSTEM, Authority, NeedsSecondPerson
from outbox import clock, context
from outbox.arrivals import Arrived
from outbox.consumers import consumes
from outbox.errors import Undeliverable
from outbox.message import Message
from payments.messages import (
    PaymentAuthorized,
    PaymentDisputed,
    PaymentFailed,
    PaymentPending,
    PaymentRefunded,
    PaymentReturnRefused,
    PaymentReturnUndone,
    PaymentSucceeded,
    PaymentVoided,
    RefundFailed,
    RefundSucceeded,
)
from processing.messages import GiveBack, HoldExpired, OrderProcessed, ProcessingRefused, StockReleased

from . import refunds, transitions, webhooks
from .messages import DeliverWebhook, Overdue
from .models import Order, Outgoing

REPLAY = Authority("replay of a dead letter", is_staff=True)


def _advance(event: Message) -> None:
    """Pass an event to the saga. A person who replays a dead letter may do no more by it than they may do alone."""
    by = REPLAY if context.current().is_replay else SYSTEM
    try:
        transitions.advance(order_id=event.subject, event=event, now=clock.now("orders"), by=by)
    except NeedsSecondPerson as needed:
        raise Undeliverable(needed.code, str(needed)) from needed


def _advance_all(arrived: Sequence[Arrived]) -> None:
    """Pass events to the saga: never those of a replay, which come alone."""
    transitions.advance_all(arrived, now=clock.now("orders"))


for _event in (
    PaymentPending,
    PaymentAuthorized,
    PaymentSucceeded,
    PaymentFailed,
    PaymentVoided,
    PaymentRefunded,
    PaymentReturnRefused,
    PaymentReturnUndone,
    OrderProcessed,
    ProcessingRefused,
    StockReleased,
):
    consumes(_event, together=_advance_all if _event.batched else None)(_advance)


@consumes(HoldExpired)
def hold_expired(event: HoldExpired) -> None:
    """Turn back the order that the stock was held for. If there is none, because of a crash, give the stock back."""
    order = Order.objects.filter(pk=event.order_id).first()
    if order is None or str(order.hold_id) != event.hold_id:
        Outgoing.post(GiveBack(order_id=event.order_id, hold_id=event.hold_id))
    else:
        _advance(event)


@consumes(RefundSucceeded)
def refund_succeeded(event: RefundSucceeded) -> None:
    """Record that a part of the money is back."""
    refunds.succeeded(event, now=clock.now("orders"))


@consumes(RefundFailed)
def refund_failed(event: RefundFailed) -> None:
    """Record that a part of the money did not go back."""
    refunds.failed(event, now=clock.now("orders"))


@consumes(PaymentDisputed)
def payment_disputed(event: PaymentDisputed) -> None:
    """Record that the payer's bank wants the money back, or what came of it."""
    refunds.disputed(event, now=clock.now("orders"))


def all_overdue(arrived: Sequence[Arrived]) -> None:
    """Do for many timers what `overdue` does for one."""
    transitions.on_timeouts(arrived, now=clock.now("orders"))


@consumes(Overdue, together=all_overdue)
def overdue(event: Overdue) -> None:
    """Turn back an order whose time is up."""
    transitions.on_timeout(order_id=event.order_id, now=clock.now("orders"), timer_id=context.current().causation_id)


@consumes(DeliverWebhook, first=webhooks.send)
def deliver_webhook(message: DeliverWebhook, result: webhooks.Result | None) -> None:
    """Record the result of sending a webhook."""
    webhooks.record(message=message, result=result, now=clock.now("orders"))
