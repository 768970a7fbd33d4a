"""
One of two whole systems on one machine is lost under load, and the other one takes over by `manage.py region promote`.
What is checked afterwards is what `make chaos` checks, and the audit.
"""

import json
import os
import re
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from orders_project.embedded import variable
from orders_project.embedded.services import DATABASES
from orders_project.region.databases import Database, NotPossible
from orders_project.tests.chaos import checker
from orders_project.tests.regions import KNOWN, two_regions

SOME = 12  # orders
IN_RECOVERY = "SELECT pg_is_in_recovery()"
AUDIT = ("audit", "--grace", "0", "--settle", "2")
NAMED = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

pytestmark = pytest.mark.processes


def test_with_synchronous_standbys_no_accepted_order_is_lost_with_a_region() -> None:
    with two_regions() as regions:
        regions.make_synchronous()
        regions.tell_first("CREATE ROLE somebody LOGIN PASSWORD 'somebody'")
        second = regions.standbys["all"]
        second.tell("ALTER SYSTEM SET synchronous_standby_names = '*'")  # configured as the first one is
        said, code = regions.command("status")
        assert code == 0, said
        assert len(re.findall(r"standby, receives, \d+ bytes not received, \d+ bytes not applied", said)) == 4
        refused, code = regions.command("promote")
        assert code == 1
        assert "the other region is up" in refused
        assert second.tell(IN_RECOVERY) is True
        regions.customers.start()
        regions.accept(SOME)
        regions.let_messages_wait_in_the_broker()
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
        said = regions.take_over(lost_at=lost_at)
        assert "all databases are on one server" in said
        assert not re.search("messages: 0 ", said)
        regions.accept(SOME)
        regions.end_everything()
        assert checker.check(regions.records()) == []
        regions.system.manage(*AUDIT, env=regions.second)


def test_with_asynchronous_standbys_what_is_lost_is_known_and_the_rest_agrees() -> None:
    with two_regions() as regions:
        regions.customers.start()
        regions.accept(SOME)
        held_at = regions.hold_replication("all")
        regions.accept(SOME)
        lost_at = regions.lose_processes()
        there = regions.orders_of_first()
        regions.lose_servers()

        regions.take_over(lost_at=lost_at)
        regions.accept(SOME)
        regions.end_everything(some_is_lost=True)
        records = regions.records()
        lost = there.keys() - {order for (order,) in records.ask("orders", KNOWN)}
        touched = {order for order, changed_at in there.items() if changed_at >= held_at}
        behind = lost_at - held_at.timestamp()
        print(
            f"RPO: the standby was {behind:.1f} s behind; {len(lost)} orders are lost, {len(touched - lost)} went back"
        )
        assert lost
        assert lost <= touched
        findings = checker.check(records)
        print(*findings, sep="\n")
        assert [one for one in findings if not touched & set(NAMED.findall(one.what))] == []
        report = json.loads(
            regions.system.ask(*AUDIT, "--json", env=regions.second)[0]
        )  # what is left is of one moment
        assert [one for one in report["findings"] if one["order_id"] not in touched] == []


# What stands against it, without a second region ---------------------------------------------------------------------


@pytest.mark.django_db
def test_a_region_that_is_a_primary_could_not_take_over() -> None:
    said = StringIO()
    with pytest.raises(SystemExit):
        call_command("region", "status", stdout=said)
    assert said.getvalue().count("a primary: promoted already, or not a standby") == 4
    assert said.getvalue().endswith("could not take over now\n")


@pytest.mark.django_db
def test_nothing_is_done_while_the_other_region_can_be_written_to(settings: Any) -> None:
    url = os.environ["DATABASE_URL_ORDERS"]
    said = StringIO()
    for other, state in (
        (url, "can be written to"),
        (re.sub("//.*@", "//app:wrong@", url), "is there and refuses us"),
        (re.sub("//.*@", "//app@", url), "is there and refuses us"),  # no password
        (f"{url}?sslmode=verify-full", "is there and refuses us"),
    ):
        settings.OTHER_REGION_DATABASE_URLS = [other, "postgres://127.0.0.1:1/nowhere"]
        with pytest.raises(CommandError, match=f"the other region is up: [0-9.:]+/orders {state}"):
            call_command("region", "promote", stdout=said)
    settings.OTHER_REGION_DATABASE_URLS = [f"{url}?nonsense=1"]
    with pytest.raises(CommandError, match="OTHER_REGION_DATABASE_URLS: invalid URI query parameter"):
        call_command("region", "promote", stdout=said)
    assert said.getvalue() == ""
    settings.SERVICES_HERE = ("orders", "processing")
    with pytest.raises(CommandError, match="payments is not here"):
        call_command("region", "promote", stdout=said)


@pytest.mark.django_db(databases=["orders"])
def test_a_server_that_somebody_else_has_promoted_is_found_by_the_next_run() -> None:
    database = Database.look("orders")  # a primary
    with pytest.raises(NotPossible, match=r"orders was not promoted \(recovery is not in progress.*\): run this again"):
        database.promote(seconds=1)
