"""
How hard the property tests try, by HYPOTHESIS_PROFILE: `dev`, `ci` (every run, if nothing is said) or `nightly`.

Only `nightly` draws new examples every time. The others repeat theirs, so that a run fails by a change and by nothing
else.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """
    How many lives of the shop are made up, of how many steps; how many requests for each operation; how many broken
    messages in all; how many examples of what is true of every one; and how many cases share a place: see `some`.
    """

    lives: int
    steps: int
    requests: int
    broken: int
    examples: int
    sharing: int


EFFORTS = {
    "dev": Effort(4, 15, 1, 300, 10, 5),
    "ci": Effort(8, 25, 2, 600, 25, 5),
    "nightly": Effort(300, 60, 300, 5000, 1000, 1),
}
NAME = os.environ.get("HYPOTHESIS_PROFILE", "ci")
EFFORT = EFFORTS[NAME]

settings.register_profile(
    NAME,
    max_examples=EFFORT.examples,
    stateful_step_count=EFFORT.steps,
    deadline=None,
    database=None,
    derandomize=NAME != "nightly",
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(NAME)
OF_LIVES = settings(max_examples=EFFORT.lives)


def some(cases: Sequence[T], place: int) -> Sequence[T]:
    """Those of these cases that are tried in the place of this number; five places in a row see them all."""
    return cases[place % EFFORT.sharing :: EFFORT.sharing]
