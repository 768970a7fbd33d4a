"""What orders stores about a person: see common/personal_data.py."""

from typing import Any

from common.personal_data import Person, Table, data, empty, encoded, messages, name, remark, text

from .models import (
    ENDS,
    DeadLetter,
    IdempotencyKey,
    Order,
    OrderEvent,
    OrderLine,
    Outgoing,
    Refund,
    WebhookAttempt,
    WebhookDelivery,
)

NAMED = ("user_id", "customer_id", "user_email")


def event(value: Any, person: Person) -> Any:
    """Return the data of an event as its order is now, and without a remark that names the person."""
    treated = {
        key: data({key: one}, person)[key] if key in (*NAMED, "description", "metadata") else one
        for key, one in value.items()
    }
    if "note" in treated:
        treated["note"] = remark(treated["note"], person)
    if isinstance(told := treated.get("refund"), dict) and told.get("reason"):
        treated["refund"] = told | {"reason": remark(told["reason"], person)}
    return treated


TABLES = (
    Table(
        Order,
        {
            **dict.fromkeys(NAMED, name),
            "description": empty,
            "metadata": empty,
            "fingerprint": empty,  # with it a request that repeats a guess could be told
        },
        of_order="order_id",
    ),
    Table(OrderLine, of_order="order_id"),
    Table(OrderEvent, {"data": event}, of_order="order_id"),
    Table(Refund, {"reason": remark}, of_order="order_id"),
    Table(IdempotencyKey, {"answer": encoded(data), "fingerprint": empty}, of_order="order_id"),
    Table(WebhookDelivery, {"body": encoded(data)}, of_order="order_id"),
    Table(WebhookAttempt, {"response": empty, "error": text}, of_order="delivery__order_id"),
    *messages(Outgoing, DeadLetter),
)


def orders_of(person: Person) -> list[str]:
    """Return the ids of the orders that name this person."""
    orders = Order.objects.filter(person.in_columns(*NAMED))
    if person.client is not None:
        orders = orders.filter(principal=person.client)
    return list(orders.order_by("order_id").values_list("order_id", flat=True))


def names_in(order_ids: list[str]) -> set[str]:
    """Return by which names these orders call who has placed them."""
    return {one for row in Order.objects.filter(pk__in=order_ids).values_list(*NAMED) for one in row if one}


def clients_of(person: Person) -> set[str]:
    """Return whose orders call a person by these names, emails aside: each client has user ids of its own."""
    ids = Person(tuple(one for one in person.names if "@" not in one))
    return set(Order.objects.filter(ids.in_columns("user_id", "customer_id")).values_list("principal", flat=True))


def open_work(order_ids: list[str]) -> list[str]:
    """Return what has to end before these orders can be erased."""
    open_orders = Order.objects.filter(pk__in=order_ids).exclude(status__in=ENDS)
    refunds = Refund.objects.filter(order__in=order_ids, status=Refund.Status.PENDING)
    deliveries = WebhookDelivery.objects.filter(order_id__in=order_ids, status=WebhookDelivery.Status.PENDING)
    return [
        *(f"order {order.order_id} is {order.status}" for order in open_orders),
        *(f"refund {refund.refund_id} of order {refund.order_id} is pending" for refund in refunds),
        *(f"webhook {delivery.type} about {delivery.order_id} is not delivered yet" for delivery in deliveries),
    ]
