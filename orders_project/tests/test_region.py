"""
One of two whole systems on one machine is lost under load, and the other one takes over by `manage.py region promote`.
What is checked afterwards is what `make chaos` checks, and the audit.
"""

import json
import re
import time
from datetime import datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from orders_project.embedded import variable
from orders_project.embedded.services import DATABASES
from orders_project.tests.chaos import checker
from orders_project.tests.regions import Regions, two_regions

SOME = 12  # orders
CHARGES = "SELECT message_id FROM outbox_outgoingmessage WHERE type = 'payments.charge' AND published_at IS NOT NULL"
HANDLED = "SELECT count(*) FROM outbox_incomingmessage WHERE message_id = ANY(%s)"
IN_RECOVERY = "SELECT pg_is_in_recovery()"
KNOWN = "SELECT order_id FROM orders_order"
DONE_AFTER = """
SELECT extract(epoch FROM min(status_since))::float FROM orders_order
WHERE status = 'done' AND status_since > to_timestamp(%s)
"""
AUDIT = ("audit", "--grace", "0", "--settle", "2")
# The gateway sent its webhook while nobody was there; a hold was committed, and its order was not.
ASK_NOW = """
WITH payments AS (UPDATE payments_payment SET ask_at = now() WHERE ask_at > now())
UPDATE payments_refund SET ask_at = now() WHERE ask_at > now()
"""
EXPIRE_NOW = """
UPDATE processing_hold SET expires_at = now() WHERE status = 'held' AND expires_at > now() AND order_id <> ALL(%s)
"""
NAMED = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def accept(regions: Regions, number: int) -> None:
    """Wait until so many more orders are accepted."""
    target = len(regions.customers.memory.accepted) + number
    regions.system.until(lambda: len(regions.customers.memory.accepted) >= target)


def hold_replication(regions: Regions, name: str) -> datetime:
    """From now on this standby gets nothing; the time."""
    ((at,),) = regions.tell_first("SELECT clock_timestamp()")
    regions.hold_replication(name)
    assert isinstance(at, datetime)
    return at


def let_messages_wait_in_the_broker(regions: Regions) -> None:
    """Payments dies, and messages to it have left the outbox: nobody but the broker has them now."""
    regions.system.kill("payments")

    def waiting() -> bool:
        sent = [message for (message,) in regions.system.query("orders", CHARGES)]
        return regions.system.query("payments", HANDLED, sent) != [(len(sent),)]

    regions.system.until(waiting)


def take_over(regions: Regions, *, lost_at: float) -> str:
    """Promote the second region, start it, and wait until it has done an order; what the command said."""
    said, code = regions.command("promote")
    print(said)
    assert code == 0, said
    again, code = regions.command("promote")
    assert code == 0, again
    assert "a primary already" in again
    assert "promoted, " not in again
    begins = time.time()
    regions.start_second()
    memory, system = regions.customers.memory, regions.system
    system.until(lambda: any(at > begins for at in memory.accepted.values()))
    system.until(lambda: system.query("orders", DONE_AFTER, begins) != [(None,)])
    ((done_at,),) = system.query("orders", DONE_AFTER, begins)
    first = min(at for at in memory.accepted.values() if at > begins)
    print(f"RTO: {first - lost_at:.1f} s to the first order accepted, {done_at - lost_at:.1f} s to the first one done")
    return said


def everything_ends(regions: Regions) -> None:
    """No customer comes any more, and what would be done in some minutes is done now."""
    regions.customers.stop()
    records = regions.records()

    def ended() -> bool:
        regions.system.query("payments", ASK_NOW)
        regions.system.query("processing", EXPIRE_NOW, [order for (order,) in regions.system.query("orders", KNOWN)])
        return not records.open_orders() and records.is_quiet()

    regions.system.until(ended)


def test_with_synchronous_standbys_no_accepted_order_is_lost_with_a_region() -> None:
    with two_regions() as regions:
        regions.make_synchronous()
        regions.tell_first("CREATE ROLE somebody LOGIN PASSWORD 'somebody'")
        second = regions.standbys["all"]
        second.tell("ALTER SYSTEM SET synchronous_standby_names = '*'")  # configured as the first one is
        said, code = regions.command("status")
        assert code == 0, said
        assert said.count("standby, receives, ") == 4
        refused, code = regions.command("promote")
        assert code == 1
        assert "the other region is up" in refused
        assert second.tell(IN_RECOVERY) is True
        regions.customers.start()
        accept(regions, SOME)
        let_messages_wait_in_the_broker(regions)
        lost_at = regions.lose_processes()
        regions.lose_servers()

        said, code = regions.command("status")
        assert code == 0, said
        assert said.count("does not answer") == 4
        urls = {variable(name): regions.second[variable(name)] for name in DATABASES}
        refused, code = regions.command(
            "promote", env={name: re.sub("//.*@", "//somebody:somebody@", url) for name, url in urls.items()}
        )
        assert code == 1
        assert "may not promote" in refused
        second.tell("SELECT pg_reload_conf()")
        refused, code = regions.command("promote")
        assert code == 1
        assert "promoted, with all that was received" in refused
        assert "every commit in default would wait for the standby '*'" in refused
        second.tell("ALTER SYSTEM SET synchronous_standby_names = ''")
        second.tell("SELECT pg_reload_conf()")
        said = take_over(regions, lost_at=lost_at)
        assert "all databases are on one server" in said
        assert not re.search("messages: 0 ", said)
        accept(regions, SOME)
        everything_ends(regions)
        assert checker.check(regions.records()) == []
        regions.system.manage(*AUDIT, env=regions.second)


def test_with_asynchronous_standbys_what_is_lost_is_known_and_the_rest_agrees() -> None:
    with two_regions() as regions:
        regions.customers.start()
        accept(regions, SOME)
        held_at = hold_replication(regions, "all")
        accept(regions, SOME)
        lost_at = regions.lose_processes()
        there = regions.orders_of_first()
        regions.lose_servers()

        take_over(regions, lost_at=lost_at)
        accept(regions, SOME)
        everything_ends(regions)
        records = regions.records()
        lost = there.keys() - {order for (order,) in records.ask("orders", KNOWN)}
        touched = {order for order, changed_at in there.items() if changed_at >= held_at}
        behind = lost_at - held_at.timestamp()
        print(
            f"RPO: the standby was {behind:.1f} s behind; {len(lost)} orders are lost, {len(touched - lost)} went back"
        )
        assert len(lost) >= SOME
        assert lost <= touched
        findings = checker.check(records)
        print(*findings, sep="\n")
        assert [one for one in findings if not touched & set(NAMED.findall(one.what))] == []
        regions.system.manage(*AUDIT, env=regions.second)  # what is left is of one moment


def test_a_database_that_is_behind_the_others_is_named_and_every_order_ends() -> None:
    with two_regions(payments_apart=True) as regions:
        regions.make_synchronous()
        regions.customers.start()
        accept(regions, SOME)
        held_at = hold_replication(regions, "payments")
        accept(regions, SOME)
        lost_at = regions.lose_processes()
        there = regions.orders_of_first()
        regions.lose_servers()

        said = take_over(regions, lost_at=lost_at)
        behind = re.findall(r"^(\w+): behind the others; (\d+) messages", said, re.MULTILINE)
        assert [service for service, _ in behind] == ["payments"]
        accept(regions, SOME)
        everything_ends(regions)
        touched = {order for order, changed_at in there.items() if changed_at >= held_at}
        findings = checker.check(regions.records())
        forgotten = [one for one in findings if "nobody has committed to send it" in one.what]
        others = [one for one in findings if one not in forgotten]
        print(f"{len(forgotten)} messages are forgotten;", *others, sep="\n")
        assert len(forgotten) == int(behind[0][1])
        assert [one for one in others if not touched & set(NAMED.findall(one.what))] == []
        report = json.loads(regions.system.ask(*AUDIT, "--json", env=regions.second)[0])
        named = {one["subject"] for one in report["findings"] if one["check"] == "messages"}
        assert named == {name for one in forgotten for name in NAMED.findall(one.what)}


# What stands against it, without a second region ---------------------------------------------------------------------


@pytest.fixture
def address(db: None, settings: Any) -> str:
    database = settings.DATABASES["orders"]
    return f"postgres://{database['USER']}:{database['PASSWORD']}@{database['HOST']}:{database['PORT']}/"


def test_a_region_that_is_a_primary_could_not_take_over(db: None) -> None:
    said = StringIO()
    with pytest.raises(SystemExit):
        call_command("region", "status", stdout=said)
    assert said.getvalue().count("a primary: promoted already, or not a standby") == 4
    assert said.getvalue().endswith("could not take over now\n")


def test_nothing_is_done_while_the_other_region_can_be_written_to(settings: Any, address: str) -> None:
    settings.OTHER_REGION_DATABASE_URLS = [f"{address}postgres", "postgres://127.0.0.1:1/nowhere"]
    said = StringIO()
    with pytest.raises(CommandError, match=r"/postgres answers and can be written to\. Two regions"):
        call_command("region", "promote", stdout=said)
    assert said.getvalue() == ""
    settings.SERVICES_HERE = ("orders", "processing")
    with pytest.raises(CommandError, match="payments is not here"):
        call_command("region", "promote", stdout=said)
