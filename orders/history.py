"""The history of an order tells its whole state: how it is written, read back and compared."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.db import transaction

from .models import Order, OrderEvent

BATCH = 1000

STATE = (
    "principal", "customer_id", "user_id", "user_email", "description", "status", "total", "currency",
    "payment_method", "payment_id", "fail_reason",
)  # fmt: skip

NOTE = "note"  # what a person gave as the reason: told beside the state, and no part of it


def told_at_first(order: Order) -> dict[str, Any]:
    """What the first event of an order says: everything that can change, and what it is about."""
    return {name: getattr(order, name) for name in STATE} | {"hold_id": str(order.hold_id) if order.hold_id else None}


def state(order: Order) -> dict[str, Any]:
    """The state of an order as it is stored."""
    return told_at_first(order) | {"version": order.version, "updated_at": order.updated_at}


def rebuild(events: list[OrderEvent]) -> dict[str, Any]:
    """The state of an order, made from its history alone."""
    rebuilt: dict[str, Any] = {}
    for event in events:
        rebuilt |= event.data | {"version": event.version, "updated_at": event.at}
    rebuilt.pop(NOTE, None)
    return rebuilt


@dataclass(frozen=True)
class Mismatch:
    """An order that is not as its history says."""

    order_id: str
    stored: dict[str, Any]
    rebuilt: dict[str, Any]

    def __str__(self) -> str:
        differing = [name for name in self.stored | self.rebuilt if self.stored.get(name) != self.rebuilt.get(name)]
        said = (f"{name} is {self.stored.get(name)!r}, was told {self.rebuilt.get(name)!r}" for name in differing)
        return f"{self.order_id}: {', '.join(said)}"


def mismatch(order: Order, events: list[OrderEvent]) -> Mismatch | None:
    """How an order differs from what its history says, if it does."""
    stored, rebuilt = state(order), rebuild(events)
    return None if stored == rebuilt else Mismatch(order.order_id, stored, rebuilt)


def check(*, batch: int = BATCH) -> Iterator[Mismatch | int]:
    """Compare all orders with their histories; after each batch how many that were, and each one that differs."""
    last = ""
    while orders := list(Order.objects.filter(order_id__gt=last).order_by("order_id")[:batch]):
        last = orders[-1].order_id
        events = OrderEvent.objects.filter(order_id__in=[order.order_id for order in orders])
        histories = {
            order_id: list(told)
            for order_id, told in groupby(events.order_by("order_id", "version"), lambda event: event.order_id)
        }
        for order in orders:
            if mismatch(order, histories.get(order.order_id, [])) and (found := look_closely(order.order_id)):
                yield found
        yield len(orders)


@transaction.atomic(using="orders")
def look_closely(order_id: str) -> Mismatch | None:
    """How an order differs from its history while nobody moves it on."""
    order = Order.objects.select_for_update().get(pk=order_id)
    return mismatch(order, list(order.events.order_by("version")))
