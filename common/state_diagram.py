"""Tables of states, printed as lines of text and drawn into the docs as a Mermaid diagram."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser


def mermaid(
    *, begins: Mapping[str, Sequence[str]], arrows: Mapping[tuple[str, str], Sequence[str]], ends: Iterable[str]
) -> str:
    """
    Return a state diagram.

    :param begins: the labels with which each first state begins
    :param arrows: the labels of the transitions from one state to another
    :param ends: the last states
    """
    lines = [f"    [*] --> {state}: {'<br/>'.join(labels)}" for state, labels in begins.items()]
    lines += [f"    {source} --> {target}: {'<br/>'.join(labels)}" for (source, target), labels in arrows.items()]
    lines += [f"    {state} --> [*]" for state in ends]
    return "\n".join(["stateDiagram-v2", *lines])


def with_diagram(text: str, diagram: str, *, command: str) -> str:
    """
    Return this document with the diagram between the marks of the command that draws it.

    :raises ValueError: if the document lacks the marks
    """
    first, last = f"<!-- {command}: written by manage.py {command} -->", f"<!-- end of {command} -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"There is no {first} … {last} in it.")
    return f"{before}{first}\n```mermaid\n{diagram}\n```\n{last}{after}"


class DiagramCommand(BaseCommand):
    """The base of commands that print a table of states and draw it. A subclass says its name, rows and diagram."""

    requires_system_checks = ()
    name: str

    def rows(self) -> Iterable[tuple[str, str, str]]:
        """Return each state and event, with the decision."""
        raise NotImplementedError

    def diagram(self) -> str:
        """Return the diagram."""
        raise NotImplementedError

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--docs", type=Path, default=settings.BASE_DIR / "docs" / "architecture.md")
        parser.add_argument("--print-only", action="store_true", help="do not write the docs")

    def handle(self, *args: Any, docs: Path, print_only: bool, **options: Any) -> None:
        rows = [("while it is", "and hears", "it becomes, or"), *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        for row in rows:
            self.stdout.write(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}")
        if print_only:
            return
        try:
            text = docs.read_text()
            drawn = with_diagram(text, self.diagram(), command=self.name)
            if drawn != text:
                docs.write_text(drawn)
                self.stderr.write(f"wrote {docs}")
        except (OSError, ValueError) as error:
            raise CommandError(f"{docs}: {error}") from error
