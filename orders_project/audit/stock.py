"""Stock: counters, movements, holds and orders."""

from collections.abc import Iterator

from .common import Finding, Scope, batches, rows

COUNTERS = """
SELECT product.sku, product.available, product.held, product.sold, product.received,
       coalesce(moved.received, 0), coalesce(moved.held, 0), coalesce(moved.sold, 0)
FROM processing_product product
LEFT JOIN (
    SELECT product_id,
           sum(quantity) FILTER (WHERE kind IN ('received', 'corrected')) AS received,
           coalesce(sum(quantity) FILTER (WHERE kind = 'held'), 0)
               - coalesce(sum(quantity) FILTER (WHERE kind IN ('released', 'sold')), 0) AS held,
           sum(quantity) FILTER (WHERE kind = 'sold') AS sold
    FROM processing_stockmovement GROUP BY product_id
) moved USING (product_id)
WHERE product.received <> product.available + product.held + product.sold
   OR (product.received, product.held, product.sold)
      <> (coalesce(moved.received, 0), coalesce(moved.held, 0), coalesce(moved.sold, 0))
"""


def counters(scope: Scope) -> Iterator[Finding]:
    for sku, available, held, sold, received, *moved in rows("processing", COUNTERS):
        yield Finding(
            "counters",
            sku,
            f"counts {available} available, {held} held, {sold} sold of {received} received;"
            f" its movements say {moved[0]} received, {moved[1]} held, {moved[2]} sold",
            "set the counters to what the movements say, which nobody can have changed",
        )


HOLDS = """
SELECT product.sku, product.held, product.sold, coalesce(lines.held, 0), coalesce(lines.sold, 0)
FROM processing_product product
LEFT JOIN (
    SELECT line.product_id,
           sum(line.quantity) FILTER (WHERE hold.status = 'held') AS held,
           sum(line.quantity) FILTER (WHERE hold.status = 'sold') AS sold
    FROM processing_holdline line JOIN processing_hold hold USING (hold_id) GROUP BY line.product_id
) lines USING (product_id)
WHERE (product.held, product.sold) <> (coalesce(lines.held, 0), coalesce(lines.sold, 0))
"""


def holds(scope: Scope) -> Iterator[Finding]:
    for sku, held, sold, lines_held, lines_sold in rows("processing", HOLDS):
        yield Finding(
            "holds",
            sku,
            f"counts {held} held and {sold} sold; its holds add up to {lines_held} and {lines_sold}",
            "compare the product's movements with its holds, and set right whichever the movements contradict",
        )


ORDERS_WITH_HOLDS = """
SELECT order_id, hold_id, status FROM orders_order
WHERE hold_id IS NOT NULL AND updated_at < %s AND status IN
    ('reserved', 'payment_pending', 'paid', 'done', 'canceled', 'failed') AND order_id > %s
ORDER BY order_id LIMIT %s
"""
# What the hold of an order may be once things have settled.
EXPECTED = {
    "reserved": {"held"},
    "payment_pending": {"held"},
    "paid": {"held"},
    "done": {"sold"},
    "canceled": {"released"},
    "failed": {"released"},
}
OPEN_HOLDS = """
SELECT hold_id, order_id, expires_at FROM processing_hold
WHERE status = 'held' AND created_at < %s AND hold_id > %s ORDER BY hold_id LIMIT %s
"""
NOBODY = "00000000-0000-0000-0000-000000000000"


def holds_of_orders(scope: Scope) -> Iterator[Finding]:
    for page in batches("orders", ORDERS_WITH_HOLDS, scope.settled, start=""):
        found = dict(
            rows(
                "processing",
                "SELECT hold_id, status FROM processing_hold WHERE hold_id = ANY(%s)",
                [hold_id for _, hold_id, _ in page],
            )
        )
        for order_id, hold_id, status in page:
            if (hold := found.get(hold_id, "missing")) not in EXPECTED[status]:
                detail = f"order is {status}, hold is {hold}"
                yield Finding("held", f"{order_id}: {hold_id}", detail, repair(status, hold), order_id)
    for page in batches("processing", OPEN_HOLDS, scope.settled, start=NOBODY):
        known = rows(
            "orders", "SELECT order_id, hold_id FROM orders_order WHERE order_id = ANY(%s)", [one[1] for one in page]
        )
        counted_on = dict(known)
        for hold_id, order_id, expires_at in page:
            # An orphan is in flight until it expires; then it is given back by itself.
            if counted_on.get(order_id) != hold_id and expires_at < scope.settled:
                detail = f"open, expired at {expires_at.isoformat()}, and no order counts on it"
                advice = "post processing.give_back for the hold; see that processing.expire_holds is running"
                yield Finding("held", f"{order_id}: {hold_id}", detail, advice, order_id)


def repair(status: str, hold: str) -> str:
    if hold == "held":
        return "post processing.give_back for the hold"
    if status in ("canceled", "failed"):
        return "correct the stock of its products, if they were never sent"
    return "cancel the order; its money goes back by itself"


HISTORY = """
SELECT o.order_id, o.status, o.version, told.status, told.version
FROM orders_order o
LEFT JOIN LATERAL (
    SELECT status, version FROM orders_orderevent event
    WHERE event.order_id = o.order_id ORDER BY version DESC LIMIT 1
) told ON true
WHERE (o.status, o.version) IS DISTINCT FROM (told.status, told.version)
"""


def history(scope: Scope) -> Iterator[Finding]:
    for order_id, status, version, told_status, told_version in rows("orders", HISTORY):
        yield Finding(
            "history",
            order_id,
            f"stored as {status} v{version}, last told as {told_status} v{told_version}",
            f"rebuild the order from its events: manage.py history {order_id}",
            order_id,
        )
