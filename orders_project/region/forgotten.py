"""What a database has forgotten that others know of: it was behind them when it was promoted."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings

from orders.models import Order
from outbox import forgotten
from outbox.message import REGISTRY


@dataclass
class Forgotten:
    """By service: how many messages it has sent and forgotten; and the orders that only the others know."""

    sent: Counter[str] = field(default_factory=Counter)
    orders: list[str] = field(default_factory=list)


def find(*, since: datetime, until: datetime) -> Forgotten:
    """Compare what was handled before `until` with what was sent, for messages posted at `since` or later."""
    found, subjects = Forgotten(), defaultdict[str, set[str]](set)
    for one in forgotten.find(settings.SERVICES, settings.SERVICES, since=since, until=until):
        sender = _sender(one.type, one.receiver)
        found.sent[sender] += 1
        subjects[sender].add(one.subject)
    asked = subjects["orders"] - {""}
    found.orders = sorted(asked - set(Order.objects.filter(pk__in=asked).values_list("pk", flat=True)))
    return found


def _sender(kind: str, receiver: str) -> str:
    """Return who sends messages of this type: the service that declares them, or orders if they are commands."""
    owner = REGISTRY[kind].__module__.partition(".")[0] if kind in REGISTRY else "orders"
    return "orders" if owner == receiver else owner
