"""The history of an order contains its whole state: it is written, read back and compared here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from . import archive
from .models import Order, OrderEvent

BATCH = 1000

STATE = (
    "principal", "customer_id", "user_id", "user_email", "description", "status", "total", "currency", "payment_method",
    "payment_id", "fail_reason", "blocked", "reference", "metadata", "capture", "captured", "refunded",
)  # fmt: skip

NOTE = "note"  # the reason that a person gave
ASIDE = (NOTE, "refund", "dispute")  # kept with the state, but not a part of it


def initial_data(order: Order) -> dict[str, Any]:
    """The data of the first event of an order: all that can change and has a value, and its hold."""
    hold_id = str(order.hold_id) if order.hold_id else None
    return _said({name: getattr(order, name) for name in STATE} | {"hold_id": hold_id})


def state(order: Order) -> dict[str, Any]:
    """The stored state of an order, without what has no value."""
    return initial_data(order) | {"version": order.version, "updated_at": order.updated_at}


def rebuild(events: list[OrderEvent]) -> dict[str, Any]:
    """The state of an order, rebuilt from its events alone."""
    rebuilt: dict[str, Any] = {}
    for event in events:
        rebuilt |= event.data | {"status": event.status, "version": event.version, "updated_at": event.at}
    for name in ASIDE:
        rebuilt.pop(name, None)
    return _said(rebuilt)


def _said(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value}


@dataclass(frozen=True)
class Mismatch:
    """An order that differs from its history."""

    order_id: str
    stored: dict[str, Any]
    rebuilt: dict[str, Any]

    def __str__(self) -> str:
        differing = [name for name in self.stored | self.rebuilt if self.stored.get(name) != self.rebuilt.get(name)]
        texts = (f"{name} is {self.stored.get(name)!r}, not {self.rebuilt.get(name)!r}" for name in differing)
        return f"{self.order_id}: {', '.join(texts)}"


def mismatch(order: Order, events: list[OrderEvent]) -> Mismatch | None:
    """How an order differs from its history; none if it does not."""
    stored, rebuilt = state(order), rebuild(events)
    return None if stored == rebuilt else Mismatch(order.order_id, stored, rebuilt)


def check(*, batch: int = BATCH) -> Iterator[Mismatch | int]:
    """Compare all orders with their histories: yield each one that differs, and after each batch its size."""
    last = ""
    while orders := list(Order.objects.filter(order_id__gt=last).order_by("order_id")[:batch]):
        last = orders[-1].order_id
        histories = archive.histories(orders)
        for order in orders:
            if mismatch(order, histories[order.order_id]) and (found := _compare_locked(order.order_id)):
                yield found
        yield len(orders)


@transaction.atomic(using="orders")
def _compare_locked(order_id: str) -> Mismatch | None:
    """How an order differs from its history while it is locked."""
    order = Order.objects.select_for_update().get(pk=order_id)
    return mismatch(order, archive.history_of(order))
