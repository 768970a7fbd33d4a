"""What must hold after every step, checked simply, in memory; `manage.py audit` checks the same in SQL."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator

from django.db.models import Count, Sum

from orders.history import mismatch
from orders.models import ENDS, Order, Status
from outbox.services import model_of
from payments.models import Account, Entry
from processing.models import Hold, HoldLine, Product, StockMovement

ENDED_EMPTY = (Status.CANCELED, Status.FAILED)


def broken() -> list[str]:
    """The invariants that do not hold at this moment."""
    return [*stock(), *money(), *orders()]


def unfinished() -> list[str]:
    """What is still open, when nothing should be."""
    found = [f"order {order} is {order.status}" for order in Order.objects.exclude(status__in=ENDS)]
    found += [f"hold of {hold}" for hold in Hold.objects.filter(status="held")]
    for service in ("orders", "payments", "processing"):
        found += [f"dead letter {one} ({one.error})" for one in model_of(service, "DeadLetter").objects.all()]
    return found


def stock() -> Iterator[str]:
    moved = sums(StockMovement.objects.values_list("product", "kind").annotate(Sum("quantity")))
    kept = sums(HoldLine.objects.values_list("product", "hold__status").annotate(Sum("quantity")))
    for product in Product.objects.all():
        moves, lines = moved[product.pk], kept[product.pk]
        received = moves["received"] + moves["corrected"]
        held = moves["held"] - moves["released"] - moves["sold"]
        counted = (product.received, product.held, product.sold, product.available)
        if counted != (received, held, moves["sold"], received - held - moves["sold"]) or min(counted) < 0:
            yield f"{product} counts {counted}, its movements say {dict(moves)}"
        for status, count in (("held", product.held), ("sold", product.sold)):
            if lines[status] != count:
                yield f"{product} has {count} {status}, its holds {lines[status]}"


def sums(rows: Iterable[tuple[Hashable, str, int]]) -> defaultdict[Hashable, Counter[str]]:
    """These sums, by what they are of and then by their kind."""
    found: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
    for of, kind, total in rows:
        found[of][kind] += total
    return found


def money() -> Iterator[str]:
    balances: Counter[Hashable] = Counter()
    totals: Counter[str] = Counter()
    for entry in Entry.objects.all():
        balances[entry.target_id] += entry.amount
        balances[entry.source_id] -= entry.amount
    for account in Account.objects.all():
        totals[account.currency] += balances[account.pk]
        if account.kind == "customer" and account.balance != balances[account.pk]:
            yield f"account {account} has {account.balance}, its entries sum to {balances[account.pk]}"
    if any(totals.values()):
        yield f"all entries sum to {totals}"


def orders() -> Iterator[str]:
    moved: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in Entry.objects.all():
        moved[entry.order_id].append(entry)
    holds = sums(Hold.objects.values_list("order_id", "status").annotate(Count("pk")))
    for order in Order.objects.prefetch_related("lines", "events"):
        if found := mismatch(order, list(order.events.all())):
            yield f"history of {found}"
        if order.total != sum(line.amount for line in order.lines.all()):
            yield f"order {order} has a total of {order.total}, which is not that of its lines"
        kept = Counter(entry.kind for entry in moved[order.pk])
        amounts = {entry.amount for entry in moved[order.pk]}
        held = holds[order.pk]
        if kept["charge"] > 1 or kept["refund"] > kept["charge"] or amounts - {order.total}:
            yield f"order {order} has moved money by {dict(kept)} of {amounts}, its total is {order.total}"
        if order.status in ENDED_EMPTY and (kept["charge"] != kept["refund"] or held["held"] or held["sold"]):
            yield f"order {order} is {order.status} and keeps {dict(kept)}, {dict(held)}"
        paid = bool(order.total) and order.payment_method == Order.Method.ACCOUNT
        if order.status == Status.DONE and (kept["charge"], kept["refund"]) != (paid, 0):
            yield f"order {order} is done and its money is {dict(kept)}"
        if order.status == Status.DONE and held["sold"] != bool(order.hold_id):
            yield f"order {order} is done and its stock is {dict(held)}"
