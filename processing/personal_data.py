"""What processing stores about a person: no more than the messages about orders. See common/personal_data.py."""

from common.personal_data import Table, messages

from .models import DeadLetter, Hold, Outgoing, Processing

TABLES = (
    Table(Hold, of_order="order_id"),
    Table(Processing, of_order="order_id"),
    *messages(Outgoing, DeadLetter),
)


def open_work(order_ids: list[str]) -> list[str]:
    """Return what has to end before these orders can be erased."""
    holds = Hold.objects.filter(order_id__in=order_ids, status=Hold.Status.HELD)
    return [
        *(f"stock is held for order {hold.order_id}" for hold in holds),
    ]
