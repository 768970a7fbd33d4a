"""Which faults come when: made up from a seed, so that the same seed and the same options give the same schedule."""

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

ROLES = ("web", "relay", "beat", "orders", "payments", "processing")
SERVERS = ("postgresql", "rabbitmq")
SERVICES = ("orders", "payments", "processing")
LINKS = (*SERVICES, "broker", "gateway")
QUIET = 15.0  # seconds without a new fault at the end, at most
MISDEEDS: tuple[dict[str, Any], ...] = (
    {"errors": 2}, {"lost_answers": 1}, {"hang": 12.0}, {"duplicates": 3},
    {"reorder": True, "delay": 0.5}, {"early": True}, {"drop": True}, {"lie_amount": 1.0}, {"outcome": "failed"},
    {"delay": 8.0}, {"delay": 3600.0},
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Fault:
    """From `at` on, `kind` for so many seconds, at `target`: times in seconds since the start."""

    at: float
    kind: str
    target: str
    lasts: float
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def until(self) -> float:
        return self.at + self.lasts

    def __str__(self) -> str:
        how = "".join(f" {name}={value}" for name, value in self.how.items())
        return f"{self.kind} {self.target}{how} for {self.lasts:.1f} s"


# Each kind: what it can hit, how long it lasts, and how often it comes beside the others.
KINDS: dict[str, tuple[tuple[str, ...], tuple[float, float], int]] = {
    "kill": ((*ROLES, "gateway", *SERVERS), (0.3, 5.0), 6),
    "torn": (("web", "web", "web", "payments", "orders", "processing", "relay"), (1.0, 4.0), 3),
    "freeze": ((*ROLES, "gateway", *SERVERS), (3.0, 60.0), 3),
    "slow": ((*ROLES, "gateway", *SERVERS), (4.0, 15.0), 2),
    "restart": ((*ROLES, "gateway", *SERVERS), (0.1, 2.0), 2),
    "hole": (LINKS, (3.0, 40.0), 3),
    "reset": (LINKS, (0.2, 2.0), 3),
    "delay": ((*LINKS, "processing", "processing"), (4.0, 15.0), 2),
    "lossy": ((*LINKS, "gateway", "gateway"), (4.0, 15.0), 2),
    "misbehave": (("gateway payments",), (1.5, 3.5), 3),
    "clock": (ROLES, (8.0, 25.0), 2),
    "copies": (tuple(f"outbox of {name}" for name in SERVICES), (0.1, 0.2), 3),
    "late": (tuple(f"outbox of {name}" for name in SERVICES), (4.0, 15.0), 2),
    "poison": (tuple(f"inbox of {name}" for name in SERVICES), (5.0, 12.0), 2),
    "alarm": (("broker's disk",), (4.0, 20.0), 1),
}


def make(
    seed: int, *, seconds: float, only: Collection[str] = (), spare: Collection[str] = (), every: float = 3.0
) -> list[Fault]:
    """
    Return faults in the order of their times; a target is hit by one at a time.

    :param only: kinds; without it, all
    :param spare: targets that are not hit, and kinds that do not come
    :param every: seconds between two faults on average
    """
    chance = random.Random(seed)
    kinds = {
        kind: [target for target in targets if target not in spare]
        for kind, (targets, _, _) in KINDS.items()
        if kind not in spare and (not only or kind in only)
    }
    kinds = {kind: targets for kind, targets in kinds.items() if targets}
    weights = [KINDS[kind][2] for kind in kinds]
    last = seconds - min(QUIET, seconds / 4)
    misdeeds: list[dict[str, Any]] = []
    at, busy, found = 1.0, dict[str, float](), list[Fault]()
    while (at := at + chance.expovariate(1 / every)) < last:
        (kind,) = chance.choices(list(kinds), weights)
        target = chance.choice(kinds[kind])
        shortest, longest = KINDS[kind][1]
        lasts = min(chance.uniform(shortest, longest), seconds / 3)
        if busy.get(target, 0.0) > at:
            continue
        if kind == "misbehave":  # each once before one comes again
            misdeeds = misdeeds or chance.sample(MISDEEDS, len(MISDEEDS))
        how = misdeeds.pop() if kind == "misbehave" else _how(kind, target, chance)
        fault = Fault(round(at, 2), kind, target, round(lasts, 2), how)
        busy[target] = fault.until + 0.5
        found.append(fault)
    return found


def _how(kind: str, target: str, chance: random.Random) -> dict[str, Any]:
    match kind:
        case "delay":
            return {"by": round(chance.uniform(0.05, 0.4), 2)}
        case "torn":  # so little that what has begun meanwhile is in the middle of it at the end
            return {"by": round(chance.uniform(0.02, 0.12), 3)}
        case "reset":
            return {"loses": chance.choice(("all", "answers"))}
        case "lossy":  # a transaction has many answers, a call one
            return {"share": 0.3 if target == "gateway" else 0.03}
        case "poison":
            return {"one_in": 12, "salt": chance.randrange(1000)}
        case "clock":
            return {"wrong_by": chance.choice((-300, 300, -90, 45, 3600))}
        case "copies" | "late":
            return {"share": chance.choice((0.3, 0.6, 1.0))}
    return {}
