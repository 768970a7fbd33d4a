"""manage.py audit: check that the data of all services add up."""

import json
import sys
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from orders_project import database_limits
from orders_project.audit import CHECKS, Report, audit
from outbox.management.arguments import number

SHOWN = 20


class Command(BaseCommand):
    help = (
        "Check that stock, money and messages are conserved across all databases. Work in flight is skipped."
        " The exit status is 1 if something does not add up."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="write one JSON object")
        parser.add_argument(
            "--window", type=number, default=24, metavar="HOURS", help="how far back messages are checked (%(default)s)"
        )
        parser.add_argument(
            "--grace",
            type=number,
            default=60,
            metavar="SECONDS",
            help="what has changed within this time is in flight (%(default)s)",
        )
        parser.add_argument(
            "--settle",
            type=number,
            default=5,
            metavar="SECONDS",
            help="the pause before suspects are checked again (%(default)s)",
        )

        parser.add_argument(
            "--primary", action="store_true", help="read the primaries alone, and not their standbys first"
        )

    def handle(self, *args: Any, window: float, grace: float, settle: float, primary: bool, **options: Any) -> None:
        with database_limits.without_limits_of_statements(*settings.DATABASES_HERE, *settings.STANDBYS.values()):
            report = audit(
                window=timedelta(hours=window),
                grace=timedelta(seconds=grace),
                settle=timedelta(seconds=settle),
                standbys=not primary,
            )
        if options["json"]:
            self.stdout.write(json.dumps(as_json(report)))
        else:
            self.show(report)
        if not report.passed:
            sys.exit(1)

    def show(self, report: Report) -> None:
        for name, rule in CHECKS.items():
            found = [finding for finding in report.findings if finding.check == name]
            verdict = self.style.ERROR(f"{len(found)} wrong") if found else self.style.SUCCESS("ok")
            self.stdout.write(f"{name:<15} {rule.promise:<85} {report.seconds[name]:6.2f} s  {verdict}")
            for finding in found[:SHOWN]:
                self.stdout.write(f"    {finding.subject}: {finding.detail}\n        repair: {finding.repair}")
            if len(found) > SHOWN:
                self.stdout.write(f"    … and {len(found) - SHOWN} more: see --json")


def as_json(report: Report) -> dict[str, Any]:
    return {
        "passed": report.passed,
        "began": report.began.isoformat(),
        "seconds": {name: round(seconds, 3) for name, seconds in report.seconds.items()},
        "findings": [finding.asdict() for finding in report.findings],
    }
