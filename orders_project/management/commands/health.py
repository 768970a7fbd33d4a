"""manage.py health: check whether a process has what it needs, for the probes of containers."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from orders_project.observability import health


class Command(BaseCommand):
    help = "Check what a process of this role needs, in a few seconds. The exit code is 1 if a check fails."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "role", nargs="?", choices=health.ROLES, default="all", help="of which kind of process (%(default)s)"
        )

    def handle(self, *args: Any, role: str, **options: Any) -> None:
        findings = health.examine(health.of_role(role))
        for finding in findings:
            result = self.style.ERROR(f"failed: {finding.trouble}") if finding.trouble else self.style.SUCCESS("ok")
            self.stdout.write(f"{finding.part:<22} {result}")
        if any(finding.trouble for finding in findings):
            raise SystemExit(1)
