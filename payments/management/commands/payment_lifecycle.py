"""manage.py payment_lifecycle: print the table of a payment, and draw it into the docs."""

from collections.abc import Iterable

from common.state_diagram import DiagramCommand
from payments import diagram


class Command(DiagramCommand):
    help = "Print what happens to a payment in each status at each event, and draw it into docs/architecture.md."
    name = "payment_lifecycle"

    def rows(self) -> Iterable[tuple[str, str, str]]:
        return diagram.table()

    def diagram(self) -> str:
        return diagram.mermaid()
