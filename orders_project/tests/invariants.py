"""What must hold after every step, checked simply and slowly; `manage.py audit` checks the same fast."""

from collections import Counter
from collections.abc import Iterator

from django.db.models import Sum

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
    for product in Product.objects.all():
        moved = Counter(
            dict(StockMovement.objects.filter(product=product).values_list("kind").annotate(total=Sum("quantity")))
        )
        received = moved["received"] + moved["corrected"]
        held = moved["held"] - moved["released"] - moved["sold"]
        counted = (product.received, product.held, product.sold, product.available)
        if counted != (received, held, moved["sold"], received - held - moved["sold"]) or min(counted) < 0:
            yield f"{product} counts {counted}, its movements say {dict(moved)}"
        for status, count in (("held", product.held), ("sold", product.sold)):
            lines = HoldLine.objects.filter(product=product, hold__status=status)
            total = lines.aggregate(total=Sum("quantity"))["total"] or 0
            if total != count:
                yield f"{product} has {count} {status}, its holds {total}"


def money() -> Iterator[str]:
    totals: Counter[str] = Counter()
    for account in Account.objects.all():
        entries = sum(entry.amount for entry in account.paid_in.all())
        entries -= sum(entry.amount for entry in account.paid_out.all())
        totals[account.currency] += entries
        if account.kind == "customer" and account.balance != entries:
            yield f"account {account} has {account.balance}, its entries sum to {entries}"
    if any(totals.values()):
        yield f"all entries sum to {totals}"


def orders() -> Iterator[str]:
    for order in Order.objects.all():
        if found := mismatch(order, list(order.events.order_by("version"))):
            yield f"history of {found}"
        if order.total != sum(line.amount for line in order.lines.all()):
            yield f"order {order} has a total of {order.total}, which is not that of its lines"
        kept = Counter(entry.kind for entry in Entry.objects.filter(order_id=order.pk))
        amounts = {entry.amount for entry in Entry.objects.filter(order_id=order.pk)}
        held = Counter(hold.status for hold in Hold.objects.filter(order_id=order.pk))
        if kept["charge"] > 1 or kept["refund"] > kept["charge"] or amounts - {order.total}:
            yield f"order {order} has moved money by {dict(kept)} of {amounts}, its total is {order.total}"
        if order.status in ENDED_EMPTY and (kept["charge"] != kept["refund"] or held["held"] or held["sold"]):
            yield f"order {order} is {order.status} and keeps {dict(kept)}, {dict(held)}"
        paid = bool(order.total) and order.payment_method == Order.Method.ACCOUNT
        if order.status == Status.DONE and (kept["charge"], kept["refund"]) != (paid, 0):
            yield f"order {order} is done and its money is {dict(kept)}"
        if order.status == Status.DONE and held["sold"] != bool(order.hold_id):
            yield f"order {order} is done and its stock is {dict(held)}"
