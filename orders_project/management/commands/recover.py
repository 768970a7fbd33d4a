"""manage.py recover: one service goes on after its database alone was set back to an earlier moment."""

import sys
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from orders_project import database_limits
from orders_project.recovery import NotPossible, recover
from orders_project.recovery.report import Report
from outbox.management.arguments import moment
from outbox.stream import StreamError


class Command(BaseCommand):
    help = (
        "Recover a service whose database was set back to an earlier moment while the others are ahead: make again what"
        " orders, its events and the gateway know of, and have sent again what it was sent. It can be repeated. The"
        " exit status is 1 if something is left for a person to decide."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--service", required=True, choices=settings.SERVICES, help="whose database was set back")
        parser.add_argument(
            "--since",
            required=True,
            type=moment,
            metavar="TIME",
            help="the moment to which it was set back, or a little before: 2026-11-01T12:00+01:00",
        )
        parser.add_argument("--dry-run", action="store_true", help="only count what would be done")

    def handle(self, *args: Any, service: str, since: datetime, dry_run: bool, **options: Any) -> None:
        if missing := sorted(set(settings.SERVICES) - set(settings.SERVICES_HERE)):
            raise CommandError(f"Run it where all services are: {', '.join(missing)} is not here (SERVICES).")
        try:
            with database_limits.without_limits_of_statements(*settings.DATABASES_HERE):
                report = recover(service, since=since, dry_run=dry_run)
        except (NotPossible, StreamError) as refusal:
            raise CommandError(str(refusal)) from refusal
        self._show(report, service=service, dry_run=dry_run)
        if report.decisions:
            sys.exit(1)

    def _show(self, report: Report, *, service: str, dry_run: bool) -> None:
        done = {what: number for what, number in report.done.items() if number}
        if not done and not report.decisions:
            self.stdout.write(f"{service} has nothing to recover.")
            return
        for what, number in done.items():
            self.stdout.write(f"{number:>8}  {what}")
        if dry_run:
            self.stdout.write("Nothing was done: that is what would be.")
            return
        if report.decisions:
            self.stdout.write(f"{len(report.decisions)} to decide by a person:")
            for one in report.decisions:
                self.stdout.write(f"    {one}")
