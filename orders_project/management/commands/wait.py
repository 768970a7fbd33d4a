"""manage.py wait: hold a process back until what it needs is there."""

import errno
import os
import shutil
import signal
import sys
from argparse import REMAINDER
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from orders_project import waiting


class Command(BaseCommand):
    help = (
        "Wait until the databases and the broker that the environment names are there and the databases are migrated. "
        "Then become COMMAND, if one is given: manage.py wait -- celery -A orders_project worker"
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seconds", type=float, default=settings.WAIT_SECONDS, help="for this long at most")
        parser.add_argument("--unmigrated", action="store_true", help="take databases as they are: to migrate them")
        parser.add_argument("command", nargs=REMAINDER, metavar="COMMAND")

    def handle(self, *args: Any, seconds: float, unmigrated: bool, command: list[str], **options: Any) -> None:
        # As the first process of a container a signal that nobody handles would be ignored.
        signal.signal(signal.SIGTERM, _leave)
        try:
            waiting.wait(seconds=seconds, migrated=not unmigrated, say=self._say)
        except waiting.NotThere as refusal:
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
            os.execvp(command[0], command)  # noqa: S606 - the command is this process's own
        except OSError as error:
            # A folder on the PATH that is closed to us counts more for exec than that nothing was found in the others.
            is_there = shutil.which(command[0], mode=os.F_OK)
            reason = error.strerror if is_there else os.strerror(errno.ENOENT)
            raise CommandError(f"{command[0]} can't be run: {reason}") from None


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
