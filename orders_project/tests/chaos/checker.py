"""
What must be true when a run is over, read by plain SQL and HTTP: no code of the product takes part.

Each finding says which promise is broken, by the name of its check, and how.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from .customers import ADDED, DEPOSIT, FEW, PRODUCTS, STOCK
from .message_faults import DIES
from .records import ENDS, Records
from .schedule import SERVICES

RANKS = {
    "pending": 0, "reserved": 1, "payment_pending": 2, "authorized": 3, "paid": 4, "capturing": 4,
    "voiding": 5, "refunding": 5, "releasing": 5, "done": 6, "failed": 6, "canceled": 6,
}  # fmt: skip
WITHIN = 60.0  # seconds from the last repair until every accepted order has ended
CHECKS: dict[str, Callable[[Records], Iterator[str]]] = {}


@dataclass(frozen=True)
class Finding:
    """A promise that was broken."""

    check: str
    what: str

    def __str__(self) -> str:
        return f"{self.check}: {self.what}"


def check(records: Records) -> list[Finding]:
    """Everything that is wrong."""
    return [Finding(name, what) for name, find in CHECKS.items() for what in find(records)]


def _check(find: Callable[[Records], Iterator[str]]) -> Callable[[Records], Iterator[str]]:
    CHECKS[find.__name__] = find
    return find


# What customers were told -------------------------------------------------------------------------------------------


@_check
def no_accepted_order_is_unknown(records: Records) -> Iterator[str]:
    known = {order for (order,) in records.ask("orders", "SELECT order_id FROM orders_order")}
    for order in sorted(records.memory.accepted.keys() - known):
        yield f"order {order} was accepted and is not there"
    for order in records.memory.forgotten:
        yield f"order {order} was accepted, and unknown when it was read"


@_check
def what_was_read_stays_true(records: Records) -> Iterator[str]:
    """Of two reads, one after the other, the later one never tells of an earlier state."""
    for order, seen in records.memory.seen.items():
        for before, after in pairwise(sorted(seen, key=lambda one: one.asked)):
            if after.asked < before.answered:
                continue
            went_back = after.version < before.version or RANKS[after.status] < RANKS[before.status]
            if went_back or (before.status in ENDS and after.status != before.status):
                yield f"order {order} was {before.status} {before.version}, then {after.status} {after.version}"


@_check
def each_key_is_one_order(records: Records) -> Iterator[str]:
    for key, orders in records.memory.by_key.items():
        if len(orders) > 1:
            yield f"{key} was answered by {sorted(orders)}"
    twice = "SELECT description, count(*) FROM orders_order GROUP BY description HAVING count(*) > 1"
    for description, number in records.ask("orders", twice):
        yield f"{description} became {number} orders"


@_check
def no_answer_is_odd(records: Records) -> Iterator[str]:
    yield from records.memory.odd


# Orders -------------------------------------------------------------------------------------------------------------


@_check
def every_order_ends(records: Records) -> Iterator[str]:
    for order, status in records.open_orders():
        yield f"order {order} is still {status}"


@_check
def history_has_each_version_once(records: Records) -> Iterator[str]:
    sql = """
    SELECT o.order_id, o.version, count(e.version), max(e.version)
    FROM orders_order o LEFT JOIN orders_orderevent e USING (order_id) GROUP BY o.order_id
    HAVING count(e.version) <> o.version OR max(e.version) <> o.version
    """
    for order, version, number, last in records.ask("orders", sql):
        yield f"order {order} has version {version}, {number} events, the last of version {last}"


@_check
def done_orders_are_those_accepted_for_processing(records: Records) -> Iterator[str]:
    verdicts = dict(records.ask("processing", "SELECT order_id, verdict FROM processing_processing"))
    for order, status in records.ask("orders", "SELECT order_id, status FROM orders_order"):
        if status in ENDS and (status == "done") != (verdicts.get(order) == "accepted"):
            yield f"order {order} is {status}, its processing {verdicts.get(order)}"


# Money --------------------------------------------------------------------------------------------------------------

LEDGER = """
SELECT e.order_id, p.method, count(*) FILTER (WHERE e.kind = 'charge'), sum(CASE e.kind
    WHEN 'charge' THEN e.amount WHEN 'refund_failed' THEN e.amount WHEN 'refund' THEN -e.amount ELSE 0 END)
FROM payments_entry e JOIN payments_payment p USING (order_id) GROUP BY e.order_id, p.method
"""


@_check
def gateway_ledger_and_orders_agree(records: Records) -> Iterator[str]:
    """Captured less refunded at the gateway is what the ledger says, and what done orders cost."""
    there: Counter[str] = Counter()
    for entry in records.booked():
        sign = {"charge": 1, "refund": -1, "refund_failed": 1}.get(entry["kind"], 0)
        there[entry["order_id"]] += sign * round(entry["amount"] * 100)
    ledger = {order: (method, charges, int(net)) for order, method, charges, net in records.ask("payments", LEDGER)}
    orders = records.ask("orders", "SELECT order_id, status, total, refunded, payment_method FROM orders_order")
    for order, status, total, refunded, method in orders:
        _, charges, net = ledger.pop(order, (method, 0, 0))
        if charges > 1:
            yield f"order {order} was charged {charges} times"
        due = total - refunded if status == "done" else 0
        if status in ENDS and net != due:
            yield f"order {order} is {status}: {due} is due, the ledger has {net}"
        if method == "gateway" and there[order] != net:
            yield f"order {order} is {status}: the gateway has {there[order]}, the ledger {net}"
        there.pop(order, None)
    yield from (f"money of order {order}, which is unknown: {moved}" for order, moved in ledger.items() if moved[2])
    yield from (f"the gateway has {net} of order {order}, which is unknown" for order, net in there.items() if net)


@_check
def no_more_goes_back_than_was_asked_for(records: Records) -> Iterator[str]:
    """Of an order that stays, all that a customer has asked for goes back, and that once."""
    sql = """
    SELECT o.order_id, o.refunded, count(r.*), count(r.*) FILTER (WHERE r.status = 'pending')
    FROM orders_order o LEFT JOIN orders_refund r USING (order_id) WHERE o.status = 'done' GROUP BY o.order_id
    """
    for order, refunded, number, pending in records.ask("orders", sql):
        asked = records.memory.refunds.get(order, 0)
        if refunded not in (0, asked) or number > bool(asked) or pending:
            yield f"{refunded} of order {order} went back by {number} refunds, {pending} pending; {asked} was asked for"


@_check
def each_key_is_one_deposit(records: Records) -> Iterator[str]:
    sql = "SELECT amount, count(*) FROM payments_entry WHERE kind = 'deposit' AND amount <> %s GROUP BY amount"
    made = dict(records.ask("payments", sql, DEPOSIT))
    for amount in made.keys() | records.memory.deposited.keys():
        number, is_answered = made.get(amount, 0), records.memory.deposited.get(amount)
        if number > 1 or (is_answered and not number) or is_answered is None:
            yield f"{amount} was put on an account {number} times, under the key in-{amount - ADDED}"


@_check
def no_webhook_is_believed_that_differs(records: Records) -> Iterator[str]:
    sql = """
    SELECT r.order_id, r.amount, p.amount FROM payments_webhookreceipt r JOIN payments_payment p USING (order_id)
    WHERE r.status = 'applied' AND r.about = 'payment' AND (r.amount, r.currency) <> (p.amount, p.currency)
    """
    for order, told, amount in records.ask("payments", sql):
        yield f"a webhook of {told} was applied to order {order} of {amount}"


@_check
def balances_are_what_was_moved(records: Records) -> Iterator[str]:
    sql = """
    SELECT a.user_id, a.balance, coalesce(sum(CASE WHEN e.target_id = a.id THEN e.amount ELSE -e.amount END), 0)
    FROM payments_account a LEFT JOIN payments_entry e ON a.id IN (e.target_id, e.source_id)
    WHERE a.kind = 'customer' GROUP BY a.id
    """
    for user, balance, moved in records.ask("payments", sql):
        if balance != moved or not 0 <= balance <= DEPOSIT + sum(records.memory.deposited):
            yield f"account {user} has {balance}, its entries sum to {moved}"


# Stock --------------------------------------------------------------------------------------------------------------


@_check
def stock_is_its_movements(records: Records) -> Iterator[str]:
    sql = """
    SELECT p.name, p.available, p.held, p.sold, p.received,
        coalesce(sum(m.quantity) FILTER (WHERE m.kind IN ('received', 'corrected')), 0),
        coalesce(sum(CASE m.kind WHEN 'held' THEN m.quantity WHEN 'released' THEN -m.quantity
            WHEN 'sold' THEN -m.quantity ELSE 0 END), 0),
        coalesce(sum(CASE m.kind WHEN 'sold' THEN m.quantity WHEN 'returned' THEN -m.quantity ELSE 0 END), 0)
    FROM processing_product p LEFT JOIN processing_stockmovement m USING (product_id) GROUP BY p.product_id
    """
    for name, available, held, sold, received, got, keeps, gone in records.ask("processing", sql):
        if (received, held, sold, available) != (got, keeps, gone, got - keeps - gone) or min(available, held) < 0:
            yield f"{name} counts {available} + {held} + {sold}, its movements say {got}, {keeps} held, {gone} sold"
        if name in {f"p{number}" for number in range(PRODUCTS + 1)} and got not in (STOCK, FEW):
            yield f"{name} has received {got}"


@_check
def stock_sold_is_that_of_done_orders(records: Records) -> Iterator[str]:
    sql = """
    SELECT line.product_id::text, sum(line.quantity) FROM orders_orderline line JOIN orders_order o USING (order_id)
    WHERE o.status = 'done' AND line.product_id IS NOT NULL GROUP BY 1
    """
    done = {product: int(number) for product, number in records.ask("orders", sql)}
    for product, name, sold in records.ask("processing", "SELECT product_id::text, name, sold FROM processing_product"):
        if sold != done.get(product, 0):
            yield f"{sold} of {name} are sold, done orders have {done.get(product, 0)}"


@_check
def no_stock_stays_held(records: Records) -> Iterator[str]:
    held = "SELECT order_id, created_at FROM processing_hold WHERE status = 'held'"
    for order, since in records.ask("processing", held):
        yield f"stock is held for order {order} since {since}"


@_check
def no_movement_twice(records: Records) -> Iterator[str]:
    sql = """
    SELECT hold_id, kind, count(*) FROM processing_stockmovement
    WHERE hold_id IS NOT NULL AND kind <> 'returned' GROUP BY hold_id, product_id, kind HAVING count(*) > 1
    """
    for hold, kind, number in records.ask("processing", sql):
        yield f"hold {hold} was {kind} {number} times"


# Messages -----------------------------------------------------------------------------------------------------------


@_check
def every_message_has_its_effect_once(records: Records) -> Iterator[str]:
    """What was committed to be sent was handled, and nothing was handled that nobody has committed to send."""
    committed: dict[str, dict[str, str]] = {service: {} for service in SERVICES}
    sql = """SELECT message_id::text, type, "to", due_at < now() - interval '5 s' FROM outbox_outgoingmessage"""
    everything = set()
    for service in SERVICES:
        for message, kind, to, is_due in records.ask(service, sql):
            everything.add(message)
            if is_due and to in committed:
                committed[to][message] = kind
    for service in SERVICES:
        handled = dict(records.ask(service, "SELECT message_id::text, type FROM outbox_incomingmessage"))
        dead = {message for (message,) in records.ask(service, "SELECT message_id::text FROM outbox_deadletter")}
        for message in committed[service].keys() - handled.keys() - dead:
            yield f"{committed[service][message]} {message} was sent to {service} and had no effect"
        for message in handled.keys() - everything:
            yield f"{handled[message]} {message} had an effect in {service}, and nobody has committed to send it"


@_check
def no_timer_is_left_that_nobody_waits_for(records: Records) -> Iterator[str]:
    """One that an order has no use for is withdrawn, unless it is due within a minute then, or may have been sent."""
    sql = """
    SELECT o.order_id, o.status, timer.due_at
    FROM outbox_outgoingmessage timer JOIN orders_order o ON o.order_id = timer.subject
    WHERE timer.type = 'orders.overdue' AND timer.message_id IS DISTINCT FROM o.timer_id
      AND timer.published_at IS NULL AND timer.first_due_at IS NULL AND timer.due_at > now() + interval '1 minute'
    """
    for order, status, due_at in records.ask("orders", sql):
        yield f"order {order} is {status}, and a timer that it does not wait for is due at {due_at}"


@_check
def no_message_is_answered_twice(records: Records) -> Iterator[str]:
    """Whoever handles a message says the same once, also where what it does has no effect the second time."""
    sql = """
    SELECT causation_id, type, subject, count(DISTINCT message_id) FROM outbox_outgoingmessage
    WHERE causation_id IS NOT NULL GROUP BY causation_id, type, subject HAVING count(DISTINCT message_id) > 1
    """
    for service in SERVICES:
        for cause, kind, subject, number in records.ask(service, sql):
            yield f"{service} has answered {cause} with {number} {kind} of {subject}"


@_check
def no_dead_letter(records: Records) -> Iterator[str]:
    for service in SERVICES:
        sql = "SELECT type, subject, reason, error FROM outbox_deadletter WHERE status = 'dead'"
        for kind, subject, reason, error in records.ask(service, sql):
            yield f"{kind} of {subject} in {service}: {reason}, {error[:200]}"


@_check
def no_neighbor_dies_again(records: Records) -> Iterator[str]:
    """
    A message that kills its worker takes no others along: those of its batch die with it once, and are handled apart
    afterwards. A copy of them may meet it once more.
    """
    text = records.log.read_text(errors="replace") if records.log is not None else ""
    deaths = Counter(message for together in DIES.findall(text) if " " in together for message in together.split())
    for message, number in deaths.items():
        if number > 2:
            yield f"message {message} was {number} times in a batch with a message that killed its worker"


@_check
def no_deadlock(records: Records) -> Iterator[str]:
    if records.log is not None:
        found = records.log.read_text(errors="replace").count("deadlock detected")
        if found:
            yield f"PostgreSQL has ended {found} deadlocks"
