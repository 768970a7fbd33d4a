"""Compare what a gateway has booked with the ledger: see docs/accounting.md."""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _g

from common.errors import Refusal
from outbox import clock

from .. import gateways
from ..gateways.base import GatewayRefused, GatewayUnavailable, Transaction
from ..models import Reconciliation
from . import comparison, transactions

logger = logging.getLogger(__name__)
Status = Reconciliation.Status

# What the gateway is asked for beyond both ends: an entry can be some hours younger than its transaction.
MARGIN = timedelta(days=1)


class NoPeriod(Refusal):
    """The period ends before it begins, or nothing says what it is."""

    code = "no_period"


def reconcile(
    *,
    gateway: str,
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
    told: Iterable[Transaction] | None = None,
    source: str = "",
) -> Reconciliation:
    """
    Compare what a gateway has booked from `since` until before `until` with the ledger, and return the run.

    The transactions are those that the gateway lists or, if given, `told`, which are stored all or none: of a file, for
    example, whose name is `source`. Without a period it is theirs. Call it outside of any transaction.

    :raises NoPeriod: if the period is empty
    :raises GatewayUnavailable, GatewayRefused: if the gateway does not list them; the run has failed
    """
    if told is None and (since is None or until is None):
        raise NoPeriod(_g("Say from when until when."))
    if since is not None and until is not None and until <= since:
        raise NoPeriod(_g("The period ends before it begins."))
    run = Reconciliation(gateway=gateway, source=source[:100], status=Status.RUNNING, started_at=now)
    try:
        if told is None:
            assert since is not None and until is not None
            listed = gateways.get(gateway).transactions(since=since - MARGIN, until=min(until + MARGIN, now))
            run.since, run.until = since, until
            run.save(force_insert=True)
            run.transactions = transactions.store(listed, gateway=gateway)
        else:
            period = _Period(told)
            with transaction.atomic(using="payments"):
                run.transactions = transactions.store(period, gateway=gateway)
            run.since, run.until = since or period.since(now), until or period.until(now)
            run.save(force_insert=True)
        _compare(run, now=now)
    except (GatewayUnavailable, GatewayRefused) as error:
        _end(run, Status.FAILED, error=str(error)[:500])
        raise
    logger.info("%s: %s transactions, %s", run, run.transactions, run.found)
    return run


class _Period:
    """Passes transactions on, and remembers from when until when they are."""

    def __init__(self, told: Iterable[Transaction]) -> None:
        self.told = told
        self.first: datetime | None = None
        self.last: datetime | None = None

    def __iter__(self) -> Any:
        for one in self.told:
            self.first = min(self.first or one.at, one.at)
            self.last = max(self.last or one.at, one.at)
            yield one

    def since(self, now: datetime) -> datetime:
        return self.first or now

    def until(self, now: datetime) -> datetime:
        return (self.last or now) + timedelta(microseconds=1)


def _compare(run: Reconciliation, *, now: datetime) -> None:
    asked: dict[str, Any] = {
        "gateway": run.gateway,
        "since": run.since,
        "until": run.until,
        "settled": now - settings.RECONCILE_GRACE,
        "installation": settings.INSTALLATION,
        "now": now,
    }
    margin = {"gateway": run.gateway, "since": run.since - MARGIN, "until": run.until + MARGIN}
    transactions.resolve(**margin)
    transactions.book_fees(**margin)
    sums: dict[tuple[str, str], list[int]] = {}
    for outcome, currency, number, amount in comparison.compare(asked):
        summed = sums.setdefault((outcome, currency), [0, 0])
        summed[0] += number
        summed[1] += int(amount)
    run.found = [
        {"outcome": outcome, "currency": currency, "count": number, "sum": amount}
        for (outcome, currency), (number, amount) in sorted(sums.items())
    ]
    with transaction.atomic(using="payments"):
        comparison.close(asked)
        _end(run, Status.SUCCEEDED)


def _end(run: Reconciliation, status: Status, *, error: str = "") -> None:
    run.status, run.error, run.finished_at = status, error, clock.now("payments")
    run.save()
