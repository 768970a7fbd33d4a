"""Messages in, the saga on."""

from django.utils import timezone

from outbox.consumers import consumes
from outbox.message import Message
from payments.messages import PaymentFailed, PaymentPending, PaymentRefunded, PaymentSucceeded, PaymentVoided
from processing.messages import GiveBack, HoldExpired, OrderProcessed, ProcessingRefused, StockReleased

from . import saga, webhooks
from .messages import DeliverWebhook, Overdue
from .models import Order, Outgoing


def _advance(event: Message) -> None:
    saga.advance(order_id=event.subject, event=event, now=timezone.now())


for _heard in (
    PaymentPending,
    PaymentSucceeded,
    PaymentFailed,
    PaymentVoided,
    PaymentRefunded,
    OrderProcessed,
    ProcessingRefused,
    StockReleased,
):
    consumes(_heard)(_advance)


@consumes(HoldExpired)
def hold_expired(event: HoldExpired) -> None:
    """Cancel the live order that held the stock; give back what no order holds: a crash left it behind."""
    order = Order.objects.filter(pk=event.order_id).first()
    if order is None or str(order.hold_id) != event.hold_id:
        Outgoing.post(GiveBack(order_id=event.order_id, hold_id=event.hold_id))
    else:
        _advance(event)


@consumes(Overdue)
def overdue(event: Overdue) -> None:
    """Look after an order that may have waited too long."""
    saga.look_after(order_id=event.order_id, now=timezone.now())


@consumes(DeliverWebhook, first=webhooks.send)
def deliver_webhook(message: DeliverWebhook, tried: webhooks.Tried | None) -> None:
    """Log what came of sending a webhook."""
    webhooks.record(message=message, tried=tried, now=timezone.now())
