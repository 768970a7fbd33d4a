"""manage.py contracts: the descriptions of the API and of the messages, and what a change would break."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from orders_project import contracts


class Command(BaseCommand):
    help = (
        "Write docs/openapi.yaml, docs/asyncapi.yaml and docs/orders.postman_collection.json. With --check, write "
        "nothing and fail if they are not as the code is, or if the code breaks what a released version in "
        "docs/contracts promises. With --release, record the first two as the contract of this version."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--check", action="store_true", help="only compare; the exit code is 1 if something differs")
        what.add_argument("--release", action="store_true", help="record them in docs/contracts/VERSION as well")

    def handle(self, *args: Any, check: bool, release: bool, **options: Any) -> None:
        if not check:
            for path in contracts.write(release=release):
                self.stdout.write(f"written: {path}")
        problems = [*contracts.outdated(), *contracts.broken()]
        for problem in problems:
            self.stderr.write(problem)
        if problems:
            raise CommandError(f"{len(problems)} problems")
