"""manage.py region: a second region, which waits as a standby, and takes over."""

import sys
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from orders_project import database_limits
from orders_project.region import promotion, readiness
from orders_project.region.databases import NotPossible
from outbox.management.arguments import count, moment

AFTERWARDS = """
This region is written to now. Only a person can do the rest:

  1. Start the processes here, if they do not run.
  2. Point clients here: the DNS record or load balancer of {url}.
  3. Point the gateway's webhooks here, if they do not go to that address.
  4. See that the other region cannot come back as a primary: its servers stay off, or become standbys of these.
  5. manage.py audit, a minute later; manage.py reconcile shows what the gateway has booked and nobody here knows.
  6. manage.py resend --events --since TIME publishes the events again that subscribers have missed.
  7. Make new standbys of these databases: until then there is no region to go to.

docs/region.md says more about each."""


class Command(BaseCommand):
    help = (
        "A second region, whose databases are standbys and whose broker is its own: run this there, in its environment."
        " See docs/region.md."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="status|promote")
        actions.add_parser(
            "status",
            help="how far each standby is behind, and whether this region could take over now; the exit code is 1 if"
            " it could not",
        )
        promote = actions.add_parser(
            "promote",
            help="take over: promote the databases, declare the queues, send again what the lost broker had; can be"
            " repeated",
        )
        promote.add_argument(
            "--even-if-the-first-is-up",
            action="store_true",
            help="although a server of the other region answers: nobody must be able to write to it",
        )
        promote.add_argument(
            "--since",
            type=moment,
            metavar="TIME",
            help="send again only what was sent at this time or later; by default, all that outboxes still have",
        )
        promote.add_argument(
            "--seconds", type=count, default=300, help="how long a server may take to apply what it has received (300)"
        )

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        if missing := sorted(set(settings.SERVICES) - set(settings.SERVICES_HERE)):
            raise CommandError(f"Run it where all services are: {', '.join(missing)} is not here (SERVICES).")
        try:
            with database_limits.without_limits_of_statements(*settings.DATABASES_HERE):
                self._show_status() if action == "status" else self._promote(**options)
        except NotPossible as refusal:
            raise CommandError(str(refusal)) from refusal

    def _show_status(self) -> None:
        found = readiness.look()
        self.stdout.write("\n".join(found.lines))
        if not found.is_ready:
            sys.exit(1)

    def _promote(self, *, since: datetime | None, even_if_the_first_is_up: bool, seconds: int, **options: Any) -> None:
        promotion.promote(since=since, even_if_the_first_is_up=even_if_the_first_is_up, seconds=seconds, say=self._say)
        self.stdout.write(AFTERWARDS.format(url=settings.PUBLIC_URL))

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
