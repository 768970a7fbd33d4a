"""The saga's table for readers: lines of text, and a diagram."""

from collections.abc import Iterator

from common import state_diagram
from outbox.message import Message

from .models import ENDS, Status
from .saga import ALREADY, EVENTS, REFUSED, STEPS, Event, Step, end


def name(event: type[Event]) -> str:
    return event.name if issubclass(event, Message) else "cancel requested"


def becomes(step: Step) -> tuple[Status, ...]:
    """All statuses that a step can lead to."""
    if isinstance(step.becomes, Status):
        return (step.becomes,)
    assert step.becomes is end
    return (Status.CANCELED, Status.FAILED)


def command_of(step: Step) -> str:
    """The name of the command that a step sends; empty if it sends none."""
    return step.says.__name__ if step.says is not None else ""


def decision(status: Status, event: type[Event]) -> str:
    """What happens to an order in this status at this event."""
    if step := STEPS.get((status, event)):
        statuses = [*([str(step.through)] if step.through else []), " or ".join(becomes(step))]
        command = command_of(step)
        return " → ".join(statuses) + (f", says {command}" if command else "")
    if status in ALREADY[event]:
        return "old news"
    return f"refused: {REFUSED[event][status]}"


def table() -> Iterator[tuple[str, str, str]]:
    """Each status and each event, with the decision."""
    for status in Status:
        for event in EVENTS:
            yield status, name(event), decision(status, event)


def mermaid() -> str:
    """The steps as a Mermaid state diagram."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (status, event), step in STEPS.items():
        for target in becomes(step):
            label = name(event) + (f" / {command_of(step)}" if command_of(step) else "")
            arrows.setdefault((str(status), str(target)), []).append(label)
    begins = {"pending": ["free lines"], "reserved": ["stock held"]}
    return state_diagram.mermaid(begins=begins, arrows=arrows, ends=[str(one) for one in Status if one in ENDS])
