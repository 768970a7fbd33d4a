"""What a database has forgotten that others know of: it was behind them when it was promoted."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connections

from orders.models import Order
from outbox.ids import floor7
from outbox.message import REGISTRY

PAGE = 10_000
HANDLED = """
SELECT message_id, type, subject FROM outbox_incomingmessage WHERE message_id > %s ORDER BY message_id LIMIT %s
"""
POSTED = "SELECT id FROM outbox_outgoingmessage WHERE id = ANY(%s)"  # a message has the id of the row that posted it


@dataclass
class Forgotten:
    """By service: how many messages it has sent and forgotten; and the orders that only the others know."""

    sent: Counter[str] = field(default_factory=Counter)
    orders: list[str] = field(default_factory=list)


def find(*, since: datetime) -> Forgotten:
    """Compare what was handled with what was sent, for messages that were posted at this time or later."""
    found, subjects = Forgotten(), defaultdict[str, set[str]](set)
    for receiver in settings.SERVICES:
        for page in _pages(receiver, since=since):
            for message_id in _unknown(list(page)):
                kind, subject = page[message_id]
                sender = _sender(kind, receiver)
                found.sent[sender] += 1
                subjects[sender].add(subject)
    asked = subjects["orders"] - {""}
    found.orders = sorted(asked - set(Order.objects.filter(pk__in=asked).values_list("pk", flat=True)))
    return found


def _sender(kind: str, receiver: str) -> str:
    """Return who sends messages of this type: the service that declares them, or orders if they are commands."""
    owner = REGISTRY[kind].__module__.partition(".")[0] if kind in REGISTRY else "orders"
    return "orders" if owner == receiver else owner


def _pages(receiver: str, *, since: datetime) -> Iterator[dict[UUID, tuple[str, str]]]:
    after = floor7(since)
    while rows := _rows(receiver, HANDLED, after, PAGE):
        yield {message_id: (kind, subject) for message_id, kind, subject in rows}
        after = rows[-1][0]


def _unknown(message_ids: list[UUID]) -> set[UUID]:
    known = {one for sender in settings.SERVICES for (one,) in _rows(sender, POSTED, message_ids)}
    return set(message_ids) - known


def _rows(alias: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())
