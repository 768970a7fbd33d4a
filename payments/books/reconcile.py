"""Compare what a gateway has booked with the ledger: see docs/accounting.md."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.utils.translation import gettext as _g

from outbox import clock

from .. import gateways
from ..gateways.base import GatewayRefused, GatewayUnavailable, Transaction
from ..models import Reconciliation
from . import comparison, transactions
from .periods import NoPeriod

logger = logging.getLogger(__name__)
Status = Reconciliation.Status

# What the gateway is asked for beyond both ends: an entry can be some hours younger than its transaction.
MARGIN = timedelta(days=1)


LATE = timedelta(hours=36)  # a nightly run that has not succeeded for so long needs a person


def reconcile(*, gateway: str, since: datetime, until: datetime, now: datetime) -> Reconciliation:
    """
    Compare what a gateway says it has booked from `since` until before `until` with the ledger, and return the run.

    Call it outside of any transaction.

    :raises NoPeriod: if the period is empty
    :raises GatewayUnavailable, GatewayRefused: if the gateway does not list its transactions; the run has failed
    """
    if until <= since:
        raise NoPeriod(_g("The period ends before it begins."))
    run = Reconciliation(gateway=gateway, since=since, until=until, status=Status.RUNNING, started_at=now)
    run.save(force_insert=True)
    try:
        listed = gateways.get(gateway).transactions(since=since - MARGIN, until=min(until + MARGIN, now))
        run.transactions = transactions.store(listed, gateway=gateway)
        return _compare(run, now=now)
    except Exception as error:
        with suppress(DatabaseError):  # it may be what has failed
            _end(run, Status.FAILED, error=(str(error) or type(error).__name__)[:500])
        raise


def reconcile_told(
    *,
    gateway: str,
    told: Iterable[Transaction],
    source: str,
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Reconciliation:
    """
    Compare what is told of a gateway, by a file of this name for example, with the ledger, and return the run.

    All of it is stored, or nothing if it raises. Without a period it is that of the transactions.

    :raises NoPeriod: if the period is empty
    """
    seen = _Seen(told)
    with transaction.atomic(using="payments"):
        number = transactions.store(seen, gateway=gateway)
        since, until = since or seen.first, until or (seen.last and seen.last + timedelta(microseconds=1))
        if since is None or until is None or until <= since:
            raise NoPeriod(_g("There is no transaction, or the period ends before it begins."))
        run = Reconciliation(
            gateway=gateway,
            source=source[:100],
            since=since,
            until=until,
            status=Status.RUNNING,
            transactions=number,
            started_at=now,
        )
        run.save(force_insert=True)
    return _compare(run, now=now)


def reconcile_nightly(*, now: datetime) -> Reconciliation | None:
    """
    Compare the last days of the configured gateway with the ledger, once each night; return the run if it was due.

    A gateway that does not answer is asked again at the next call.
    """
    gateway = settings.PAYMENT_GATEWAY
    night = now.replace(hour=settings.RECONCILE_HOUR, minute=0, second=0, microsecond=0)
    night -= timedelta(days=night > now)
    if Reconciliation.objects.filter(
        gateway=gateway, source="", status=Status.SUCCEEDED, finished_at__gte=night
    ).exists():
        return None
    try:
        return reconcile(gateway=gateway, since=night - timedelta(days=settings.RECONCILE_DAYS), until=now, now=now)
    except (GatewayUnavailable, GatewayRefused) as error:
        logger.warning("%s does not list its transactions: %s", gateway, error)
        return None


class _Seen:
    """Passes transactions on, and remembers the times of the first and the last."""

    def __init__(self, told: Iterable[Transaction]) -> None:
        self.told = told
        self.first: datetime | None = None
        self.last: datetime | None = None

    def __iter__(self) -> Iterator[Transaction]:
        for one in self.told:
            self.first = min(self.first or one.at, one.at)
            self.last = max(self.last or one.at, one.at)
            yield one


def _compare(run: Reconciliation, *, now: datetime) -> Reconciliation:
    asked: dict[str, Any] = {
        "gateway": run.gateway,
        "since": run.since,
        "until": run.until,
        "settled": now - settings.RECONCILE_GRACE,
        "installation": settings.INSTALLATION,
        "now": now,
    }
    margin: dict[str, Any] = {"gateway": run.gateway, "since": run.since - MARGIN, "until": run.until + MARGIN}
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
    logger.info("%s: %s transactions, %s", run, run.transactions, run.found)
    return run


def _end(run: Reconciliation, status: Status, *, error: str = "") -> None:
    run.status, run.error, run.finished_at = status, error, clock.now("payments")
    run.save()
