"""manage.py saga: print the table of the saga, and draw it into the docs."""

from collections.abc import Iterable

from common.state_diagram import DiagramCommand
from orders import diagram


class Command(DiagramCommand):
    help = "Print what happens to an order in each status at each event, and draw it into docs/architecture.md."
    name = "saga"

    def rows(self) -> Iterable[tuple[str, str, str]]:
        return diagram.table()

    def diagram(self) -> str:
        return diagram.mermaid()
