"""What processing does with each message that it receives."""

from datetime import datetime

from outbox import clock
from outbox.consumers import consumes

from . import messages, services
from .models import Outgoing, Processing


def ask_processor(command: messages.Process) -> str | None:
    """
    Return why the processor refuses the order, or None if it accepts. After the deadline it is not asked.

    It runs before the transaction.
    """
    if command.deadline and datetime.fromisoformat(command.deadline) <= clock.now("processing"):
        return messages.PROCESSING_TIMEOUT
    return services.ask_processor(order_id=command.order_id)


@consumes(messages.Process, first=ask_processor)
def process(command: messages.Process, refusal: str | None) -> None:
    """Record the verdict of the processor, and tell orders."""
    now = clock.now("processing")
    verdict = services.process(order_id=command.order_id, hold_id=command.hold_id, refusal=refusal, now=now)
    if verdict.verdict == Processing.Verdict.ACCEPTED:
        Outgoing.post(messages.OrderProcessed(order_id=command.order_id))
    else:
        Outgoing.post(messages.ProcessingRefused(order_id=command.order_id, reason=verdict.reason or verdict.verdict))


@consumes(messages.Release)
def release(command: messages.Release) -> None:
    """Give the stock back, or tell orders that it was accepted before."""
    released = services.release(
        order_id=command.order_id,
        hold_id=command.hold_id,
        even_if_sold=bool(command.sold),
        now=clock.now("processing"),
    )
    answer = messages.StockReleased if released else messages.OrderProcessed
    Outgoing.post(answer(order_id=command.order_id))


@consumes(messages.KeepHold)
def keep_hold(command: messages.KeepHold) -> None:
    """Keep what is held for the order for longer. There is no answer."""
    services.keep_hold(hold_id=command.hold_id, until=datetime.fromisoformat(command.until))


@consumes(messages.TakeBack)
def take_back(command: messages.TakeBack) -> None:
    """Put a part of what was sold back into stock. There is no answer."""
    services.take_back(
        hold_id=command.hold_id,
        request_id=command.request_id,
        quantities=command.quantities,
        now=clock.now("processing"),
    )


@consumes(messages.GiveBack)
def give_back(command: messages.GiveBack) -> None:
    """Give back a hold that no order uses. There is no answer."""
    services.give_back(hold_id=command.hold_id, now=clock.now("processing"))
