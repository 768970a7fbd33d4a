"""manage.py status: the status of the whole system on one screen."""

import json
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.utils import timezone

from common import money
from orders_project.observability import status
from orders_project.observability.status import Status
from outbox.management.arguments import number

CLEAR = "\033[2J\033[H"


class Command(BaseCommand):
    help = (
        "Show the status of the system: services, queues, lag, dead letters, stuck orders. "
        "The exit code is 0 if all is well, 1 if something needs a person."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--watch", nargs="?", type=number, const=2.0, metavar="SECONDS", help="repeat it until Ctrl-C"
        )
        parser.add_argument("--json", action="store_true", help="write JSON; with --watch, one object on each line")

    def handle(self, *args: Any, watch: float | None, **options: Any) -> None:
        found = status.look()
        self._show(found, as_json=options["json"], once=watch is None)
        try:
            while watch is not None:
                time.sleep(max(0.2, watch))
                self._show(found := status.look(), as_json=options["json"], once=False)
        except KeyboardInterrupt:
            self.stdout.write("")
        if found.troubles:
            raise SystemExit(1)

    def _show(self, found: Status, *, as_json: bool, once: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(asdict(found), indent=2 if once else None))
            return
        clear = "" if once or not self.stdout.isatty() else CLEAR
        self.stdout.write(clear + "\n".join(self._screen(found)))

    def _screen(self, found: Status) -> Iterator[str]:
        yield f"{timezone.now():%Y-%m-%d %H:%M:%S} UTC"
        yield ""
        yield self.style.MIGRATE_HEADING(f"{'service':<14}{'unsent':>8}{'oldest':>10}{'dead':>7}{'connections':>13}")
        for service in found.services:
            if service.answers:
                oldest = f"{service.oldest_seconds:g} s"
                numbers = f"{service.pending:>8}{oldest:>10}{service.dead_letters:>7}{service.connections:>13}"
                yield f"{service.name:<14}{numbers}"
            else:
                yield self.style.ERROR(f"{service.name:<14}  does not answer")
        for standby in found.standbys:
            behind = "-" if standby.seconds_behind is None else f"{standby.seconds_behind:g} s"
            yield f"{standby.name} standby: {behind} behind, {standby.bytes_behind} bytes to replay"
        yield ""
        yield self.style.MIGRATE_HEADING(f"{'queue':<22}{'waiting':>8}{'consumers':>11}")
        for queue in found.queues:
            if queue.name == settings.EVENTS_STREAM:
                continue  # where nothing waits: it is shown below
            yield f"{queue.name:<22}{_or_dash(queue.waiting):>8}{_or_dash(queue.consumers):>11}"
        yield ""
        under_way = (
            f"{where} {number}" + (f" ({found.stuck_orders[where]} stuck)" if found.stuck_orders.get(where) else "")
            for where, number in found.open_orders.items()
            if number
        )
        yield f"orders under way    {', '.join(under_way) or 'none'}"
        yield f"events kept         {_events_kept(found)}"
        yield f"payments unknown    {_or_dash(found.payments_unknown)}"
        yield f"refunds open        {_or_dash(found.refunds_open)}"
        yield f"disputes open       {_or_dash(found.disputes_open)}"
        unsettled = (f"{where} {number}" for where, number in found.webhooks_open.items() if number)
        yield f"webhooks unsettled  {', '.join(unsettled) or 'none'}"
        yield f"ledger imbalance    {_imbalance(found)}"
        yield f"gateway differences {sum(found.gateway_differences.values())}, {_compared(found)}"
        yield ""
        if not found.troubles:
            yield self.style.SUCCESS("All is well.")
        for trouble in found.troubles:
            yield self.style.ERROR(f"! {trouble}")


def _events_kept(found: Status) -> str:
    """The number of events in the stream, which the broker counts every few seconds."""
    kept = next((queue.waiting for queue in found.queues if queue.name == settings.EVENTS_STREAM), None)
    return "none: there is no stream, and manage.py declare_topology says why" if kept is None else f"about {kept}"


def _imbalance(found: Status) -> str:
    """By how much the ledger is out of balance in each currency; a dash if nobody knows."""
    amounts = [money.text(minor, currency=currency) for currency, minor in found.ledger_imbalance.items() if minor]
    return ", ".join(amounts) or ("0" if found.ledger_imbalance else "-")


def _compared(found: Status) -> str:
    """When the ledger was last compared with what the gateway has booked."""
    seconds = found.reconciled_seconds_ago
    return "never compared" if seconds is None else f"compared {seconds / 3600:.1f} hours ago"


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)
