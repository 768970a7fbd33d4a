"""What a recovery has done, and what it leaves to a person."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Decision:
    """Something that only a person can decide: what it is about, and what to do. Of an order, its messages wait."""

    about: str
    what: str
    order_id: str = ""

    def __str__(self) -> str:
        return f"{self.about}: {self.what}"


@dataclass
class Report:
    """How often each thing was done, or would be, and what a person has to decide."""

    done: Counter[str] = field(default_factory=Counter)
    decisions: list[Decision] = field(default_factory=list)

    def leave(self, order_id: str, what: object) -> None:
        """Leave an order to a person."""
        self.decisions.append(Decision(f"order {order_id}", str(what), order_id))

    @property
    def held_back(self) -> set[str]:
        """The orders that a person has to decide about before their messages are sent again."""
        return {one.order_id for one in self.decisions if one.order_id}
