"""
The archive: the history of orders that finished long ago, one document an order, in partitions by month.

An order consists of what it is and of what has happened to it. What it is stays where it was: the order, its lines,
its refunds and its keys. So lists, searches, refunds, the audit of money and the uniqueness of names know of no
archive. What has happened to it, its events and the webhooks about it, is most of the bytes, and moves here.

# Note [Nothing is lost, and nothing is there twice]: a document and the rows in it take each other's place in one
transaction that holds the lock of the order, and the database refuses to delete a row that is in no document, or a
document whose rows are not back. So at any moment each event is in exactly one of the two places.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any

from django.conf import settings
from django.db import connections, models, transaction
from django.utils.translation import gettext as _g

from common.errors import NotDuringUpgrade, Refusal
from outbox.models import DeadLetter
from outbox.pacing import rounds
from outbox.store import Statement

from .models import (
    ENDS,
    ROWS,
    ArchivedHistory,
    Order,
    OrderEvent,
    Refund,
    WebhookAttempt,
    WebhookDelivery,
)

BATCH = 200  # orders in one transaction
SECONDS = 30.0  # for one call: a small share of the time between two of them
LOOKS = 3  # at both places

# What moves, in the order in which it can come back, and how the rows of an order are found.
MOVED: dict[type[models.Model], str] = {
    OrderEvent: "row.order_id = {order} ORDER BY row.version",
    WebhookDelivery: "row.order_id = {order} ORDER BY row.id",
    WebhookAttempt: (
        "row.delivery_id IN (SELECT id FROM orders_webhookdelivery WHERE order_id = {order}) ORDER BY row.id"
    ),
}


class HistoryDetached(Refusal):
    """The month that has the history of an order is not attached to the database."""

    code = "history_detached"

    def __init__(self, month: date) -> None:
        super().__init__(
            _g("The history of this order is in the archive of %(month)s, which is not attached at the moment.")
            % {"month": f"{month:%Y-%m}"}
        )


# Moving ---------------------------------------------------------------------------------------------------------------

ENDED = f"archived IS NULL AND status IN ({', '.join(repr(str(status)) for status in sorted(ENDS))})"
# Whether nobody waits for anything about an order any more.
AT_REST = f"""
    blocked = ''
    AND NOT EXISTS (
        SELECT FROM orders_refund other
        WHERE other.order_id = orders_order.order_id AND other.status = '{Refund.Status.PENDING}'
    )
    AND NOT EXISTS (
        SELECT FROM orders_webhookdelivery other
        WHERE other.order_id = orders_order.order_id AND other.status = '{WebhookDelivery.Status.PENDING}'
    )
    AND NOT EXISTS (
        SELECT FROM outbox_outgoingmessage other
        WHERE other.subject = orders_order.order_id AND other.published_at IS NULL
    )
    AND NOT EXISTS (
        SELECT FROM outbox_deadletter other
        WHERE other.subject = orders_order.order_id AND other.status = '{DeadLetter.Status.DEAD}'
    )
    AND NOT EXISTS (
        SELECT FROM (
            SELECT DISTINCT ON (data #> '{{dispute,dispute_id}}') data #>> '{{dispute,status}}' AS status
            FROM orders_orderevent WHERE order_id = orders_order.order_id AND type = 'payment.disputed'
            ORDER BY data #> '{{dispute,dispute_id}}', version DESC
        ) dispute WHERE dispute.status = 'opened'
    )
"""  # noqa: S608 - of constants
MONTH = "date_trunc('month', created_at AT TIME ZONE 'UTC')::date"
CANDIDATES = f"""
SELECT order_id, {MONTH}, updated_at FROM orders_order
WHERE {ENDED} AND updated_at < %s AND (updated_at, order_id) > (%s, %s) AND {AT_REST}
ORDER BY updated_at, order_id LIMIT %s
"""  # noqa: S608
LOCK = f"""
SELECT order_id FROM orders_order WHERE order_id = ANY(%s) AND {ENDED} AND updated_at < %s
ORDER BY order_id FOR UPDATE SKIP LOCKED
"""  # noqa: S608
LOCK_DELIVERIES = "SELECT FROM orders_webhookdelivery WHERE order_id = ANY(%s) ORDER BY id FOR UPDATE"
STILL_AT_REST = f"SELECT order_id FROM orders_order WHERE order_id = ANY(%s) AND {AT_REST}"  # noqa: S608


def _document() -> str:
    parts = ", ".join(
        f"'{kind._meta.db_table}', (SELECT coalesce(jsonb_agg(to_jsonb(found)), '[]') FROM"  # noqa: S608
        f" (SELECT * FROM {kind._meta.db_table} row WHERE {of_order.format(order='orders_order.order_id')}) found)"
        for kind, of_order in MOVED.items()
    )
    return f"jsonb_build_object({parts})"


MOVE = (
    f"UPDATE orders_order SET archived = {MONTH} WHERE order_id = ANY(%s)",  # noqa: S608
    f"""
    INSERT INTO orders_archive (order_id, month, archived_at, document)
    SELECT order_id, archived, now(), {_document()} FROM orders_order WHERE order_id = ANY(%s)
    """,  # noqa: S608
    """
    DELETE FROM orders_webhookattempt USING orders_webhookdelivery delivery
    WHERE delivery_id = delivery.id AND delivery.order_id = ANY(%s)
    """,
    "DELETE FROM orders_webhookdelivery WHERE order_id = ANY(%s)",
    "DELETE FROM orders_orderevent WHERE order_id = ANY(%s)",
)


def archive(*, now: datetime, older_than: timedelta, seconds: float = SECONDS) -> int:
    """
    Move the histories of orders that have finished longer ago into the archive; return of how many.

    It stops after so many seconds, and can be stopped at any point: each batch is one transaction, and the next call
    goes on.

    :raises NotDuringUpgrade: while processes of the release before may run, which would not find them
    """
    if settings.UPGRADING:
        raise NotDuringUpgrade
    moved, before = 0, now - older_than
    last: tuple[Any, str] = ("-infinity", "")
    for _ in rounds(seconds):
        found = _rows(CANDIDATES, before, *last, BATCH)
        if not found:
            break
        last = (found[-1][2], found[-1][0])
        months = {month: _rows("SELECT orders_archive_month(%s)", month)[0][0] for month in {one[1] for one in found}}
        moved += _move([order_id for order_id, month, _at in found if months[month]], before=before)
    return moved


@transaction.atomic(using="orders")
def _move(order_ids: list[str], *, before: datetime) -> int:
    """Move the histories of those of these orders that nobody uses and nobody waits for; return of how many."""
    locked = [order_id for (order_id,) in _rows(LOCK, order_ids, before)]
    _rows(LOCK_DELIVERIES, locked)
    moved = [order_id for (order_id,) in _rows(STILL_AT_REST, locked)]
    if moved:
        ROWS.run(*(Statement(sql, [moved]) for sql in MOVE))
    return len(moved)


def _rows(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connections["orders"].cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


# Bringing back --------------------------------------------------------------------------------------------------------

OWN = "WHERE order_id = %s AND month = %s"
# Columns that the document does not have were added later, and get their defaults.
COLUMNS = f"""
SELECT quote_ident(attname) FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attname IN (
    SELECT name FROM orders_archive, jsonb_array_elements(document -> %s) AS kept, jsonb_object_keys(kept) AS name {OWN}
)
"""  # noqa: S608


def bring_back(order: Order) -> None:
    """
    Put the history of an archived order back, exactly as it was, in the transaction of the caller, who holds its lock.

    :raises HistoryDetached: if the month that has it is not attached
    """
    own = (order.pk, order.archived)
    statements = []
    for table in (kind._meta.db_table for kind in MOVED):
        if columns := ", ".join(name for (name,) in _rows(COLUMNS, table, table, *own)):
            kept = f"SELECT document -> '{table}' FROM orders_archive {OWN}"  # noqa: S608
            rows = f"SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, ({kept}))"  # noqa: S608
            statements.append(Statement(f"INSERT INTO {table} ({columns}) {rows}", own))
    if not statements:  # every order has an event
        raise HistoryDetached(order.archived)  # type: ignore[arg-type]
    ROWS.run(
        *statements,
        Statement(f"DELETE FROM orders_archive {OWN}", own),  # noqa: S608
        Statement("UPDATE orders_order SET archived = NULL WHERE order_id = %s", [order.pk]),
    )
    order.archived = None


# Reading --------------------------------------------------------------------------------------------------------------


def histories(orders: Iterable[Order]) -> dict[str, list[OrderEvent]]:
    """
    Return the events of each of these orders by its id, the oldest first, wherever they are.

    :raises HistoryDetached: if the month that has some of them is not attached
    """
    # Note [Between two looks]: a history may move from one place to the other while both are looked at, one after the
    # other. Every order has an event; so where none is found in either, it has moved, and is found by looking again.
    missing = {order.pk: order for order in orders}
    found: dict[str, list[OrderEvent]] = {}
    for _ in range(LOOKS):
        here = OrderEvent.objects.filter(order_id__in=list(missing)).order_by("order_id", "version")
        found |= {order_id: list(events) for order_id, events in groupby(here, lambda event: event.order_id)}
        # What a process wrote that does not know the archive is there besides what is here.
        away = {order_id: order for order_id, order in missing.items() if order.archived or order_id not in found}
        for kept in (
            ArchivedHistory.objects.filter(pk__in=away, month__in={*map(_month, away.values())}) if away else ()
        ):
            everything = {event.version: event for event in (*_events(kept), *found.get(kept.order_id, ()))}
            found[kept.order_id] = [everything[version] for version in sorted(everything)]
        missing = {order_id: order for order_id, order in missing.items() if order_id not in found}
        if not missing:
            break
    for order in missing.values():
        if order.archived:
            raise HistoryDetached(order.archived)
        found[order.pk] = []
    return found


def _month(order: Order) -> date:
    """Return the month whose archive has the history of an order, or would have it."""
    return order.archived or order.created_at.astimezone(UTC).date().replace(day=1)


def history_of(order: Order) -> list[OrderEvent]:
    """
    Return the events of an order, the oldest first, wherever they are.

    :raises HistoryDetached: if the month that has them is not attached
    """
    return histories([order])[order.pk]


def _events(kept: ArchivedHistory) -> Iterator[OrderEvent]:
    fields = OrderEvent._meta.concrete_fields
    for row in kept.document[OrderEvent._meta.db_table]:
        yield OrderEvent(
            **{field.attname: field.to_python(row[field.column]) for field in fields if field.column in row}
        )
