"""Delivers messages between the services without a broker: once, twice, shuffled."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from django.conf import settings
from django.utils import timezone

from outbox.consumers import receive
from outbox.envelope import Envelope
from outbox.models import OutgoingMessage
from outbox.services import model_of

TAKE = "UPDATE {} SET published_at = %s WHERE published_at IS NULL AND due_at <= %s RETURNING *"


@dataclass(frozen=True)
class Interruption:
    """Something else that happens once, at some moment between messages: a customer cancels, time passes."""

    run: Callable[[], object]
    services: tuple[str, ...] = tuple(settings.SERVICES)


@dataclass(frozen=True)
class Waiting:
    """A message or an interruption that is still to come; `number` counts them as they were found."""

    number: int
    services: tuple[str, ...]
    interruption: Interruption | None = None
    envelope: Envelope | None = None

    def meets(self, other: "Waiting") -> bool:
        """Return whether it can matter which of the two comes first: no service reads the database of another."""
        return bool(set(self.services) & set(other.services))


@dataclass
class Carrier:
    """Takes what is due from every service's outbox and delivers it, until nothing is left."""

    times: int = 1
    shuffle: random.Random | None = None
    choose: Callable[[Sequence[Waiting]], int] | None = None
    interruptions: list[Interruption] = field(default_factory=list)
    facts: list[Envelope] = field(default_factory=list)
    delivered: list[Envelope] = field(default_factory=list)
    passes_over: Callable[[Envelope], bool] = lambda envelope: False
    seen: int = 0

    def collect(self, services: Sequence[str] = tuple(settings.SERVICES)) -> list[tuple[str, Envelope]]:
        """Take the messages that are due now, as (service, envelope); facts for the outside are kept in `facts`."""
        taken = []
        for service in services:
            outgoing, now = model_of(service, "Outgoing"), timezone.now()
            due: Iterable[OutgoingMessage] = outgoing.objects.raw(TAKE.format(outgoing._meta.db_table), [now, now])
            taken += [(row.to, row.envelope()) for row in sorted(due, key=lambda row: row.pk)]
        self.facts += [envelope for to, envelope in taken if to not in settings.SERVICES]
        return [(to, envelope) for to, envelope in taken if to in settings.SERVICES and not self.passes_over(envelope)]

    def deliver(self, service: str, envelope: Envelope) -> None:
        """Deliver one message, as the broker would."""
        self.delivered.append(envelope)
        receive(service, envelope.as_dict(), headers={}, worker="carrier")

    def run(self, *, most: int = 1000) -> "Carrier":
        """Deliver until nothing is due."""
        waiting = [self._waiting(one.services, interruption=one) for one in self.interruptions]
        self.interruptions = []
        touched: Sequence[str] = settings.SERVICES
        for _ in range(most):
            for service, envelope in self.collect(touched):
                waiting += [self._waiting((service,), envelope=envelope) for _ in range(self.times)]
            if not waiting:
                return self
            one = waiting.pop(self._next(waiting))
            touched = one.services
            if one.interruption is not None:
                one.interruption.run()
            elif one.envelope is not None:
                self.deliver(one.services[0], one.envelope)
        raise AssertionError(f"The messages never end: {waiting}")

    def _waiting(
        self, services: tuple[str, ...], *, interruption: Interruption | None = None, envelope: Envelope | None = None
    ) -> Waiting:
        self.seen += 1
        return Waiting(self.seen, services, interruption, envelope)

    def _next(self, waiting: Sequence[Waiting]) -> int:
        if self.choose is not None:
            return self.choose(waiting)
        return self.shuffle.randrange(len(waiting)) if self.shuffle else 0
