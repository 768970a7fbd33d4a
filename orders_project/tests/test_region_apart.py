"""
A region is lost whose databases are on several servers, and the standby of one of them was behind: that one has
forgotten what it told the others, and is recovered from what they know.
"""

import re

import pytest

from orders_project.tests.chaos import checker
from orders_project.tests.regions import two_regions

SOME = 12  # orders

pytestmark = pytest.mark.processes


def test_a_database_that_is_behind_the_others_is_recovered() -> None:
    with two_regions(payments_apart=True) as regions:
        regions.make_synchronous()
        regions.customers.start()
        regions.accept(SOME)
        regions.hold_replication("payments")
        regions.accept(SOME)
        lost_at = regions.lose_processes()
        regions.lose_servers()

        said = regions.take_over(lost_at=lost_at)
        assert re.findall(r"^(\w+): behind the others; \d+ messages", said, re.MULTILINE) == ["payments"]
        assert re.search(r"^payments: recovered since .*: .*messages that it had sent are known", said, re.MULTILINE)
        regions.accept(SOME)
        regions.end_everything(some_is_lost=True)
        assert checker.check(regions.records()) == []
        regions.system.manage("audit", "--grace", "0", "--settle", "2", env=regions.second)
