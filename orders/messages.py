"""The events that orders publishes, and the messages that it sends to itself."""

from typing import Any

from outbox.message import EVENTS, Message


class Overdue(Message, name="orders.overdue", to="orders", batched=True):
    """The timer of an order: it may have waited too long for an answer."""

    order_id: str


class OrderFact(Message, name="order.fact", to=EVENTS):
    """Published as `order.created`, `order.paid` and so on: the order as it was at that version."""

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
    """
    Send this delivery, if this attempt is still due.

    It has a queue of its own, so that a slow receiver delays no order.
    """

    delivery_id: str
    order_id: str
    attempt: int
