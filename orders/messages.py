"""What orders announces, and its own timer."""

from typing import Any

from outbox.message import EVENTS, Message


class Overdue(Message, name="orders.overdue", to="orders"):
    """Look after this order: it may have waited too long for somebody."""

    order_id: str


class OrderFact(Message, name="order.fact", to=EVENTS):
    """Told to the world as `order.created`, `order.paid` and so on: the order as it was at that version."""

    order_id: str
    fact: str
    order: dict[str, Any]

    @property
    def type(self) -> str:
        return f"order.{self.fact}"

    @property
    def data(self) -> dict[str, Any]:
        return self.order


class DeliverWebhook(Message, name="orders.deliver_webhook", to="orders", queue="orders.webhooks"):
    """To ourselves: send this delivery, if this is still the attempt that is due. A stranger may be slow to take it."""

    delivery_id: str
    order_id: str
    attempt: int
