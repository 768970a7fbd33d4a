"""Carries letters between the services without a broker: once, twice, shuffled."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from django.conf import settings
from django.utils import timezone

from outbox.consumers import model_of, receive
from outbox.message import Letter
from outbox.models import OutgoingMessage


@dataclass(frozen=True)
class Errand:
    """Something else that happens once, at some moment between letters: a customer cancels, time passes."""

    run: Callable[[], object]
    services: tuple[str, ...] = tuple(settings.SERVICES)


@dataclass(frozen=True)
class Waiting:
    """A letter or an errand whose turn has not come; `number` counts them as they turned up."""

    number: int
    services: tuple[str, ...]
    errand: Errand | None = None
    letter: Letter | None = None

    def meets(self, other: "Waiting") -> bool:
        """Whether it can matter which of the two comes first: no service looks into another's database."""
        return bool(set(self.services) & set(other.services))


@dataclass
class Carrier:
    """Takes what is due from every service's outbox and delivers it, until nothing is left."""

    times: int = 1
    shuffle: random.Random | None = None
    choose: Callable[[Sequence[Waiting]], int] | None = None
    errands: list[Errand] = field(default_factory=list)
    facts: list[Letter] = field(default_factory=list)
    delivered: list[Letter] = field(default_factory=list)
    passes_over: Callable[[Letter], bool] = lambda letter: False
    seen: int = 0

    def collect(self, services: Sequence[str] = tuple(settings.SERVICES)) -> list[tuple[str, Letter]]:
        """Take the letters that are due now, as (service, letter); facts told to the world are kept in `facts`."""
        taken = []
        for service in services:
            outgoing = model_of(service, "Outgoing").objects
            rows: list[OutgoingMessage] = list(
                outgoing.filter(published_at=None, due_at__lte=timezone.now()).order_by("id")
            )
            if rows:
                outgoing.filter(pk__in=[row.pk for row in rows]).update(published_at=timezone.now())
            taken += [(row.to, row.letter()) for row in rows]
        self.facts += [letter for to, letter in taken if to not in settings.SERVICES]
        return [(to, letter) for to, letter in taken if to in settings.SERVICES and not self.passes_over(letter)]

    def deliver(self, service: str, letter: Letter) -> None:
        """Hand one letter over, as the broker would."""
        self.delivered.append(letter)
        receive(service, letter.envelope(), headers={}, worker="carrier")

    def run(self, *, most: int = 1000) -> "Carrier":
        """Deliver until nothing is due."""
        waiting = [self._waiting(errand.services, errand=errand) for errand in self.errands]
        self.errands = []
        touched: Sequence[str] = settings.SERVICES
        for _ in range(most):
            for service, letter in self.collect(touched):
                waiting += [self._waiting((service,), letter=letter) for _ in range(self.times)]
            if not waiting:
                return self
            one = waiting.pop(self._next(waiting))
            touched = one.services
            if one.errand is not None:
                one.errand.run()
            elif one.letter is not None:
                self.deliver(one.services[0], one.letter)
        raise AssertionError(f"Letters go round in circles: {waiting}")

    def _waiting(
        self, services: tuple[str, ...], *, errand: Errand | None = None, letter: Letter | None = None
    ) -> Waiting:
        self.seen += 1
        return Waiting(self.seen, services, errand, letter)

    def _next(self, waiting: Sequence[Waiting]) -> int:
        if self.choose is not None:
            return self.choose(waiting)
        return self.shuffle.randrange(len(waiting)) if self.shuffle else 0
