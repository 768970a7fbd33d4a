"""The tables of lifecycle.py and refund_lifecycle.py for readers: lines of text, and diagrams."""

from collections.abc import Iterator, Mapping
from typing import Any

from common import state_diagram

from . import refund_lifecycle
from .lifecycle import NEW, SETTLED, STEPS, Event, Status, Step, otherwise


def name(status: Any) -> str:
    """Return the name of a status."""
    return "new" if status is NEW else str(status)


def effects(step: Step | refund_lifecycle.Step) -> str:
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
    """Return the steps of a payment as a Mermaid state diagram."""
    return _mermaid(STEPS, ends=SETTLED)


def _mermaid(steps: Mapping[Any, Any], *, ends: Any) -> str:
    begins: dict[str, list[str]] = {}
    arrows: dict[tuple[str, str], list[str]] = {}
    for (status, event), step in steps.items():
        label = str(event) + (f" / {effects(step)}" if step.does else "")
        if status is NEW:
            begins.setdefault(str(step.becomes), []).append(label)
        else:
            arrows.setdefault((str(status), str(step.becomes)), []).append(label)
    return state_diagram.mermaid(begins=begins, arrows=arrows, ends=map(str, ends))


def refund_table() -> Iterator[tuple[str, str, str]]:
    """Yield each status of a refund and each event, with the decision."""
    for status in (NEW, *refund_lifecycle.Status):
        for event in refund_lifecycle.Event:
            step = refund_lifecycle.STEPS.get((status, event))
            if step is not None:
                does = f", does {effects(step)}" if step.does else ""
                yield name(status), str(event), f"{step.becomes}{does}"
            elif status is not NEW:
                decided = refund_lifecycle.OTHERWISE[event][status]
                yield name(status), str(event), decided.__name__.replace("_", " ")


def refund_mermaid() -> str:
    """Return the steps of a refund as a Mermaid state diagram."""
    ends = (refund_lifecycle.SUCCEEDED, refund_lifecycle.FAILED)
    return _mermaid(refund_lifecycle.STEPS, ends=ends)
