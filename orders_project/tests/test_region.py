"""
One of two whole systems on one machine is lost under load, and the other one takes over by `manage.py region promote`.
What is checked afterwards is what `make chaos` checks, and the audit.
"""

import re

import pytest

from orders_project.tests.chaos import checker
from orders_project.tests.regions import Regions, two_regions

SOME = 12  # orders
UNHANDLED = "SELECT message_id FROM outbox_outgoingmessage WHERE type = 'payments.charge' AND published_at IS NOT NULL"
HANDLED = "SELECT count(*) FROM outbox_incomingmessage WHERE message_id = ANY(%s)"
IN_RECOVERY = "SELECT pg_is_in_recovery()"
DONE_AFTER = """
SELECT extract(epoch FROM min(status_since))::float FROM orders_order
WHERE status = 'done' AND status_since > to_timestamp(%s)
"""
# The gateway sent its webhook while nobody was there; a hold was committed, and its order was not.
ASK_NOW = """
WITH payments AS (UPDATE payments_payment SET ask_at = now() WHERE ask_at > now())
UPDATE payments_refund SET ask_at = now() WHERE ask_at > now()
"""
EXPIRE_NOW = """
UPDATE processing_hold SET expires_at = now() WHERE status = 'held' AND expires_at > now() AND order_id <> ALL(%s)
"""

pytestmark = pytest.mark.processes


def accept(regions: Regions, number: int) -> None:
    """Wait until so many more orders are accepted."""
    target = len(regions.customers.memory.accepted) + number
    regions.system.until(lambda: len(regions.customers.memory.accepted) >= target)


def let_messages_wait_in_the_broker(regions: Regions) -> None:
    """Payments dies, and messages to it have left the outbox: nobody but the broker has them now."""
    regions.system.kill("payments")

    def waiting() -> bool:
        sent = [message for (message,) in regions.system.query("orders", UNHANDLED)]
        return regions.system.query("payments", HANDLED, sent) != [(len(sent),)]

    regions.system.until(waiting)


def take_over(regions: Regions, *, lost_at: float) -> None:
    said, code = regions.command("promote")
    print(said)
    assert code == 0, said
    again, code = regions.command("promote")
    assert code == 0, again
    assert "default, orders, payments, processing: a primary already" in again
    regions.start_second()
    memory, system = regions.customers.memory, regions.system
    system.until(lambda: any(at > lost_at for at in memory.accepted.values()))
    system.until(lambda: system.query("orders", DONE_AFTER, lost_at) != [(None,)])
    ((done_at,),) = system.query("orders", DONE_AFTER, lost_at)
    first = min(at for at in memory.accepted.values() if at > lost_at)
    print(f"RTO: {first - lost_at:.1f} s to the first order accepted, {done_at - lost_at:.1f} s to the first one done")


def everything_ends(regions: Regions) -> None:
    """No customer comes any more, and what would be done in some minutes is done now."""
    regions.customers.stop()
    records = regions.records()

    def ended() -> bool:
        orders = [order for (order,) in regions.system.query("orders", "SELECT order_id FROM orders_order")]
        regions.system.query("payments", ASK_NOW)
        regions.system.query("processing", EXPIRE_NOW, orders)
        return not records.open_orders() and records.is_quiet()

    regions.system.until(ended)
    regions.system.manage("audit", "--grace", "0", "--settle", "2", env=regions.second)


def test_with_synchronous_standbys_no_accepted_order_is_lost_with_a_region() -> None:
    with two_regions() as regions:
        regions.make_synchronous()
        said, code = regions.command("status")
        assert code == 0, said
        assert said.count("standby, receives, ") == 4
        refused, code = regions.command("promote")
        assert code == 1
        assert "the other region is up" in refused
        assert regions.records().ask("orders", IN_RECOVERY) == [(True,)]
        regions.customers.start()
        accept(regions, SOME)
        let_messages_wait_in_the_broker(regions)
        lost_at = regions.lose_processes()
        regions.lose_servers()

        said, code = regions.command("status")
        assert code == 0, said
        assert said.count("does not answer") == 4
        take_over(regions, lost_at=lost_at)
        accept(regions, SOME)
        everything_ends(regions)
        assert checker.check(regions.records()) == []


def test_with_asynchronous_standbys_what_is_lost_is_known_and_the_rest_agrees() -> None:
    with two_regions() as regions:
        regions.customers.start()
        accept(regions, SOME)
        ((held_at,),) = regions.tell_first("SELECT clock_timestamp()")
        regions.hold_replication()
        accept(regions, SOME)
        let_messages_wait_in_the_broker(regions)
        lost_at = regions.lose_processes()
        there = regions.system.query("orders", "SELECT order_id, updated_at FROM orders_order")
        regions.lose_servers()

        take_over(regions, lost_at=lost_at)
        accept(regions, SOME)
        everything_ends(regions)
        records = regions.records()
        here = {order for (order,) in records.ask("orders", "SELECT order_id FROM orders_order")}
        lost = {order for order, _ in there} - here
        touched = {order for order, updated_at in there if updated_at >= held_at}
        behind = lost_at - held_at.timestamp()
        print(
            f"RPO: the standby was {behind:.1f} s behind; {len(lost)} orders are lost, {len(touched - lost)} went back"
        )
        assert len(lost) >= SOME
        assert lost <= touched
        findings = checker.check(records)
        print(*findings, sep="\n")
        assert [one for one in findings if not touched & set(re.findall(r"[0-9a-f-]{36}", one.what))] == []
