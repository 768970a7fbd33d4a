"""What orders knows: what it was told of the money and the stock of its orders, as far as its history says."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from common.batches import in_batches
from orders.models import LOADED_LINES, Order, OrderEvent, OrderLine, Refund


@dataclass
class Known:
    """An order, read with its lines; the messages that it has heard, and the refunds that were asked for here."""

    order: Order
    heard: set[str] = field(default_factory=set)
    refunds_asked_for: set[UUID] = field(default_factory=set)
    refunds: list[Refund] = field(default_factory=list)

    @property
    def goods(self) -> list[tuple[UUID, OrderLine]]:
        """Its lines that hold stock, with their products."""
        return [(line.product_id, line) for line in self.order.loaded_lines if line.product_id is not None]


def known(order_ids: Iterable[str]) -> Iterator[list[Known]]:
    """Yield these orders, those that exist, in the order in which they were placed; some of them at a time."""
    ids = sorted(set(order_ids))
    orders = Order.objects.filter(pk__in=ids).order_by("created_at", "order_id").values_list("pk", flat=True)
    for batch in in_batches(orders):
        yield _read(batch)


def _read(order_ids: list[str]) -> list[Known]:
    orders = Order.objects.filter(pk__in=order_ids).prefetch_related(LOADED_LINES)  # type: ignore[no-redef]
    found = {order.order_id: Known(order) for order in orders}
    for event in OrderEvent.objects.filter(order__in=order_ids).order_by("order_id", "version"):
        here = found[event.order_id]
        if event.message_id:  # what a person has resolved, no other service has said
            here.heard.add(event.type)
        if event.type == "order.refund_requested":
            here.refunds_asked_for.add(UUID(event.data["refund"]["refund_id"]))
    for refund in Refund.objects.filter(order__in=order_ids).order_by("refund_id"):
        found[refund.order_id].refunds.append(refund)
    return [found[order_id] for order_id in order_ids]
