"""
Every order in which messages can arrive.

# Note [Orders that make no difference]: two messages to different services have the same effect whichever comes
first, since no service reads the database of another. Of the orders that differ only so, one is tried (sleep sets):
when a choice has been tried, its siblings' branches leave it asleep until something happens in the same service. Of two
interruptions that are the same, the first comes first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from django.conf import settings
from django.db import transaction

from .carrier import Carrier, Waiting

T = TypeVar("T")


class Redundant(Exception):
    """Another order has shown, or will show, the same."""


@dataclass
class Ordering:
    """One order, as far as it is decided: the numbers of what was delivered, and what is asleep after it."""

    decided: list[int] = field(default_factory=list)
    asleep: list[Waiting] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    others: list["Ordering"] = field(default_factory=list)

    def choose(self, waiting: Sequence[Waiting]) -> int:
        """Follow what is decided; from there on take the first that is awake, and note the others."""
        if len(self.made) < len(self.decided):
            number = self.decided[len(self.made)]
            self.made.append(number)
            return [one.number for one in waiting].index(number)
        asleep = {one.number for one in self.asleep}
        awake = [one for one in waiting if one.number not in asleep and not _has_an_elder_twin(one, waiting)]
        if not awake:
            raise Redundant
        tried = [*self.asleep]
        for one in awake:
            left_asleep = [other for other in tried if not other.meets(one)]
            if one is awake[0]:
                stays = left_asleep
            else:
                self.others.append(Ordering([*self.made, one.number], left_asleep))
            tried.append(one)
        self.asleep = stays
        self.made.append(awake[0].number)
        return list(waiting).index(awake[0])


def _has_an_elder_twin(one: Waiting, waiting: Sequence[Waiting]) -> bool:
    """Whether the same interruption waits too, and was found before."""
    return one.interruption is not None and any(
        other.interruption is one.interruption and other.number < one.number for other in waiting
    )


def in_every_order(journey: Callable[[Carrier], T], *, most: int) -> list[T]:
    """
    Return what this journey returns in each order of its messages and interruptions that can make a difference.

    Each run finds the points where it could have continued differently.

    :raises AssertionError: if there are more than `most` orders
    """
    answers: list[T] = []
    waiting = [Ordering()]
    for _ in range(most):
        if not waiting:
            return answers
        ordering = waiting.pop()
        with forgotten(), suppress(Redundant):
            answers.append(journey(Carrier(choose=ordering.choose)))
        waiting += ordering.others
    raise AssertionError(f"There are more than {most} orders.")


@contextmanager
def forgotten() -> Iterator[None]:
    """Roll back whatever happens inside."""
    with ExitStack() as stack:
        for service in settings.SERVICES:
            stack.enter_context(transaction.atomic(using=service))
        yield
        for service in settings.SERVICES:
            transaction.set_rollback(True, using=service)
