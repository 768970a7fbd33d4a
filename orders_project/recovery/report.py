"""What a recovery has done, and what it leaves to a person."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from outbox.lost import Sent

Missing = Callable[[], Iterator[Sent]]  # finds what the service was sent, and does not know

AGAIN, REMEMBERED = "messages sent again", "messages that it had sent are known to it again"
TOLD, PLACED = "events that it had told are known to it again", "orders placed again"
ASKED = "refunds asked for again"


@dataclass(frozen=True)
class Decision:
    """Something that only a person can decide: what it is about, and what to do."""

    about: str
    what: str

    def __str__(self) -> str:
        return f"{self.about}: {self.what}"


@dataclass
class Report:
    """How often each thing was done, or would be, and what a person has to decide."""

    done: Counter[str] = field(default_factory=Counter)
    decisions: list[Decision] = field(default_factory=list)
    held_back: set[str] = field(default_factory=set)  # orders to decide about before their messages are sent again

    def leave(self, order_id: str, what: object) -> None:
        """Leave an order to a person, for the first reason that is found."""
        if order_id not in self.held_back:
            self.held_back.add(order_id)
            self.decisions.append(Decision(f"order {order_id}", str(what)))
