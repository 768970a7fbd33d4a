"""Whether this region could take over now, and what would be lost."""

from dataclasses import dataclass, field

from orders_project.observability import health

from .databases import Database, Elsewhere, age_of_last_commit, by_server, of_the_other, of_this_region


@dataclass
class Readiness:
    """What there is to say, line by line, and whether nothing stands against taking over."""

    lines: list[str] = field(default_factory=list)
    is_ready: bool = True

    def say(self, about: str, what: str, *, is_good: bool = True) -> None:
        self.lines.append(f"{about:<16}{what}")
        self.is_ready &= is_good


def look() -> Readiness:
    """
    Ask the databases, the broker and, if its addresses are known, the other region.

    :raises NotPossible: if a database does not answer
    """
    found = Readiness()
    databases = of_this_region()
    elsewhere = of_the_other()  # later: what is written meanwhile counts as behind
    for database in databases:
        found.say(database.alias, _state(database, elsewhere), is_good=database.is_standby)
    if len(by_server(databases)) > 1:
        found.say("moments", "on several servers: one may be behind another, see docs/region.md")
    for part, check in health.before_start(migrated=True).items():
        if trouble := next(one.trouble for one in health.examine({part: check}, timeout=30)):
            found.say(part, trouble, is_good=False)
    for one in elsewhere:
        found.say("other region", f"{one.name} {one.state}")
    found.say("", "could take over now" if found.is_ready else "could not take over now")
    return found


def _state(database: Database, elsewhere: list[Elsewhere]) -> str:
    if not database.is_standby:
        return "a primary: promoted already, or not a standby"
    said = ["standby", "receives" if database.receives else "receives nothing"]
    behind = [ahead for one in elsewhere if (ahead := one.ahead_of(database)) is not None]
    if behind:
        said.append(f"{max(behind)} bytes not received")
    said.append(f"{database.unreplayed} bytes not applied")
    age = age_of_last_commit(database)
    said.append("no commit yet" if age is None else f"last commit {age.total_seconds():.1f} s ago")
    return ", ".join(said)
