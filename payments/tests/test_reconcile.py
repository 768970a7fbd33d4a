"""What a gateway has booked is compared with the ledger: every difference is found, once, and nothing else."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from payments import gateways
from payments.books.reconcile import reconcile
from payments.gateways.base import Transaction
from payments.gateways.fake import FakeGateway
from payments.models import Difference, Entry, GatewayTransaction, Reconciliation
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
