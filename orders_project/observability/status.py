"""The status of the whole system as plain data: services, queues, lag, dead letters, stuck orders."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from amqp.exceptions import NotFound
from django.conf import settings

from common import money
from common.standby import standby_of
from outbox import broker
from payments.books.reconcile import LATE as OVERDUE

from ..celery import SERVICES, UNROUTED_QUEUE, WORK, is_work_queue, left_over
from . import concerns
from .health import LATE
from .metrics import Stored, readings


@dataclass
class Service:
    """A service's database and outbox. The numbers are None if the database does not answer."""

    name: str
    answers: bool = True
    pending: int | None = None
    oldest_seconds: float | None = None
    dead_letters: int | None = None
    waiting_for_release: int | None = None
    connections: int | None = None


@dataclass
class StandbySeen:
    """The standby of a service's database: how far it is behind, and what is wrong with it, if anything."""

    name: str
    trouble: str
    seconds_behind: float | None
    bytes_behind: int


@dataclass
class Queue:
    name: str
    waiting: int | None  # None: the queue does not exist
    consumers: int | None


@dataclass
class Status:
    services: list[Service]
    queues: list[Queue]
    broker: str  # the error if it cannot be reached, else empty
    standbys: list[StandbySeen] = field(default_factory=list)
    open_orders: dict[str, int] = field(default_factory=dict)
    stuck_orders: dict[str, int] = field(default_factory=dict)
    payments_unknown: int | None = None
    webhooks_open: dict[str, int] = field(default_factory=dict)
    payments_refused: int | None = None
    refunds_open: int | None = None
    refunds_late: int | None = None
    refunds_failed: int | None = None
    disputes_open: int | None = None
    disputes_due: int | None = None
    webhooks_late: int | None = None
    webhooks_unmatched_late: int | None = None
    holds_late: int | None = None
    orders_wait_seconds: float | None = None  # for a new order
    orders_shed_share: float | None = None
    ledger_imbalance: dict[str, int] = field(default_factory=dict)  # minor units by currency; empty if not known
    gateway_differences: dict[str, int] = field(default_factory=dict)
    reconciled_seconds_ago: float | None = None
    troubles: list[str] = field(default_factory=list)


def look() -> Status:
    """Query all databases and the broker now."""
    rows = [(reading, row) for reading, rows in Stored(readings()).rows() for row in rows]
    answering = {reading.database for reading, _ in rows}
    services = {service: Service(service, answers=service in answering) for service in settings.SERVICES_HERE}
    queues, unreachable = _queues()
    status = Status(services=list(services.values()), queues=queues, standbys=_standbys(), broker=unreachable)
    for service in answering:
        services[service].dead_letters = 0
    for reading, row in rows:
        _take(status, services[reading.database], row)
    needs = concerns.found(row for _reading, row in rows)
    status.troubles = [*_troubles(status), *(f"{one.title}: {number}. {one.to_do}" for one, number in needs)]
    return status


def _take(status: Status, service: Service, row: dict[str, Any]) -> None:
    match row:
        case {"outbox_service_pending": pending, "outbox_oldest_seconds": oldest}:
            service.pending, service.oldest_seconds = int(pending), round(float(oldest), 1)
        case {"outbox_waiting_for_release": number}:
            service.waiting_for_release = int(number)
        case {"dead_letters": number}:
            service.dead_letters = (service.dead_letters or 0) + int(number)
        case {"database_connections": number}:
            service.connections = int(number)
        case {"status": where, "orders_open": number, "orders_stuck": stuck}:
            status.open_orders[where], status.stuck_orders[where] = int(number), int(stuck)
        case {"status": where, "webhooks_open": number}:
            status.webhooks_open[where] = int(number)
        case {"payments_refused": number}:
            status.payments_refused = (status.payments_refused or 0) + int(number)
        case {"refunds_open": number, "refunds_late": late}:
            status.refunds_open = (status.refunds_open or 0) + int(number)
            status.refunds_late = (status.refunds_late or 0) + int(late)
        case {"refunds_failed": number}:
            status.refunds_failed = int(number)
        case {"disputes_open": number, "disputes_due": due}:
            status.disputes_open, status.disputes_due = int(number), int(due)
        case {"webhooks_unmatched_late": number}:
            status.webhooks_unmatched_late = int(number)
        case {"payments_unknown": number}:
            status.payments_unknown = int(number)
        case {"webhook_deliveries_late": number}:
            status.webhooks_late = int(number)
        case {"stock_holds_late": number}:
            status.holds_late = int(number)
        case {"orders_wait_seconds": seconds, "orders_shed_share": share}:
            status.orders_wait_seconds, status.orders_shed_share = round(seconds, 1), round(share, 2)
        case {"currency": currency, "ledger_imbalance": number}:
            status.ledger_imbalance[currency] = int(number)
        case {"kind": kind, "gateway_differences": number}:
            status.gateway_differences[kind] = int(number)
        case {"reconciliation_age_seconds": seconds}:
            status.reconciled_seconds_ago = round(float(seconds), 1)


def _standbys() -> list[StandbySeen]:
    found = []
    for standby in filter(None, map(standby_of, settings.STANDBYS)):
        standby.look()
        lag = None if standby.lag is None else round(standby.lag, 1)
        found.append(StandbySeen(standby.database, standby.in_words(), lag, standby.bytes_behind))
    return found


def _queues() -> tuple[list[Queue], str]:
    kept = (UNROUTED_QUEUE.name, settings.EVENTS_STREAM)
    others = [*(f"{service}.{kind}" for service in SERVICES for kind in ("dlq", "beat")), *kept]
    try:
        connection = broker.connect()
    except (*broker.LOST, broker.BrokerTooOld) as error:
        return [], type(error).__name__
    with connection:
        names = (*WORK, *(name for service in SERVICES for name in left_over(connection, service)), *others)
        return [_queue(connection, name) for name in names], ""


def _queue(connection: Any, name: str) -> Queue:
    with connection.channel() as channel:
        try:
            answer = channel.queue_declare(name, passive=True)
        except NotFound:
            return Queue(name, waiting=None, consumers=None)
    return Queue(name, waiting=answer.message_count, consumers=answer.consumer_count)


def _troubles(status: Status) -> Iterator[str]:
    """What needs a person, each in one line."""
    if settings.UPGRADING:
        yield "UPGRADING is set: remove it once the release before does not come back (docs/upgrading.md)"
    if status.broker:
        yield f"the broker cannot be reached: {status.broker}"
    for service in status.services:
        if not service.answers:
            yield f"the database {service.name} does not answer"
            continue
        if (service.oldest_seconds or 0) > LATE:
            yield f"the relay of {service.name} is {service.oldest_seconds:.0f} s behind"
        if service.waiting_for_release:
            yield (
                f"{service.name}: {service.waiting_for_release} messages wait for a worker that knows them: "
                "is a deploy under way?"
            )
        if service.dead_letters:
            yield f"dead letters of {service.name}: {service.dead_letters} (manage.py dlq list)"
    for standby in status.standbys:
        if standby.trouble:
            yield f"the standby of {standby.name} {standby.trouble}: the primary answers what it was to answer"
    for queue in status.queues:
        if queue.waiting is None and queue.name != settings.EVENTS_STREAM:  # some brokers have no streams
            yield f"the queue {queue.name} does not exist: manage.py declare_topology"
        elif is_work_queue(queue.name) and not queue.consumers:
            yield f"no worker consumes the queue {queue.name}"
        elif queue.name.endswith(".dlq") and queue.waiting:
            yield f"{queue.waiting} messages in {queue.name} are not collected yet"
    if status.orders_shed_share:
        wait = f"{status.orders_wait_seconds:.0f} s"
        yield f"{status.orders_shed_share:.0%} of new orders are refused: one would have to wait for {wait}"
    for currency, minor in status.ledger_imbalance.items():
        if minor:
            yield f"the ledger is out of balance by {money.text(minor, currency=currency)}"
    if (seconds := status.reconciled_seconds_ago or 0) > OVERDUE.total_seconds():
        yield f"the ledger was last compared with the gateway {seconds / 3600:.0f} hours ago"
