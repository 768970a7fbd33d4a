"""The health of the parts of the system: databases, relays, broker, clock, gateways."""

import time
from collections.abc import Iterator
from typing import Any

from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from orders_project.observability import health
from orders_project.observability.metrics import Counted

CLOCK_LATE = 10  # seconds
BREAKER = {0: (_("closed"), "good"), 1: (_("half open"), "bad"), 2: (_("open"), "bad")}
PARTS = {"database": _("database %(name)s"), "relay": _("relay %(name)s"), "broker": _("broker")}

Part = tuple[Any, Any, str, str]  # name, state, address, mood


def parts() -> Iterator[Part]:
    """Yield each part with its state."""
    for finding in health.examine(health.everything()):
        state = _g("failing: %(trouble)s") % {"trouble": finding.trouble} if finding.trouble else _g("healthy")
        yield _named(finding.part), state, "", "bad" if finding.trouble else "good"
    yield from _counted()


def _named(part: str) -> str:
    """The name of a part such as `database orders`, `relay orders` or `broker`, translated."""
    kind, _space, name = part.partition(" ")
    return str(PARTS[kind]) % {"name": name} if kind in PARTS else part


def _counted() -> Iterator[Part]:
    """Yield what other processes report about themselves, as far as this process receives it."""
    families = {family.name: family for family in Counted().collect()}
    ticks = [sample.value for sample in getattr(families.get("clock_last_tick_seconds"), "samples", ())]
    if not ticks or not max(ticks):
        yield _("clock (beat)"), _("unknown here"), "", ""
    else:
        late = time.time() - max(ticks)
        state = _g("%(n)d s ago") % {"n": max(round(late), 0)}
        yield _("clock (beat)"), state, "", "good" if late < CLOCK_LATE else "bad"
    for sample in getattr(families.get("gateway_breaker_state"), "samples", ()):
        words, mood = BREAKER[int(sample.value)]
        yield _g("gateway %(name)s") % {"name": sample.labels["gateway"]}, words, "", mood
