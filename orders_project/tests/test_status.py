"""The status of the whole system on one screen, and the problems that it reports."""

import json
import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from orders import services
from orders.models import Order, Outgoing
from orders_project.celery import declare_topology
from orders_project.observability import status

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def topology() -> None:
    declare_topology()


def show(*arguments: str) -> tuple[str, int]:
    """The output and the exit code."""
    out = StringIO()
    try:
        call_command("status", *arguments, stdout=out, no_color=True)
    except SystemExit as end:
        return out.getvalue(), int(str(end.code))
    return out.getvalue(), 0


class TestTheScreen:
    def test_shows_services_queues_and_problems(self) -> None:
        services.place_order(
            new=services.NewOrder(lines=(services.Line(quantity=1, price=500),), user_id="ann"), now=timezone.now()
        )
        Outgoing.objects.filter(to="payments").update(due_at=timezone.now() - timedelta(seconds=90))
        Order.objects.update(status_since=timezone.now() - timedelta(hours=1))
        output, code = show()
        assert code == 1
        service, queue = [line.split() for line in output.splitlines() if line.startswith("orders  ")]
        assert (service[1], queue[1:]) == ("2", ["0", "0"])
        assert "orders under way    pending 1 (1 stuck)" in output
        behind = re.search(r"! the relay of orders is (\d+) s behind", output)
        assert behind is not None
        assert 90 <= int(behind[1]) < 90 + 60
        assert "! Stuck orders: 1. They are past the timeout of their status." in output
        assert "! no worker consumes the queue payments" in output  # no worker runs in this test
        assert "payments.dlq" in output

    def test_shows_the_same_as_json(self) -> None:
        output, code = show("--json")
        found = json.loads(output)
        assert code == 1
        assert [service["name"] for service in found["services"]] == ["orders", "payments", "processing"]
        assert found["services"][0]["pending"] == 0
        assert found["ledger_imbalance"] == {"USD": 0}

    def test_says_that_no_events_are_kept_and_that_this_needs_nobody(self, settings: Any) -> None:
        assert re.search(r"events kept         about \d+", show()[0])
        settings.EVENTS_STREAM = "tests.no.stream"  # as with a broker that has none
        output, _ = show()
        assert "events kept         none: there is no stream" in output
        assert "! the queue tests.no.stream" not in output

    def test_without_a_broker_still_shows_the_services(self, settings: Any) -> None:
        settings.AMQP_URL = "amqp://nobody:nothing@127.0.0.1:1//"
        output, code = show()
        assert code == 1
        assert "! the broker cannot be reached: ConnectionRefusedError" in output
        assert "nothing" not in output

    def test_succeeds_when_all_is_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        working = [status.Queue(service, waiting=0, consumers=2) for service in status.SERVICES]
        monkeypatch.setattr(status, "_queues", lambda: (working, ""))
        output, code = show()
        assert code == 0
        assert "All is well." in output
