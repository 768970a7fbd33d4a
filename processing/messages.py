"""The commands that processing takes, and the events that it announces."""

from outbox.message import Message

PROCESSING_TIMEOUT = "processing_timeout"  # the reason of a refusal because the deadline had passed


class Process(Message, name="processing.process", to="processing", withheld=("deadline",), batched=True):
    """Have the processor accept or refuse the order, and sell its held stock if it accepts; refuse after `deadline`."""

    order_id: str
    hold_id: str | None = None
    deadline: str | None = None


class Release(Message, name="processing.release", to="processing", withheld=("sold",)):
    """
    Give held stock back and never process this order.

    If it was accepted before, that is the answer, unless `sold` says to take back what was sold as well.
    """

    order_id: str
    hold_id: str | None = None
    sold: bool | None = None


class KeepHold(Message, name="processing.keep_hold", to="processing"):
    """Keep what is held for this order until then: its money is reserved, and stays so for longer than the hold."""

    order_id: str
    hold_id: str
    until: str


class TakeBack(Message, name="processing.take_back", to="processing"):
    """Put a part of what was sold with an order back into stock; `request_id` tells repeated requests apart."""

    order_id: str
    hold_id: str
    request_id: str
    quantities: dict[str, int]  # by product id


class GiveBack(Message, name="processing.give_back", to="processing"):
    """Give back a hold that no order uses. An order of the same id, if there is one, is not affected."""

    order_id: str
    hold_id: str


class OrderProcessed(Message, name="order.processed", to="orders", batched=True):
    """The processor has accepted the order, and its stock is sold."""

    order_id: str


class ProcessingRefused(Message, name="processing.refused", to="orders"):
    """The processor has refused the order; its stock is still held."""

    order_id: str
    reason: str


class StockReleased(Message, name="stock.released", to="orders"):
    """No stock is held for the order, and the order will never be processed."""

    order_id: str


class HoldExpired(Message, name="stock.hold_expired", to="orders"):
    """The hold has expired. It stays until it is released."""

    order_id: str
    hold_id: str
