"""The payment of an order, as its client sees it."""

from typing import Any

from common import money
from common.principal import Principal
from payments import reading

from .models import Order, Status
from .saga import overdue_at

AMOUNTS = ("amount", "authorized_amount", "captured_amount", "refunded_amount")


def payment_of(order: Order, *, principal: Principal) -> dict[str, Any]:
    """
    Return the payment of an order; until payments has heard of it, what the order says of it.

    What the payer needs is shown to the client of the order alone.
    """
    view = None if order.payment_method == Order.Method.INVOICE else reading.payment_of(order.order_id)
    shown = _of_order(order) if view is None else {name: getattr(view, name) for name in view.__dataclass_fields__}
    if principal.is_staff or principal.name != order.principal:
        shown |= {"client_secret": "", "next_action": None}
    amounts = {name: money.number(shown[name], currency=order.currency) for name in AMOUNTS}
    return shown | amounts | {"order_id": order.shown_id}


def _of_order(order: Order) -> dict[str, Any]:
    is_invoice = order.payment_method == Order.Method.INVOICE
    waits = not is_invoice and order.status in (Status.PENDING, Status.RESERVED)
    return {
        "payment_id": order.payment_id,
        "method": order.payment_method,
        "gateway": "",
        "status": "not_collected" if is_invoice else "requested",
        **dict.fromkeys(AMOUNTS, 0),
        "amount": order.total,
        "currency": order.currency,
        "client_secret": "",
        "next_action": None,
        "expires_at": overdue_at(order) if waits else None,
        "attempts": (),
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    }
