"""What processing stores about a person: messages about orders, and reasons. See common/personal_data.py."""

from django.db.models import Q

from common.personal_data import Table, messages, remark

from .models import DeadLetter, Hold, Outgoing, Processing, StockMovement

BY_HAND = (StockMovement.Kind.RECEIVED, StockMovement.Kind.CORRECTED)  # with a reason that a person has given

TABLES = (
    Table(Hold, of_order="order_id"),
    Table(Processing, of_order="order_id"),
    *messages(Outgoing, DeadLetter),
    Table(StockMovement, {"reason": remark}, mentioned=("reason",), among=Q(kind__in=BY_HAND)),
)


def open_work(order_ids: list[str]) -> list[str]:
    """Return what has to end before these orders can be erased."""
    holds = Hold.objects.filter(order_id__in=order_ids, status=Hold.Status.HELD)
    return [
        *(f"stock is held for order {hold.order_id}" for hold in holds),
    ]
