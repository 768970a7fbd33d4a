"""
A region is lost whose databases are on several servers, and the standby of one of them was behind: that one has
forgotten what it told the others.
"""

import json
import re

import pytest

from orders_project.tests.chaos import checker
from orders_project.tests.regions import two_regions

SOME = 12  # orders
AUDIT = ("audit", "--grace", "0", "--settle", "2", "--json")
NAMED = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

pytestmark = pytest.mark.processes


def test_a_database_that_is_behind_the_others_is_named_and_every_order_ends() -> None:
    with two_regions(payments_apart=True) as regions:
        regions.make_synchronous()
        regions.customers.start()
        regions.accept(SOME)
        held_at = regions.hold_replication("payments")
        regions.accept(SOME)
        lost_at = regions.lose_processes()
        there = regions.orders_of_first()
        regions.lose_servers()

        said = regions.take_over(lost_at=lost_at)
        behind = re.findall(r"^(\w+): behind the others; (\d+) messages", said, re.MULTILINE)
        assert [service for service, _ in behind] == ["payments"]
        regions.accept(SOME)
        regions.end_everything()
        touched = {order for order, changed_at in there.items() if changed_at >= held_at}
        findings = checker.check(regions.records())
        forgotten = [one for one in findings if "nobody has committed to send it" in one.what]
        others = [one for one in findings if one not in forgotten]
        print(f"{len(forgotten)} messages are forgotten;", *others, sep="\n")
        assert len(forgotten) == int(behind[0][1])
        assert [one for one in others if not touched & set(NAMED.findall(one.what))] == []
        report = json.loads(regions.system.ask(*AUDIT, env=regions.second)[0])
        named = {one["subject"] for one in report["findings"] if one["check"] == "messages"}
        assert named == {name for one in forgotten for name in NAMED.findall(one.what)}
