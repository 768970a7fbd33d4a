"""manage.py messages_by_day: partition outbox and inbox by day, so that whole days go, where deleting gives out."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from outbox import by_day_ddl, clock
from outbox.errors import OutboxError
from outbox.services import database_of, services_here


class Command(BaseCommand):
    help = (
        "Partition outbox and inbox of services by day, or make them one table again, while everybody uses them. Then"
        " days are dropped, where rows were deleted; every statement costs a little more. Run it as the owner of the"
        " databases; it may be stopped and run again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--service", action="append", choices=services_here(), metavar="SERVICE", help="may be repeated (all)"
        )
        back = parser.add_argument_group("back")
        back.add_argument("--undo", action="store_true", help="make no more days, and one table when the last is gone")
        back.add_argument("--at-once", action="store_true", help="move the rows of all days now, while everybody waits")

    def handle(
        self, *args: Any, service: list[str] | None, undo: bool, at_once: bool, verbosity: int, **options: Any
    ) -> None:
        if at_once and not undo:
            raise CommandError("--at-once goes with --undo.")

        def say(line: str) -> None:
            if verbosity:
                self.stdout.write(line)

        for using in map(database_of, service or services_here()):
            try:
                for table in by_day_ddl.TABLES:
                    if undo:
                        by_day_ddl.revert(using, table, at_once=at_once, say=say)
                    else:
                        by_day_ddl.convert(using, table, now=clock.now(using), say=say)
            except OutboxError as error:
                raise CommandError(f"{using}: {error}") from error
            except Error as error:
                raise CommandError(f"{using}: {str(error).splitlines()[0]}") from error
