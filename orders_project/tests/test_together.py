"""What services handle together has the effects of the same messages handled one by one, and nothing else."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone

from common.money import Money
from orders import factories, transitions, webhook_endpoints
from orders.messages import Overdue
from orders.models import Order, OrderEvent, WebhookDelivery
from orders.models import Outgoing as FromOrders
from orders.saga import CancelRequested
from outbox import batches, consumers
from outbox.message import Message
from outbox.services import model_of
from payments import messages as money
from payments import services as payments
from payments.models import Account, Entry, Payment
from processing import messages as stock
from processing import services as processing
from processing.models import Hold, Processing, StockMovement
from processing.tests.factories import counters, hold, product

pytestmark = pytest.mark.django_db
Make = Callable[[str], list[Message]]
TABLES = {
    "orders": (Order, OrderEvent, WebhookDelivery),
    "payments": (Payment, Entry, Account),
    "processing": (Processing, Hold, StockMovement),
}
COLUMNS = {  # what is compared: not ids that are made anew, nor times
    Order: ("status", "version", "fail_reason", "payment_id", "captured", "refunded", "blocked"),
    OrderEvent: ("version", "type", "status", "actor", "data"),
    WebhookDelivery: ("type",),
    Payment: ("status", "fail_reason", "method", "amount", "currency"),
    Entry: ("kind", "amount", "currency"),
    Account: ("kind", "user_id", "balance"),
    Processing: ("verdict", "reason"),
    Hold: ("status",),
    StockMovement: ("kind", "quantity"),
}

# Where the order, or the user who is named like one, is found.
ABOUT = {OrderEvent: "order__order_id", Account: "user_id", StockMovement: "hold__order_id"}


def enveloped(sender: str, messages: list[Message]) -> list[dict[str, Any]]:
    """The envelopes of these messages, as they travel."""
    with transaction.atomic(using=sender):
        rows = model_of(sender, "Outgoing").post(*messages)
        for row in rows:
            row.delete()
    found: list[dict[str, Any]] = json.loads(json.dumps([row.envelope().as_dict() for row in rows]))
    return found


def effects(service: str, prefix: str) -> list[Any]:
    """All that there is about orders whose ids begin so, with what the service has answered, in a comparable form."""
    found: list[Any] = []
    for model in TABLES[service]:
        about = ABOUT.get(model, "order_id")
        rows = model._default_manager.filter(**{f"{about}__startswith": prefix})
        found += [(model.__name__, *row) for row in rows.values_list(about, *COLUMNS[model])]
    posted = model_of(service, "Outgoing").objects.filter(subject__startswith=prefix)
    found += [("posted", *row) for row in posted.values_list("type", "to", "subject", "data")]
    as_text = [json.dumps(row, default=str, sort_keys=True) for row in found]
    return sorted(without_ids(text, prefix) for text in as_text)


def without_ids(text: str, prefix: str) -> str:
    def plain(value: Any) -> Any:
        match value:
            case dict():
                return {name: plain(one) for name, one in value.items() if not is_personal(name)}
            case list():
                return [plain(one) for one in value]
            case str():
                return value.removeprefix(prefix)
            case _:
                return value

    return json.dumps(plain(json.loads(text)), sort_keys=True)


def is_personal(name: str) -> bool:
    """Whether it is another one for each order: an id that is made anew, a time, or what is encrypted."""
    made_anew = {"number", "hold_id", "delivery_id", "origin"}
    return name in made_anew or name.endswith(("_at", "_since", "deadline", "until"))


def of_orders(model: Any, name: str) -> dict[str, str]:
    """This field of each of the orders that were handled together, or of what belongs to it, by name."""
    found = model.objects.filter(order_id__startswith="a-").values_list("order_id", name)
    return {order_id.removeprefix("a-"): value for order_id, value in found}


@pytest.fixture
def in_both_ways(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Have the same messages handled together and one by one, see that nothing differs, and return the effects."""
    together: list[bool] = []
    real = batches.handled_together

    def watched(*arguments: Any) -> bool:
        together.append(real(*arguments))
        return together[-1]

    monkeypatch.setattr(batches, "handled_together", watched)

    def compare(sender: str, make: Make, *, is_split: bool = False) -> list[Any]:
        found = []
        for prefix, alone in (("a-", False), ("b-", True)):
            messages = make(prefix)
            kind, service = type(messages[0]), messages[0].to
            raws = enveloped(sender, messages)
            for some in [[raw] for raw in raws] if alone else [raws]:
                consumers.receive_all(consumers.CONSUMERS[kind.name], some, headers={"task": kind.name}, worker="w1")
            found.append(effects(service, prefix))
        assert found[0] == found[1]
        assert together == [not is_split]
        return found[0]

    return compare


class TestCharges:
    def test_of_every_kind(self, in_both_ways: Any) -> None:
        def make(prefix: str) -> list[Message]:
            payments.open_account(user_id=f"{prefix}ann")
            payments.deposit(user_id=f"{prefix}ann", amount=250, now=timezone.now())
            payments.open_account(user_id=f"{prefix}eve", principal="shop")
            payments.deposit(user_id=f"{prefix}eve", amount=500, principal="shop", now=timezone.now())
            payments.give_back(order_id=f"{prefix}withdrawn", now=timezone.now())
            payments.charge_account(
                order_id=f"{prefix}charged", user_id=f"{prefix}ann", money=Money(50, "USD"), now=timezone.now()
            )
            ann: dict[str, Any] = {"amount": 100, "currency": "USD", "method": "account", "user_id": f"{prefix}ann"}
            late = (timezone.now() - timedelta(seconds=1)).isoformat()
            charges = {
                "1": ann,
                "2": ann,
                "too-much": ann,
                "nothing": ann | {"amount": 0},
                "no-account": ann | {"user_id": f"{prefix}bob"},
                "currency": ann | {"currency": "EUR"},
                "foreign": ann | {"user_id": f"{prefix}eve"},
                "own": ann | {"user_id": f"{prefix}eve", "principal": "shop"},
                "late": ann | {"deadline": late},
                "gateway": ann | {"method": "gateway", "user_id": None},
                "withdrawn": ann,
                "charged": ann | {"amount": 50},
            }
            messages = [money.Charge(order_id=f"{prefix}{name}", **charge) for name, charge in charges.items()]
            return [*messages, messages[0]]  # one order twice, by two messages

        in_both_ways("orders", make)
        # ann has 250: 50 were taken before; two of the three charges of 100 are paid
        assert of_orders(Payment, "status") == {
            "1": "succeeded",
            "2": "succeeded",
            "too-much": "failed",
            "nothing": "succeeded",
            "no-account": "failed",
            "currency": "failed",
            "foreign": "failed",
            "own": "succeeded",
            "late": "failed",
            "gateway": "requested",
            "withdrawn": "voided",
            "charged": "succeeded",
        }
        assert Account.objects.get(user_id="a-ann").balance == 0
        assert Entry.objects.filter(kind="charge", order_id="a-1").count() == 1


class TestProcessing:
    def test_of_every_kind(self, in_both_ways: Any) -> None:
        product("lamp", stock=100)
        product("vase", stock=100)

        def make(prefix: str) -> list[Message]:
            holds = {
                name: hold(f"{prefix}{name}", **quantities)
                for name, quantities in {
                    "1": {"lamp": 1, "vase": 2},
                    "2": {"vase": 3, "lamp": 4},
                    "lost": {"lamp": 5},
                    "withdrawn": {"lamp": 6},
                }.items()
            }
            processing.give_back(hold_id=holds["lost"], now=timezone.now())
            processing.release(order_id=f"{prefix}withdrawn", hold_id=holds["withdrawn"], now=timezone.now())
            messages = [stock.Process(order_id=f"{prefix}{name}", hold_id=key) for name, key in holds.items()]
            messages.append(stock.Process(order_id=f"{prefix}no-stock", hold_id=None))
            messages.append(stock.Process(order_id=f"{prefix}late", hold_id=None, deadline="2020-01-01T00:00:00+00:00"))
            return [*messages, messages[0]]

        in_both_ways("orders", make)
        assert of_orders(Processing, "verdict") == {
            "1": "accepted",
            "2": "accepted",
            "lost": "refused",
            "withdrawn": "withdrawn",
            "no-stock": "accepted",
            "late": "refused",
        }
        assert counters("lamp") == (90, 0, 10)
        assert counters("vase") == (90, 0, 10)


class TestTheSaga:
    def orders(self, prefix: str, *names: str) -> dict[str, str]:
        return {name: factories.order(order_id=f"{prefix}{name}").order_id for name in names}

    def test_takes_many_steps(self, in_both_ways: Any) -> None:
        webhook_endpoints.register(url="http://127.0.0.1:1/", actor="root", now=timezone.now())

        def make(prefix: str) -> list[Message]:
            ids = self.orders(prefix, "1", "2", "pending", "turned-back", "paid")
            now = timezone.now()
            pending = money.PaymentPending(order_id=ids["pending"], payment_id="p")
            transitions.advance(order_id=ids["pending"], event=pending, now=now)
            cancel = CancelRequested(reason="canceled_by_client")
            transitions.advance(order_id=ids["turned-back"], event=cancel, now=now)
            paid = money.PaymentSucceeded(order_id=ids["paid"], payment_id="p")
            transitions.advance(order_id=ids["paid"], event=paid, now=now)
            messages = [money.PaymentSucceeded(order_id=one, payment_id=f"{prefix}p") for one in ids.values()]
            return [*messages, messages[1]]

        in_both_ways("payments", make)
        assert of_orders(Order, "status") == {
            "1": "paid",
            "2": "paid",
            "pending": "paid",
            "turned-back": "voiding",
            "paid": "paid",
        }
        assert WebhookDelivery.objects.filter(order_id="a-1", type="order.paid").count() == 1

    def test_ends_orders(self, in_both_ways: Any) -> None:
        def make(prefix: str) -> list[Message]:
            ids = self.orders(prefix, "1", "2")
            for one in ids.values():
                paid = money.PaymentSucceeded(order_id=one, payment_id="p")
                transitions.advance(order_id=one, event=paid, now=timezone.now())
            return [stock.OrderProcessed(order_id=one) for one in ids.values()]

        in_both_ways("processing", make)
        assert {order.status for order in Order.objects.all()} == {"done"}

    def test_times_out(self, in_both_ways: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A timer of an order that waits too long, one that comes early, one of an order that has ended, one twice."""

        def make(prefix: str) -> list[Message]:
            ids = self.orders(prefix, "late", "twice", "early", "done")
            for name in ("late", "twice"):
                Order.objects.filter(pk=ids[name]).update(
                    status_since=timezone.now() - timedelta(days=1), timer_at=None
                )
            Order.objects.filter(pk=ids["early"]).update(timer_at=None)
            Order.objects.filter(pk=ids["done"]).update(status="done")
            return [Overdue(order_id=ids[name]) for name in ("late", "twice", "early", "done", "twice")]

        in_both_ways("orders", make)
        assert of_orders(Order, "status") == {
            "late": "voiding",
            "twice": "voiding",
            "early": "pending",
            "done": "done",
        }
        timers = FromOrders.objects.filter(type="orders.overdue", subject__startswith="a-", due_at__gt=timezone.now())
        assert timers.filter(subject="a-late").count() == 2  # that of the new order, and that of the new status

    def test_refuses_one_and_takes_the_others(self, in_both_ways: Any) -> None:
        def make(prefix: str) -> list[Message]:
            ids = self.orders(prefix, "1", "not-paid")
            paid = money.PaymentSucceeded(order_id=ids["1"], payment_id="p")
            transitions.advance(order_id=ids["1"], event=paid, now=timezone.now())
            unknown = stock.OrderProcessed(order_id=f"{prefix}unknown")
            return [*(stock.OrderProcessed(order_id=one) for one in ids.values()), unknown]

        in_both_ways("processing", make, is_split=True)
        assert Order.objects.get(order_id="a-1").status == "done"
        assert Order.objects.get(order_id="a-not-paid").status == "pending"
        dead = model_of("orders", "DeadLetter").objects
        assert set(dead.values_list("subject", "reason")) == {
            ("a-not-paid", "not_being_processed"),
            ("b-not-paid", "not_being_processed"),
        }
        again = FromOrders.objects.filter(type="order.processed", attempt=1)
        assert set(again.values_list("subject", flat=True)) == {"a-unknown", "b-unknown"}


def test_a_batch_costs_few_statements() -> None:
    """However many messages it holds: that is what it is for."""
    counts = []
    for number in (2, 20):
        ids = [factories.order(order_id=f"{number}-{n}").order_id for n in range(number)]
        raws = enveloped("payments", [money.PaymentSucceeded(order_id=one, payment_id="p") for one in ids])
        with Counted("orders") as counted:
            consumers.receive_all(
                consumers.CONSUMERS["payment.succeeded"], raws, headers={"task": "payment.succeeded"}, worker="w1"
            )
        counts.append(counted.number)
        assert set(Order.objects.filter(order_id__in=ids).values_list("status", flat=True)) == {"paid"}
    assert counts[0] == counts[1] <= 6


class Counted:
    """Counts the statements that a block sends to a database."""

    def __init__(self, using: str) -> None:
        self.number, self._connection = 0, connections[using]

    def _count(self, execute: Any, *arguments: Any) -> Any:
        self.number += 1
        return execute(*arguments)

    def __enter__(self) -> "Counted":
        self._connection.execute_wrappers.append(self._count)
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.execute_wrappers.remove(self._count)
