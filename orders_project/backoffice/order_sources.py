"""All rows about one order, of every service: what its timeline and its obstacles are told from."""

from dataclasses import dataclass, field

from django.conf import settings
from django.db.models import DateTimeField, Q
from django.db.models.expressions import RawSQL

from orders import archive
from orders.models import IdempotencyKey, Order, OrderEvent
from outbox.due_rows import DUE_SINCE
from outbox.models import DeadLetter, IncomingMessage, OutgoingMessage
from outbox.services import model_of
from payments.models import Payment, WebhookReceipt

DUE = RawSQL(DUE_SINCE, (), output_field=DateTimeField())  # noqa: S611 (our own)


@dataclass
class Sources:
    """All rows about an order, of every service that this process serves."""

    order: Order
    events: list[OrderEvent]
    keys: list[IdempotencyKey]
    sent: list[OutgoingMessage] = field(default_factory=list)
    received: dict[str, IncomingMessage] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    payment: Payment | None = None
    webhooks: list[WebhookReceipt] = field(default_factory=list)


def read(order_id: str) -> Sources:
    """Read every row about an order: a fixed number of queries, each by an index."""
    order = Order.objects.get(pk=order_id)
    found = Sources(
        order=order,
        events=archive.history_of(order),
        keys=list(IdempotencyKey.objects.filter(order_id=order_id)),
    )
    for service in settings.SERVICES_HERE:
        outbox = model_of(service, "Outgoing").objects.annotate(due_since=DUE)
        found.sent += outbox.filter(subject=order_id)
        found.received |= {
            str(row.message_id): row for row in model_of(service, "Incoming").objects.filter(subject=order_id)
        }
        found.dead += model_of(service, "DeadLetter").objects.filter(subject=order_id)
    if "payments" in settings.SERVICES_HERE:
        found.payment = Payment.objects.filter(pk=order_id).first()
        about = Q(order_id=order_id)
        if found.payment is not None and found.payment.gateway_payment_id:
            about |= Q(payment_id=found.payment.gateway_payment_id, gateway=found.payment.gateway)
        found.webhooks = list(WebhookReceipt.objects.filter(about))
    return found


def service_of(row: OutgoingMessage | DeadLetter) -> str:
    return str(row._state.db)
