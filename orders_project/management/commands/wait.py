"""manage.py wait: wait until what a process needs is available."""

import errno
import os
import shutil
import signal
import sys
from argparse import REMAINDER
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from orders_project.observability import waiting
from outbox.management.arguments import number


class Command(BaseCommand):
    help = (
        "Wait until the databases and the broker of the environment are available and the databases are migrated. "
        "Then run COMMAND, if there is one, in this process: manage.py wait -- celery -A orders_project worker"
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seconds", type=number, default=settings.WAIT_SECONDS, help="at most this long")
        parser.add_argument(
            "--unmigrated", action="store_true", help="do not wait for migrations, in order to run them"
        )
        parser.add_argument("command", nargs=REMAINDER, metavar="COMMAND")

    def handle(self, *args: Any, seconds: float, unmigrated: bool, command: list[str], **options: Any) -> None:
        # The first process of a container ignores a signal without a handler.
        signal.signal(signal.SIGTERM, _leave)
        try:
            waiting.wait(seconds=seconds, migrated=not unmigrated, say=self._say)
        except waiting.NotAvailable as refusal:
            raise CommandError(str(refusal)) from None
        command = command[1:] if command[:1] == ["--"] else command
        if command:
            self._become(command)

    def _say(self, line: str) -> None:
        self.stderr.write(f"wait: {line}")

    def _become(self, command: list[str]) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.execvp(command[0], command)  # noqa: S606 - the command comes from our own command line
        except OSError as error:
            # A folder on the PATH that may not be entered counts more for exec than "not found" in the others.
            is_there = shutil.which(command[0], mode=os.F_OK)
            reason = error.strerror if is_there else os.strerror(errno.ENOENT)
            raise CommandError(f"{command[0]} cannot be run: {reason}") from None


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
