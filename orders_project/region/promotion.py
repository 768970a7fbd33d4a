"""
The promotion of this region, step by step. Each step finds what is done already, so one that was interrupted is begun
again by the same command.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings

from orders_project import recovery
from orders_project.celery import declare_topology
from outbox import clock, conf, lost
from outbox.broker import LOST
from outbox.due_rows import BEGINNING

from . import forgotten
from .databases import Database, NotPossible, by_server, of_the_other, of_this_region

AHEAD = timedelta(days=1)  # by which the clock of the first region may have been ahead of ours
SLOWEST = timedelta(minutes=2)  # from when the id of a message was made to its commit
UNKNOWN = timedelta(days=1)  # how old the last commit may be that a server does not know any more
FROM_THE_STREAM = "orders"  # is recovered from the stream of events, which stays with the broker of the first region
Say = Callable[[str], None]


def promote(*, since: datetime | None, even_if_the_first_is_up: bool, seconds: int, say: Say) -> None:
    """
    Make this region the one that is written to.

    :param since: when the first of the messages was sent that may be lost; without it, all that outboxes have
    :param seconds: how long a server may take to apply what it has received
    :raises NotPossible: if a step could not be done; those before it are done
    """
    databases = of_this_region()
    _must_be_down(databases, even_if_it_is_up=even_if_the_first_is_up, say=say)
    for server in by_server(databases).values():
        first, names = server[0], _names(server)
        if first.is_standby:
            first.promote(seconds=seconds)
        say(f"{names}: {'promoted' if first.is_standby else 'a primary already'}, {_moment(first)}")
    for database in databases:
        database.must_accept_writes()
        say(f"{database.alias}: takes writes")
    try:
        queues = declare_topology()
    except LOST as error:
        raise NotPossible(f"the broker does not answer ({error}): start it, and run this again") from error
    say(f"broker: {len(queues)} queues and streams are declared")
    receivers = _settle_differences(databases, say=say)
    say("processes may be started from here on")
    number = _send_again(receivers, since=since or BEGINNING)
    say(f"messages to {', '.join(receivers)}: {number} were sent and not handled, and are sent again")


def _must_be_down(databases: list[Database], *, even_if_it_is_up: bool, say: Say) -> None:
    """
    Say what is known of the other region.

    :raises NotPossible: if it is up and that matters
    """
    elsewhere = of_the_other()
    up = [f"{one.name} {one.state}" for one in elsewhere if one.is_up]
    up += [f"{one.alias} receives from a server there" for one in databases if one.is_standby and one.receives]
    if up and not even_if_it_is_up:
        raise NotPossible(
            f"the other region is up: {'; '.join(up)}. Two regions that are written to cannot be joined again: stop its"
            " servers, or make sure that nobody can write to them, and say --even-if-the-first-is-up"
        )
    if up:
        say(f"other region: up, {'; '.join(up)}; promoted all the same")
    elif elsewhere:
        names = ", ".join(f"{one.name} {one.state}" for one in elsewhere)
        say(f"other region: {names}; whether others can reach it is not known here")
    else:
        say("other region: not known, OTHER_REGION_DATABASE_URLS is not set; nothing is received from it")


def _settle_differences(databases: list[Database], *, say: Say) -> list[str]:
    """
    Recover the services whose databases may be behind the others; return those to which messages are to be sent again.

    :raises NotPossible: if an upgrade is under way
    """
    servers = by_server(databases)
    if len(servers) == 1:
        say("all databases are on one server, and of one moment")
        return list(settings.SERVICES)
    since = _first_difference(databases)
    found = forgotten.find(since=since, until=clock.now("orders") + AHEAD)
    for service, number in sorted(found.sent.items()):
        say(f"{service}: behind the others; {number} messages that it has sent are not known to it any more")
    for order_id in found.orders:
        say(f"order {order_id}: lost to orders and known to the other services; the audit says what they keep of it")
    for service in settings.SERVICES:
        if service != FROM_THE_STREAM:
            _recover(service, since=since, say=say)
    return [FROM_THE_STREAM]


def _recover(service: str, *, since: datetime, say: Say) -> None:
    try:
        report = recovery.recover(service, since=since)
    except recovery.NotPossible as refusal:
        raise NotPossible(str(refusal)) from refusal
    done = ", ".join(f"{number} {what}" for what, number in report.done.items() if number)
    say(f"{service}: recovered since {since:%Y-%m-%dT%H:%M:%SZ}: {done or 'there was nothing to do'}")
    for one in report.decisions:
        say(f"{service}: to decide by a person, then run this again: {one}")


def _first_difference(databases: list[Database]) -> datetime:
    """Return a moment up to which all databases have everything, as far as messages are kept."""
    now = clock.now("orders")
    oldest = min(Database.look(one.alias).replayed_at or now - UNKNOWN for one in databases)
    return max(oldest, now - conf.OUTBOX_RETENTION + SLOWEST) - SLOWEST


def _send_again(receivers: Sequence[str], *, since: datetime) -> int:
    rows: dict[str, list[UUID]] = defaultdict(list)
    for one in lost.find(settings.SERVICES, receivers, since=since, until=clock.now("orders") + AHEAD):
        rows[one.sender].append(one.row_id)
    return sum(lost.send_again(service, row_ids) for service, row_ids in rows.items())


def _names(databases: Iterable[Database]) -> str:
    return ", ".join(one.alias for one in databases)


def _moment(database: Database) -> str:
    """Up to which moment a database has what the other region committed."""
    last = Database.look(database.alias).replayed_at
    return f"with all that was received, the last commit at {last:%Y-%m-%d %H:%M:%S.%f} UTC" if last else "ready"
