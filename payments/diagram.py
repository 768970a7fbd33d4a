"""The table of lifecycle.py for readers: lines of text, and a diagram."""

from collections.abc import Iterator

from common import state_diagram

from .lifecycle import NEW, SETTLED, STEPS, Event, Status, Step, otherwise


def name(status: Status | None) -> str:
    """Return the name of a status."""
    return "new" if status is NEW else str(status)


def effects(step: Step) -> str:
    """Return the names of what a step does."""
    return ", ".join(effect.__name__.replace("_", " ") for effect in step.does)


def decision(status: Status | None, event: Event) -> str:
    """Return what happens to a payment in this status at this event."""
    if step := STEPS.get((status, event)):
        return str(step.becomes) + (f", does {effects(step)}" if step.does else "")
    assert status is not NEW
    return str(otherwise(status, event))


def table() -> Iterator[tuple[str, str, str]]:
    """Yield each status and each event, with the decision; for a new payment, only the events that begin one."""
    yield from ((name(NEW), str(event), decision(NEW, event)) for status, event in STEPS if status is NEW)
    for status in Status:
        for event in Event:
            yield str(status), str(event), decision(status, event)


def mermaid() -> str:
    """Return the steps as a Mermaid state diagram."""
    begins: dict[str, list[str]] = {}
    arrows: dict[tuple[str, str], list[str]] = {}
    for (status, event), step in STEPS.items():
        label = str(event) + (f" / {effects(step)}" if step.does else "")
        if status is NEW:
            begins.setdefault(str(step.becomes), []).append(label)
        else:
            arrows.setdefault((str(status), str(step.becomes)), []).append(label)
    return state_diagram.mermaid(begins=begins, arrows=arrows, ends=map(str, SETTLED))
