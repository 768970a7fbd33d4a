"""The saga's table for readers: lines of text, and a diagram."""

from collections.abc import Iterator

from common import state_diagram
from outbox.message import Message

from .models import ENDS, Status
from .saga import EVENTS, STEPS, TABLES, CancelRequested, CaptureRequested, Event, Step, end, look_up

REQUESTS: dict[type[Event], str] = {CancelRequested: "cancel requested", CaptureRequested: "capture requested"}


def name(event: type[Event]) -> str:
    return event.name if issubclass(event, Message) else REQUESTS[event]


def becomes(step: Step) -> tuple[Status, ...]:
    """All statuses that a step can lead to."""
    if isinstance(step.becomes, Status):
        return (step.becomes,)
    assert step.becomes is end
    return (Status.CANCELED, Status.FAILED)


def command_of(step: Step) -> str:
    """The name of the command that a step sends; empty if it sends none."""
    return step.says.__name__ if step.says is not None else ""


def decision(status: Status, event: type[Event], *, variant: str = "") -> str:
    """What happens to an order in this status at this event."""
    step = look_up(status, event, variant=variant)
    if isinstance(step, Step):
        statuses = [*([str(step.through)] if step.through else []), " or ".join(becomes(step))]
        command = command_of(step)
        return " → ".join(statuses) + (f", says {command}" if command else "")
    return "old news" if step is None else f"refused: {step}"


def table() -> Iterator[tuple[str, str, str]]:
    """Each status and each event, with the decision; and where another one is made for a variant of orders."""
    for variant in TABLES:
        for status in Status:
            for event in EVENTS:
                decided = decision(status, event, variant=variant)
                if not variant:
                    yield status, name(event), decided
                elif decided != decision(status, event):
                    yield f"{status} ({variant})", name(event), decided


def mermaid() -> str:
    """The steps as a Mermaid state diagram."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (status, event), step in STEPS.items():
        for target in becomes(step):
            label = name(event) + (f" / {command_of(step)}" if command_of(step) else "")
            arrows.setdefault((str(status), str(target)), []).append(label)
    begins = {"pending": ["free lines"], "reserved": ["stock held"]}
    return state_diagram.mermaid(begins=begins, arrows=arrows, ends=[str(one) for one in Status if one in ENDS])
