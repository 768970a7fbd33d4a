"""Money: balances, entries, payments and orders."""

from collections.abc import Iterator

from payments import audit

from .common import Finding, Scope, batches, rows

# What sets right each rule that the service has for itself.
REPAIRS = {
    "balance_is_sum_of_entries": "set the balance to the sum of the entries, which nobody can have changed",
    "accounts_sum_to_zero": "find the entry with one side only",
    "entry_in_the_currency_of_its_accounts": "add an entry that takes it back, and one in the right currency",
    "payment_is_its_entries": "ask the gateway how the payment stands, and add the missing entry",
    "entry_of_an_order_has_its_payment": "find out who wrote the entry, and add one that takes it back",
}
OF_AN_ORDER = {"payment_is_its_entries", "entry_of_an_order_has_its_payment"}


def ledger(scope: Scope) -> Iterator[Finding]:
    for broken in audit.findings():
        yield Finding(
            "ledger",
            f"{broken.subject}: {broken.rule}",
            broken.detail,
            REPAIRS[broken.rule],
            broken.subject if broken.rule in OF_AN_ORDER else "",
        )


SETTLED_ORDERS = """
SELECT order_id, status, total FROM orders_order
WHERE updated_at < %s AND status IN ('paid', 'done', 'canceled', 'failed') AND order_id > %s
ORDER BY order_id LIMIT %s
"""
MOVED = """
SELECT order_id, sum(amount) FILTER (WHERE kind = 'charge'), sum(amount) FILTER (WHERE kind = 'refund')
FROM payments_entry WHERE order_id = ANY(%s) GROUP BY order_id
"""
CAPTURES = """
SELECT order_id, amount FROM payments_entry
WHERE kind = 'charge' AND at < %s AND order_id > %s ORDER BY order_id LIMIT %s
"""
KNOWN = "SELECT order_id FROM orders_order WHERE order_id = ANY(%s)"


def captures(scope: Scope) -> Iterator[Finding]:
    for page in batches("orders", SETTLED_ORDERS, scope.settled, start=""):
        moved = {order_id: amounts for order_id, *amounts in rows("payments", MOVED, [one[0] for one in page])}
        for order_id, status, total in page:
            charged, refunded = (amount or 0 for amount in moved.get(order_id, (0, 0)))
            kept, due = charged - refunded, total if status in ("paid", "done") else 0
            if kept != due or (kept and refunded):
                detail = f"order is {status} with a total of {total}; {charged} was taken and {refunded} given back"
                repair = "post payments.refund for the order" if kept > due else "charge the customer or cancel"
                yield Finding("captures", order_id, detail, repair, order_id)
    for page in batches("payments", CAPTURES, scope.settled, start=""):
        order_ids = [order_id for order_id, _ in page]
        known = {
            one for (one,) in rows("orders", "SELECT order_id FROM orders_order WHERE order_id = ANY(%s)", order_ids)
        }
        for order_id, amount in page:
            if order_id not in known:
                detail = f"{amount} was taken for an order that does not exist"
                yield Finding("captures", order_id, detail, "post payments.refund for the order", order_id)
