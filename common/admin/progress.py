"""How far many rows have been worked off, as admin/run_progress.html shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How many rows of how many are done."""

    total: int = 0
    done: int = 0

    @property
    def percent(self) -> int:
        return round(100 * self.done / self.total) if self.total else 100
