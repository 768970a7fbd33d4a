"""The handlers of orders: most of them pass an event to the saga."""

from common.authority import SYSTEM, Authority, NeedsSecondPerson
from outbox import clock, context
from outbox.consumers import consumes
from outbox.errors import Undeliverable
from outbox.message import Message
from payments.messages import (
    PaymentFailed,
    PaymentPending,
    PaymentRefunded,
    PaymentReturnRefused,
    PaymentSucceeded,
    PaymentVoided,
)
from processing.messages import GiveBack, HoldExpired, OrderProcessed, ProcessingRefused, StockReleased

from . import saga, webhooks
from .messages import DeliverWebhook, Overdue
from .models import Order, Outgoing

REPLAY = Authority("replay of a dead letter", is_staff=True)


def _advance(event: Message) -> None:
    """Pass an event to the saga. A person who replays a dead letter may do no more by it than they may do alone."""
    by = REPLAY if context.current().is_replay else SYSTEM
    try:
        saga.advance(order_id=event.subject, event=event, now=clock.now("orders"), by=by)
    except NeedsSecondPerson as needed:
        raise Undeliverable(needed.code, str(needed)) from needed


for _event in (
    PaymentPending,
    PaymentSucceeded,
    PaymentFailed,
    PaymentVoided,
    PaymentRefunded,
    PaymentReturnRefused,
    OrderProcessed,
    ProcessingRefused,
    StockReleased,
):
    consumes(_event)(_advance)


@consumes(HoldExpired)
def hold_expired(event: HoldExpired) -> None:
    """Turn back the order that the stock was held for. If there is none, because of a crash, give the stock back."""
    order = Order.objects.filter(pk=event.order_id).first()
    if order is None or str(order.hold_id) != event.hold_id:
        Outgoing.post(GiveBack(order_id=event.order_id, hold_id=event.hold_id))
    else:
        _advance(event)


@consumes(Overdue)
def overdue(event: Overdue) -> None:
    """Turn back an order whose time is up."""
    saga.on_timeout(order_id=event.order_id, now=clock.now("orders"), timer_id=context.current().causation_id)


@consumes(DeliverWebhook, first=webhooks.send)
def deliver_webhook(message: DeliverWebhook, result: webhooks.Result | None) -> None:
    """Record the result of sending a webhook."""
    webhooks.record(message=message, result=result, now=clock.now("orders"))
