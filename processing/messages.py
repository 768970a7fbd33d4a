"""What processing can be asked, and what it tells."""

from outbox.message import Message


class Process(Message, name="processing.process", to="processing"):
    """Have the order accepted by the processor, and its held stock sold."""

    order_id: str
    hold_id: str | None = None


class Release(Message, name="processing.release", to="processing"):
    """Give held stock back, and never process this order; answered by what is true already if it was accepted."""

    order_id: str
    hold_id: str | None = None


class GiveBack(Message, name="processing.give_back", to="processing"):
    """Give back a hold that no order counts on; the order of its name, if there is one, goes on."""

    order_id: str
    hold_id: str


class OrderProcessed(Message, name="order.processed", to="orders"):
    """The processor has accepted the order; its stock is sold."""

    order_id: str


class ProcessingRefused(Message, name="processing.refused", to="orders"):
    """The processor won't have the order; its stock is still held."""

    order_id: str
    reason: str


class StockReleased(Message, name="stock.released", to="orders"):
    """No stock is held for the order, and it will never be processed."""

    order_id: str


class HoldExpired(Message, name="stock.hold_expired", to="orders"):
    """The hold has outlived its time; it stays until it is released."""

    order_id: str
    hold_id: str
