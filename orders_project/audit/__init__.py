"""
Does it all add up? Conservation of stock, money and messages across the three databases.

# Note [Work in flight is no finding]: what the databases say of an order at one moment need not agree, because each is
# asked at another time and letters are on their way. So a check passes over what changed within `grace`; what it then
# suspects is dropped if letters of that order are under way, and is looked at a second time a little later. What is
# wrong both times is a finding.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.utils import timezone

from . import messages as letters
from . import money, stock
from .common import Finding, Scope

Check = Callable[[Scope], Iterator[Finding]]

CHECKS: dict[str, tuple[str, Check]] = {
    "counters": ("stock received = available + held + sold, and as its movements say", stock.counters),
    "holds": ("the holds of each product add up to what it counts as held and sold", stock.holds),
    "held": ("every open hold belongs to an open order, and every open order has its hold", stock.holds_of_orders),
    "ledger": ("money in = money out + money kept; balances and payments are as their entries say", money.ledger),
    "captures": ("one capture a paid order, and none left in a canceled or failed one", money.captures),
    "history": ("every order stands where its history ends", stock.history),
    "letters": ("every letter sent was seen once, and none was seen that nobody sent", letters.seen),
    "unsent": ("no letter lies unsent beyond its time", letters.unsent),
}


@dataclass
class Report:
    """What an audit looked at, how long that took, and what it found."""

    began: datetime
    seconds: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.findings


def audit(
    *,
    window: timedelta = timedelta(days=1),
    grace: timedelta = timedelta(minutes=1),
    settle: timedelta = timedelta(seconds=5),
) -> Report:
    """
    Check everything; letters only of the last `window`.

    What changed within `grace` is in flight. Where something seems wrong it is looked at again after `settle`.
    """
    report = Report(timezone.now())
    scope = Scope(now=report.began, window=window, grace=grace)
    suspects: dict[str, list[Finding]] = {}
    for name, (_, check) in CHECKS.items():
        began = time.monotonic()
        if found := {finding.subject: finding for finding in check(scope)}:
            suspects[name] = list(found.values())
        report.seconds[name] = time.monotonic() - began
    if suspects:
        time.sleep(settle.total_seconds())
    for name, suspected in suspects.items():
        still = {finding.subject for finding in CHECKS[name][1](scope)}
        standing = [finding for finding in suspected if finding.subject in still]
        under_way = letters.under_way({finding.order_id for finding in standing if finding.order_id}, scope)
        report.findings += [finding for finding in standing if finding.order_id not in under_way]
    return report
