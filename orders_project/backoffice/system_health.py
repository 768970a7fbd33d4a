"""The health of the parts of the system: databases, relays, broker, clock, gateways."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.durations import duration
from common.standby import standby_of
from orders_project.observability import health
from orders_project.observability.metrics import Counted

CLOCK_LATE = 10  # seconds
BREAKER = {
    0: (_("answering"), "good"),
    1: (_("being tried again after failures"), "bad"),
    2: (_("not called for now: it has failed again and again"), "bad"),
}
NOT_REACHABLE = _("not reachable")
PARTS = {"database": _("database %(name)s"), "relay": _("relay %(name)s"), "broker": _("broker")}


@dataclass(frozen=True)
class Part:
    """A part of the system; `mood` is "good", "bad" or empty. `database` is its alias if it is a database."""

    name: Any
    state: Any
    mood: str
    database: str = ""


def parts() -> Iterator[Part]:
    """Yield each part with its state."""
    for finding in health.examine(health.everything()):
        kind, _space, name = finding.part.partition(" ")
        database = name if kind == "database" else ""
        if not finding.trouble:
            state: Any = _g("healthy")
        elif database or kind == "broker":
            state = NOT_REACHABLE
        else:
            state = _g("failing: %(trouble)s") % {"trouble": finding.trouble}
        yield Part(_named(finding.part), state, "bad" if finding.trouble else "good", database)
    yield from _standbys()
    yield from _counted()


def lost_databases(parts: Iterable[Part]) -> list[str]:
    """The databases that do not answer."""
    return [part.database for part in parts if part.database and part.mood == "bad"]


def _named(part: str) -> str:
    """The name of a part such as `database orders`, `relay orders` or `broker`, translated."""
    kind, _space, name = part.partition(" ")
    return str(PARTS[kind]) % {"name": name} if kind in PARTS else part


def _standbys() -> Iterator[Part]:
    """Yield the standbys that lists are read from."""
    for standby in filter(None, map(standby_of, settings.STANDBYS)):
        standby.watch()
        name = _g("standby %(name)s") % {"name": standby.database}
        if standby.in_words() or standby.lag is None:
            yield Part(name, _("not read from: it does not answer, or is too far behind"), "bad")
        else:
            yield Part(name, _g("%(age)s behind at most") % {"age": duration(standby.lag)}, "good")


def _counted() -> Iterator[Part]:
    """Yield what other processes report about themselves, as far as this process receives it."""
    families = {family.name: family for family in Counted().collect()}
    ticks = [sample.value for sample in getattr(families.get("clock_last_tick_seconds"), "samples", ())]
    if not ticks or not max(ticks):
        yield Part(_("clock (beat)"), _("unknown here"), "")
    else:
        late = time.time() - max(ticks)
        state = _g("%(n)d s ago") % {"n": max(round(late), 0)}
        yield Part(_("clock (beat)"), state, "good" if late < CLOCK_LATE else "bad")
    for sample in getattr(families.get("gateway_breaker_state"), "samples", ()):
        words, mood = BREAKER[int(sample.value)]
        yield Part(_g("gateway %(name)s") % {"name": sample.labels["gateway"]}, words, mood)
