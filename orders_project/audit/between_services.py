"""Rules between orders and what the other services keep for them: their money and their stock."""

from collections.abc import Iterator

from common.audit import Finding, Rule, Scope, batches, rows
from orders.models import Order, Status
from payments.models import Entry
from processing.models import Hold

SMALLEST_UUID = "00000000-0000-0000-0000-000000000000"
KIND = Entry.Kind
CHARGE = KIND.CHARGE.value
FEE = KIND.FEE.value  # which a gateway may take in the currency that it pays out

# Money --------------------------------------------------------------------------------------------------------------

KEEPS_MONEY = {Status.PAID, Status.DONE}
ENDED_WITHOUT = {Status.CANCELED, Status.FAILED}

SETTLED_ORDERS = """
SELECT order_id, status, CASE WHEN payment_method = %s THEN 0 ELSE coalesce(captured, total) END, refunded
FROM orders_order
WHERE updated_at < %s AND status = ANY(%s) AND order_id > %s
ORDER BY order_id LIMIT %s
"""
MOVED = f"""
SELECT order_id,
       coalesce(sum(amount) FILTER (WHERE kind = '{KIND.CHARGE}'), 0),
       coalesce(sum(amount) FILTER (WHERE kind = '{KIND.REFUND}'), 0)
           - coalesce(sum(amount) FILTER (WHERE kind = '{KIND.REFUND_FAILED}'), 0),
       coalesce(sum(amount) FILTER (WHERE kind = '{KIND.DISPUTE_LOST}'), 0)
FROM payments_entry WHERE order_id = ANY(%s) GROUP BY order_id
"""  # noqa: S608 - the kinds are ours
CAPTURES = """
SELECT order_id, amount FROM payments_entry
WHERE kind = %s AND at < %s AND order_id > %s ORDER BY order_id LIMIT %s
"""


def captures(scope: Scope) -> Iterator[Finding]:
    settled = [status.value for status in KEEPS_MONEY | ENDED_WITHOUT]
    invoice = Order.Method.INVOICE.value
    for page in batches("orders", SETTLED_ORDERS, invoice, scope.settled, settled, start=""):
        order_ids = [order_id for order_id, *_ in page]
        moved = {order_id: amounts for order_id, *amounts in rows("payments", MOVED, order_ids)}
        for order_id, status, paid, refunded in page:
            charged, returned, lost = moved.get(order_id, (0, 0, 0))
            keeps = status in KEEPS_MONEY
            if (charged, returned) != (paid, refunded) if keeps else charged - lost != returned:
                due = f"{paid} was to be paid and {refunded} refunded" if keeps else "nothing was to be kept"
                gone = f"{charged} was charged and {returned} refunded" + (f", {lost} lost in disputes" if lost else "")
                detail = f"order is {status}, and {due}; {gone}"
                owed = charged - returned > (paid - refunded if keeps else lost)
                repair = "post payments.refund for the order" if owed else "charge the customer or cancel"
                yield Finding("captures", order_id, detail, repair, order_id)
    for page in batches("payments", CAPTURES, CHARGE, scope.settled, start=""):
        known = _hold_ids([order_id for order_id, _ in page])
        for order_id, amount in page:
            if order_id not in known:
                detail = f"{amount} was charged for an order that does not exist"
                yield Finding("captures", order_id, detail, "post payments.refund for the order", order_id)


REFUNDS_ASKED = """
SELECT refund_id, order_id, status, amount FROM orders_refund
WHERE updated_at < %s AND refund_id > %s ORDER BY refund_id LIMIT %s
"""
REFUNDS_MADE = "SELECT refund_id, status, amount FROM payments_refund WHERE refund_id = ANY(%s)"
AS_ORDERS_SAYS = {"requested": "pending"}  # what orders calls the status of a refund in payments, if not the same


def refunds(scope: Scope) -> Iterator[Finding]:
    for page in batches("orders", REFUNDS_ASKED, scope.settled, start=SMALLEST_UUID):
        made = {
            refund_id: (AS_ORDERS_SAYS.get(status, status), amount)
            for refund_id, status, amount in rows("payments", REFUNDS_MADE, [refund_id for refund_id, *_ in page])
        }
        for refund_id, order_id, status, amount in page:
            # One that payments has refused, because there is no payment, leaves no row there.
            found = made.get(refund_id, ("failed", amount))
            if found != (status, amount):
                detail = f"refund is {status}, of {amount}; payments says {found[0]}, of {found[1]}"
                repair = "look for the message that says so among the dead letters, and replay it"
                yield Finding("refunds", f"{order_id}: {refund_id}", detail, repair, order_id)


ORDERS = """
SELECT order_id, currency FROM orders_order
WHERE updated_at < %s AND order_id > %s ORDER BY order_id LIMIT %s
"""
IN_OTHERS = """
SELECT order_id, currency FROM (
    SELECT order_id, currency FROM payments_payment WHERE order_id = ANY(%s) AND currency <> ''
    UNION SELECT order_id, currency FROM payments_entry WHERE order_id = ANY(%s) AND kind <> %s
) money JOIN unnest(%s::text[], %s::text[]) AS ordered(order_id, wanted) USING (order_id)
WHERE currency <> wanted
"""


def currencies(scope: Scope) -> Iterator[Finding]:
    for page in batches("orders", ORDERS, scope.settled, start=""):
        wanted = dict(page)
        ids = list(wanted)
        for order_id, other in rows("payments", IN_OTHERS, ids, ids, FEE, ids, list(wanted.values())):
            detail = f"order is in {wanted[order_id]}, and there is money in {other}"
            yield Finding("currencies", order_id, detail, "find out who has changed the currency", order_id)


# Stock --------------------------------------------------------------------------------------------------------------

# The status that the hold of an order has once things have settled.
EXPECTED_HOLD = {
    Status.RESERVED: Hold.Status.HELD,
    Status.PAYMENT_PENDING: Hold.Status.HELD,
    Status.PAID: Hold.Status.HELD,
    Status.DONE: Hold.Status.SOLD,
    Status.CANCELED: Hold.Status.RELEASED,
    Status.FAILED: Hold.Status.RELEASED,
}
ORDERS_WITH_HOLDS = """
SELECT order_id, hold_id, status FROM orders_order
WHERE hold_id IS NOT NULL AND updated_at < %s AND status = ANY(%s) AND order_id > %s
ORDER BY order_id LIMIT %s
"""
# What was sold and has come back as a whole counts as released.
STATUSES_OF_HOLDS = """
SELECT hold_id, CASE WHEN status = 'sold' AND (
    SELECT sum(quantity) FROM processing_holdline line WHERE line.hold_id = hold.hold_id
) = (
    SELECT sum(quantity) FROM processing_stockmovement moved WHERE moved.hold_id = hold.hold_id AND kind = 'returned'
) THEN 'returned' ELSE status END
FROM processing_hold hold WHERE hold_id = ANY(%s)
"""
OPEN_HOLDS = """
SELECT hold_id, order_id, expires_at FROM processing_hold
WHERE status = %s AND created_at < %s AND hold_id > %s ORDER BY hold_id LIMIT %s
"""


def holds(scope: Scope) -> Iterator[Finding]:
    settled = [status.value for status in EXPECTED_HOLD]
    for page in batches("orders", ORDERS_WITH_HOLDS, scope.settled, settled, start=""):
        found = dict(rows("processing", STATUSES_OF_HOLDS, [hold_id for _, hold_id, _ in page]))
        for order_id, hold_id, status in page:
            hold = found.get(hold_id, "missing")
            came_back = {"returned": Hold.Status.SOLD if status == Status.DONE else Hold.Status.RELEASED}
            if came_back.get(hold, hold) != EXPECTED_HOLD[status]:
                detail = f"order is {status}, hold is {hold}"
                yield Finding("held", f"{order_id}: {hold_id}", detail, _repair(status, hold), order_id)
    for page in batches("processing", OPEN_HOLDS, Hold.Status.HELD.value, scope.settled, start=SMALLEST_UUID):
        hold_of = _hold_ids([order_id for _, order_id, _ in page])
        for hold_id, order_id, expires_at in page:
            # The hold of an order that was never stored is in flight until it expires: then it is given back.
            if hold_of.get(order_id) != hold_id and expires_at < scope.settled:
                detail = f"open, expired at {expires_at.isoformat()}, and no order has it"
                repair = "post processing.give_back for the hold; see that processing.expire_holds is running"
                yield Finding("held", f"{order_id}: {hold_id}", detail, repair, order_id)


def _hold_ids(order_ids: list[str]) -> dict[str, object]:
    """The hold of each of these orders that exists."""
    return dict(rows("orders", "SELECT order_id, hold_id FROM orders_order WHERE order_id = ANY(%s)", order_ids))


def _repair(status: str, hold: str) -> str:
    if hold == Hold.Status.HELD:
        return "post processing.give_back for the hold"
    if status in ENDED_WITHOUT:
        return "correct the stock of its products, if they were never sent"
    return "cancel the order; its money is refunded by itself"


RULES = (
    Rule("held", "every open hold belongs to an open order, and every open order has its hold", holds),
    Rule("currencies", "an order, its payment and its entries, except for fees, are in one currency", currencies),
    Rule("refunds", "every refund of an order is what payments says of it", refunds),
    Rule("captures", "one capture for each paid order, and none kept for a canceled or failed one", captures),
)
