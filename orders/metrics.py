"""The metrics of orders."""

from outbox.metrics import Few, after_commit, counter, histogram

from .models import Order, Status

LIFE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

ORDERS_CREATED = counter("orders_created_total", "Orders created.")  # exported as orders_total too
ORDERS_SHED = counter("orders_shed_total", "New orders that were refused because too many others waited.")
ORDERS_PAID = counter("orders_paid_total", "Orders paid.")
ORDERS_PROCESSED = counter("orders_processed_total", "Orders processed: done.")
ORDERS_CANCELED = counter("orders_canceled_total", "Orders canceled.")
ORDERS_FAILED = counter("orders_failed_total", "Orders that failed.", "reason")
REACHED = {Status.PAID: ORDERS_PAID, Status.DONE: ORDERS_PROCESSED, Status.CANCELED: ORDERS_CANCELED}
COMPENSATIONS = frozenset({"void", "refund", "release"})

ORDER_SECONDS = histogram("order_seconds", "Time from accepting an order to a status.", "status", buckets=LIFE)
SAGA_STEPS = counter("saga_steps_total", "Transitions of orders.", "before", "event", "after")
SAGA_COMPENSATIONS = counter("saga_compensations_total", "Compensations requested: void, refund, release.", "kind")
WEBHOOK_DELIVERIES = counter("webhook_deliveries_total", "Attempts to send a webhook, by result.", "result")

_reason = Few()


def sent_webhook(result: str) -> None:
    """Count an attempt to send a webhook, once it is committed."""
    after_commit("orders", WEBHOOK_DELIVERIES.labels(result).inc)


def created(order: Order) -> None:
    """Count a new order, once it is committed."""
    after_commit("orders", ORDERS_CREATED.inc)


def stepped(order: Order, *, before: str, event: str, through: Status | None, says: str) -> None:
    """Count a transition, once it is committed."""
    after, took, reason = Status(order.status), (order.updated_at - order.created_at).total_seconds(), order.fail_reason

    def count() -> None:
        SAGA_STEPS.labels(before, event, after).inc()
        if says in COMPENSATIONS:
            SAGA_COMPENSATIONS.labels(says).inc()
        for status in filter(None, (through, after if after != before else None)):
            ORDER_SECONDS.labels(status).observe(took)
            if status in REACHED:
                REACHED[status].inc()
            elif status == Status.FAILED:
                ORDERS_FAILED.labels(_reason(reason)).inc()

    after_commit("orders", count)
