"""What orders stores about a person: see common/personal_data.py."""

from typing import Any

from django.db.models import Model

from common.personal_data import Person, Table, Treatment, data, empty, encoded, mentions, messages, name, remark, text

from .models import (
    ENDS,
    ArchivedHistory,
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


IN_DOCUMENT: dict[type[Model], dict[str, Treatment]] = {
    OrderEvent: {"data": event},
    WebhookDelivery: {"body": encoded(data)},
    WebhookAttempt: {"response": empty, "error": text},
}


def document(value: Any, person: Person) -> Any:
    """Return the document of an archived order with its rows as they would be in their tables."""
    treated = dict(value)
    for model, columns in IN_DOCUMENT.items():
        table = model._meta.db_table
        treated[table] = [
            row
            | {column: treat(row[column], person) for column, treat in columns.items() if row.get(column) is not None}
            for row in value[table]
        ]
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
    Table(ArchivedHistory, {"document": document}, of_order="order_id"),
    Table(OrderEvent, IN_DOCUMENT[OrderEvent], of_order="order_id"),
    Table(Refund, {"reason": remark}, of_order="order_id"),
    Table(
        IdempotencyKey,
        {"answer": encoded(data), "answer_headers": mentions, "fingerprint": empty},
        of_order="order_id",
    ),
    Table(WebhookDelivery, IN_DOCUMENT[WebhookDelivery], of_order="order_id"),
    Table(WebhookAttempt, IN_DOCUMENT[WebhookAttempt], of_order="delivery__order_id"),
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
    archived = Order.objects.filter(pk__in=order_ids).exclude(archived=None).order_by("pk")
    there = set(ArchivedHistory.objects.filter(pk__in=order_ids).values_list("pk", flat=True))
    return [
        *(f"order {order.order_id} is {order.status}" for order in open_orders),
        *(f"refund {refund.refund_id} of order {refund.order_id} is pending" for refund in refunds),
        *(
            f"the history of order {order.order_id} is in the archive of {order.archived:%Y-%m}, which is not attached"
            for order in archived
            if order.pk not in there
        ),
        *(f"webhook {delivery.type} about {delivery.order_id} is not delivered yet" for delivery in deliveries),
    ]
