"""manage.py saga: the life of an order, as a table and as the diagram in the docs."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from orders import diagram

BEGIN, END = "<!-- saga: written by manage.py saga -->", "<!-- end of saga -->"


def in_step(text: str) -> str:
    """
    This document with the diagram as the table has it now.

    :raises ValueError: if it has no place for one
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"There is no {BEGIN} … {END} in it.")
    return f"{before}{BEGIN}\n```mermaid\n{diagram.mermaid()}\n```\n{END}{after}"


class Command(BaseCommand):
    help = "Print what an order does in every status at every event, and draw it into docs/architecture.md."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--docs", type=Path, default=settings.BASE_DIR / "docs" / "architecture.md")
        parser.add_argument("--print-only", action="store_true", help="leave the docs alone")

    def handle(self, *args: Any, docs: Path, print_only: bool, **options: Any) -> None:
        rows = [("while it is", "and hears", "it becomes, or"), *diagram.table()]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        for row in rows:
            self.stdout.write(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}")
        if print_only:
            return
        try:
            text = docs.read_text()
            drawn = in_step(text)
            if drawn != text:
                docs.write_text(drawn)
                self.stderr.write(f"wrote {docs}")
        except (OSError, ValueError) as error:
            raise CommandError(f"{docs}: {error}") from error
