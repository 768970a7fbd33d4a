"""manage.py refund_lifecycle: print the table of a refund of a part, and draw it into the docs."""

from collections.abc import Iterable

from common.state_diagram import DiagramCommand
from payments import diagram


class Command(DiagramCommand):
    help = "Print what happens to a refund in each status at each event, and draw it into docs/architecture.md."
    name = "refund_lifecycle"

    def rows(self) -> Iterable[tuple[str, str, str]]:
        return diagram.refund_table()

    def diagram(self) -> str:
        return diagram.refund_mermaid()
