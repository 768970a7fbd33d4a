"""The saga's table as people read it: lines of text, and a diagram."""

from collections.abc import Iterator

from outbox.message import Message

from .models import ENDS, Status
from .saga import ALREADY, EVENTS, REFUSED, STEPS, Event, Step, end


def name(event: type[Event]) -> str:
    return event.name if issubclass(event, Message) else "cancel requested"


def becomes(step: Step) -> tuple[Status, ...]:
    """Every status that a step can lead to."""
    if isinstance(step.becomes, Status):
        return (step.becomes,)
    assert step.becomes is end
    return (Status.CANCELED, Status.FAILED)


def said(step: Step) -> str:
    return step.says.__name__ if step.says is not None else ""


def decision(status: Status, event: type[Event]) -> str:
    """What an order does that is so and hears that."""
    if step := STEPS.get((status, event)):
        way = [str(step.through)] if step.through else []
        return " → ".join([*way, " or ".join(becomes(step))]) + (f", says {said(step)}" if said(step) else "")
    if status in ALREADY[event]:
        return "old news"
    return f"refused: {REFUSED[event][status]}"


def table() -> Iterator[tuple[str, str, str]]:
    """Every status, every event, and what follows."""
    for status in Status:
        for event in EVENTS:
            yield status, name(event), decision(status, event)


def mermaid() -> str:
    """The steps as a Mermaid state diagram."""
    arrows: dict[tuple[Status, Status], list[str]] = {}
    for (status, event), step in STEPS.items():
        for target in becomes(step):
            label = name(event) + (f" / {said(step)}" if said(step) else "")
            arrows.setdefault((status, target), []).append(label)
    lines = ["stateDiagram-v2", "    [*] --> pending: free lines", "    [*] --> reserved: stock held"]
    lines += [f"    {source} --> {target}: {'<br/>'.join(labels)}" for (source, target), labels in arrows.items()]
    lines += [f"    {status} --> [*]" for status in Status if status in ENDS]
    return "\n".join(lines)
