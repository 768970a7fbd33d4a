"""
Do the data of all services add up? Each service has the rules about its own tables; those between them are here.

# Note [Work in flight is not a finding]: the databases need not agree about an order at one moment: each is read at
# another time, and messages are under way. So a rule skips what has changed within `grace`; what then seems to break it
# is dropped if messages about that order are under way, and is looked at again a little later. Only what breaks the
# rule both times is a finding.

# Note [What a standby says is looked at again]: where there are standbys, the first look is at them, as it reads the
# most. Each of them lags by another time. So the second look, at what seems to break a rule, is at the primaries.
"""

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings

import orders.audit
import payments.audit
import processing.audit
from common import reads
from common.audit import Finding, Rule, Scope
from outbox import clock

from . import between_services, messages

CHECKS: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        *processing.audit.RULES,
        *payments.audit.RULES,
        *orders.audit.RULES,
        *between_services.RULES,
        *messages.RULES,
    )
}


@dataclass
class Report:
    """The findings of an audit, and how long each rule took."""

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
    standbys: bool = True,
) -> Report:
    """
    Check all rules, those about messages for the last `window`.

    What has changed within `grace` is in flight. What seems to break a rule is looked at again after `settle`, at the
    primaries. The first look may be at the `standbys`, as far as there are some.
    """
    report = Report(clock.now("orders"))
    scope = Scope(now=report.began, window=window, grace=grace)
    suspects: dict[str, list[Finding]] = {}
    for name, rule in CHECKS.items():
        began = time.monotonic()
        databases = settings.STANDBYS if standbys else ()
        found = reads.may_lag(lambda check=rule.check: list(check(scope)), *databases)  # type: ignore[misc]
        if found:
            suspects[name] = list({finding.subject: finding for finding in found}.values())
        report.seconds[name] = time.monotonic() - began
    if suspects:
        time.sleep(settle.total_seconds())
    for name, suspected in suspects.items():
        again = {finding.subject for finding in CHECKS[name].check(scope)}
        confirmed = [finding for finding in suspected if finding.subject in again]
        under_way = messages.under_way({finding.order_id for finding in confirmed if finding.order_id})
        report.findings += [finding for finding in confirmed if finding.order_id not in under_way]
    return report
