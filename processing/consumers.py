"""What processing does with each message that it receives."""

from collections.abc import Iterator, Sequence

from outbox import clock
from outbox.arrivals import Arrived
from outbox.consumers import consumes
from outbox.message import Message

from . import messages, services
from .models import ROWS, Outgoing, Processing


def ask_processor(commands: Sequence[messages.Process]) -> Iterator[str | None]:
    """
    Yield for each order why the processor refuses it, or None if it accepts. After the deadline it is not asked.

    It runs before the transaction.
    """
    known = services.answered([command.order_id for command in commands])
    for command in commands:
        is_late = command.deadline and clock.moment_of(command.deadline) <= clock.now("processing")
        yield messages.PROCESSING_TIMEOUT if is_late else services.ask_processor(order_id=command.order_id, known=known)


def process_all(arrived: Sequence[Arrived]) -> None:
    """Do for many orders what `process` does for one."""
    asked = [
        services.ToProcess(order_id=one.message.order_id, hold_id=one.message.hold_id, refusal=one.answer)
        for one in arrived
    ]
    verdicts = services.process_all(asked, now=clock.now("processing"))
    with ROWS.batch() as batch:
        for one in arrived:
            with one.acting() as command:
                Outgoing.post(_answer(verdicts[command.order_id]), batch=batch)


@consumes(messages.Process, first_of_each=ask_processor, together=process_all)
def process(command: messages.Process, refusal: str | None) -> None:
    """Record the verdict of the processor, and tell orders."""
    now = clock.now("processing")
    verdict = services.process(order_id=command.order_id, hold_id=command.hold_id, refusal=refusal, now=now)
    Outgoing.post(_answer(verdict))


def _answer(verdict: Processing) -> Message:
    if verdict.verdict == Processing.Verdict.ACCEPTED:
        return messages.OrderProcessed(order_id=verdict.order_id)
    return messages.ProcessingRefused(order_id=verdict.order_id, reason=verdict.reason or verdict.verdict)


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
    until = clock.moment_of(command.until)
    services.keep_hold(hold_id=command.hold_id, until=until, now=clock.now("processing"))


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
