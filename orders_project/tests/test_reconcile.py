"""What a gateway has booked is compared with the ledger: every difference is found, once, and nothing else."""

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import requests
from django.utils import timezone

from common.money import Money
from orders_project.tests.test_reconcile_repairs import work
from payments import gateways, services
from payments.books import repairs
from payments.books.reconcile import reconcile
from payments.gateways.base import Transaction
from payments.gateways.fake import FakeGateway, webhook_url
from payments.gateways.server import FakeService
from payments.models import Difference, Entry, GatewayTransaction, Payment, Reconciliation
from payments.tests.planted import FEE, Planted

pytestmark = pytest.mark.django_db

NOW = timezone.now()
SINCE = NOW - timedelta(days=3)


class Booked(FakeGateway):
    """A gateway that has booked these transactions."""

    told: Any = ()

    def transactions(self, *, since: datetime, until: datetime) -> Iterator[Transaction]:
        return (one for one in type(self).told if since <= one.at < until)


@pytest.fixture
def booked(monkeypatch: pytest.MonkeyPatch) -> type[Booked]:
    monkeypatch.setitem(gateways.GATEWAYS, "fake", Booked)
    monkeypatch.setattr(Booked, "told", ())
    return Booked


def found(**conditions: Any) -> set[tuple[str, str, str]]:
    """The open differences: their kind, what was booked, and the number of the payment."""
    return {
        (one.kind, one.what, (one.order_id or one.payment_id).strip("opi_s"))
        for one in Difference.objects.filter(status="open", **conditions)
    }


def run(since: datetime = SINCE, until: datetime = NOW, *, now: datetime = NOW) -> Reconciliation:
    return reconcile(gateway="fake", since=since, until=until, now=now)


def count(run: Reconciliation, outcome: str) -> int:
    return sum(one["count"] for one in run.found if one["outcome"] == outcome)


class TestAmongThousands:
    def test_exactly_the_planted_differences_are_found(self, booked: type[Booked]) -> None:
        planted = Planted(1800, SINCE)
        planted.plant()
        booked.told = list(planted.transactions())
        done = run(planted.since, planted.until)
        assert found() == planted.expected
        assert done.status == "succeeded"
        assert done.transactions == len(booked.told) == GatewayTransaction.objects.count()
        assert count(done, "matched") == 1800 - 30 + 180 - 10
        assert {one["outcome"]: one["count"] for one in done.found if one["currency"] == "EUR"} == {"differing": 5}
        fees = Entry.objects.filter(kind="fee")
        assert (fees.count(), sum(fee.amount for fee in fees)) == (1790, 1790 * FEE)
        # Again, over a window that overlaps: nothing is added.
        before = Difference.objects.order_by("pk").values_list("pk", "status", "found_at")
        was = list(before)
        again = run(planted.since + timedelta(hours=12), planted.until)
        assert (list(before.all()), Entry.objects.filter(kind="fee").count()) == (was, 1790)
        assert count(again, "matched") < count(done, "matched")
        assert GatewayTransaction.objects.count() == len(booked.told)


class TestAgainstTheFakeService:
    """No webhook arrives, and somebody refunds a part in the gateway's own pages."""

    @pytest.fixture(autouse=True)
    def service(self, settings: Any) -> Iterator[FakeService]:
        settings.GATEWAY_TIMEOUT = (60, 60)
        settings.RECONCILE_GRACE = timedelta(0)
        service = FakeService(
            ("127.0.0.1", 0), webhook_url=webhook_url(), secrets=["dev-webhook-secret"], success_rate=1.0
        )
        threading.Thread(target=service.serve_forever, daemon=True).start()
        settings.FAKE_GATEWAY_URL = f"http://127.0.0.1:{service.port}"
        requests.post(f"{settings.FAKE_GATEWAY_URL}/behaviour", json={"drop": True}, timeout=60)
        yield service
        service.close()

    def test_the_ledger_is_brought_to_what_the_gateway_has(self, settings: Any) -> None:
        gateway = gateways.get("fake")
        services.charge_gateway(order_id="o1", money=Money(5000, "USD"), now=timezone.now())
        work()
        payment = Payment.objects.get()
        while (answer := gateway.status(payment_id=payment.gateway_payment_id)) and answer.status != "succeeded":
            time.sleep(0.02)
        path = f"{settings.FAKE_GATEWAY_URL}/payments/{payment.gateway_payment_id}/by_hand"
        requests.post(path, json={"action": "refund", "amount": 12.5}, timeout=60).raise_for_status()
        assert not Entry.objects.exists()

        def compare() -> set[tuple[str, str, str]]:
            now = timezone.now()
            reconcile(gateway="fake", since=now - timedelta(hours=1), until=now, now=now)
            return found()

        assert compare() == {("missing_here", "charge", "1"), ("missing_here", "refund", "1")}
        for one in Difference.objects.order_by("at"):
            repairs.repair(difference_id=one.pk, now=timezone.now())
        work()
        entries = Entry.objects.exclude(kind="fee").order_by("pk")
        assert [(entry.kind, entry.amount, bool(entry.gateway_id)) for entry in entries] == [
            ("charge", 5000, False), ("refund", 1250, True),
        ]  # fmt: skip
        assert compare() == set()
        booked = list(gateway.transactions(since=timezone.now() - timedelta(hours=1), until=timezone.now()))
        fees = Entry.objects.filter(kind="fee").values_list("gateway_id", "amount")
        assert dict(fees) == {one.transaction_id: one.fee for one in booked if one.fee}
