"""
One service goes on after its database alone was set back: nothing is done twice, and what is lost is named.

Here a database is set back by rolling back one of the transactions around a test; with real servers and processes, see
test_recovery_run.py.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import amqp
import pytest
import time_machine
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import transaction
from django.db.models import Count, F
from django.test import override_settings
from django.utils import timezone

from orders import history
from orders.models import ENDS, Order, OrderLine, Outgoing
from orders.models import Refund as OrderRefund
from orders.serializers import snapshot
from orders.services import with_lines
from orders_project import recovery
from orders_project.audit import audit
from orders_project.celery import declare_topology
from orders_project.recovery import AGAIN, REMEMBERED, recover, stock
from orders_project.tests.test_money_of_orders import Shopper
from orders_project.tests.test_money_of_orders import gateway as gateway
from orders_project.tests.test_money_of_orders import shopper as shopper
from orders_project.tests.test_money_of_orders import unlimited as unlimited
from outbox import sessions, stream
from outbox.broker import Publisher, connect
from outbox.envelope import Envelope
from outbox.services import model_of
from payments import rebuilding
from payments import services as money
from payments.gateways.base import Status as AtGateway
from payments.models import Account, Entry, Payment
from payments.models import Refund as PaymentRefund
from payments.rebuilding import Told, charge_again
from payments.tests.model_gateway import ModelGateway
from processing import services as goods
from processing.models import Hold, Processing, Product, StockMovement
from processing.tasks import expire_holds

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited"), pytest.mark.slow]

PRICE = 20_00


class Shop:
    """Orders of every kind, at a gateway and from an account, and what becomes of them."""

    def __init__(self, shopper: Shopper, gateway: ModelGateway) -> None:
        self.shopper, self.gateway = shopper, gateway
        money.open_account(user_id="ann", principal="shop")
        money.deposit(user_id="ann", principal="shop", amount=500_00, now=timezone.now())
        goods.make_product(name="Lamp", sku="lamp", price=PRICE, stock=100, actor="x", now=timezone.now())

    def place(self, name: str, *, quantity: int = 2, run: bool = True, sku: str = "lamp", **body: Any) -> None:
        items = [{"sku": sku, "quantity": quantity, "price": PRICE / 100}]
        answer = self.shopper.post("/orders", {"order_id": name, "items": items} | body)
        assert answer.status_code == 201, answer.content
        if run:
            self.shopper.carrier.run()

    def by_account(self, name: str, **body: Any) -> None:
        self.place(name, user_id="ann", **body)

    def by_gateway(self, name: str, **body: Any) -> None:
        self.place(name, user_email="ann@example.com", **body)

    def payment(self, name: str) -> str:
        """Its payment at the gateway."""
        stored = Order.objects.get(reference=name).pk
        return next(key for key, held in self.gateway.payments.items() if held.answer.order_id.endswith(stored))

    def pays(self, name: str) -> None:
        self.gateway.pays(self.payment(name))
        self.shopper.hears(self.gateway)

    def asks(self, name: str, what: str, **body: Any) -> None:
        answer = self.shopper.post(f"/orders/{name}/{what}", body)
        assert answer.status_code == 202, answer.content
        self.shopper.carrier.run()
        self.shopper.hears(self.gateway)

    def cancels_at_once(self, name: str, **body: Any) -> None:
        self.place(name, run=False, **body)
        self.asks(name, "cancel")

    def release_overtakes(self, name: str) -> None:
        """An order that holds nothing is canceled when it is paid, and processing hears of that first."""
        carrier = self.shopper.carrier
        answer = self.shopper.post("/orders", {"order_id": name, "user_id": "ann", "amount": 5})
        assert answer.status_code == 201, answer.content
        for _ in ("charge", "succeeded"):
            for one in carrier.collect():
                carrier.deliver(*one)
        assert self.shopper.post(f"/orders/{name}/cancel").status_code == 202
        process, release = carrier.collect()
        assert (process[1].type, release[1].type) == ("processing.process", "processing.release")
        carrier.deliver(*release)
        carrier.deliver(*process)
        carrier.run()

    def declines(self, name: str) -> None:
        self.gateway.change(self.payment(name), status=AtGateway.FAILED)
        self.shopper.hears(self.gateway)

    def refunds_by_hand(self, name: str) -> None:
        self.gateway.refunded(self.payment(name), amount=3_00)
        self.shopper.hears(self.gateway)

    def refuses(self, name: str, method: str) -> None:
        """The processor refuses an order that is paid, whose money goes back."""
        with override_settings(PROCESSING_SUCCESS_RATE=0.0):
            if method == "account":
                self.by_account(name)
            else:
                self.by_gateway(name)
                self.pays(name)
                self.shopper.hears(self.gateway)

    def before(self) -> None:
        """What is there at the moment to which a database is set back: some are in the middle of things."""
        self.by_account("a-done")
        self.by_account("a-to-refund")
        self.by_gateway("g-done")
        self.pays("g-done")
        for name in ("g-to-pay", "g-to-decline", "g-to-cancel"):
            self.by_gateway(name)
        self.by_gateway("g-to-capture", capture="manual")
        self.by_gateway("g-to-void", capture="manual")
        self.pays("g-to-capture")
        self.pays("g-to-void")
        self.place("i-done", customer_id="c")

    def steps(self) -> list[Callable[[], None]]:
        """What happens after that moment."""
        lines = [{"position": 1, "quantity": 1}]
        return [
            lambda: self.asks("a-to-refund", "refunds", lines=lines, restock=True),
            lambda: self.asks("g-done", "refunds", amount=5),
            lambda: self.refunds_by_hand("g-done"),
            lambda: self.pays("g-to-pay"),
            lambda: self.declines("g-to-decline"),
            lambda: self.asks("g-to-cancel", "cancel"),
            lambda: self.asks("g-to-capture", "capture", amount=30),
            lambda: self.asks("g-to-void", "cancel"),
            lambda: self.by_account("a-new"),
            lambda: self.asks("a-new", "refunds", amount=1),
            lambda: self.cancels_at_once("a-canceled", user_id="ann"),
            lambda: self.asks("a-new", "refunds", amount=2),
            lambda: self.by_account("a-poor", quantity=40),
            lambda: self.by_gateway("g-new"),
            lambda: self.pays("g-new"),
            lambda: self.by_gateway("g-waiting"),
            lambda: self.by_gateway("g-reserved", capture="manual"),
            lambda: self.by_gateway("g-declined"),
            lambda: self.by_gateway("g-canceled"),
            lambda: self.asks("g-new", "refunds", lines=lines, restock=True),
            lambda: self.pays("g-reserved"),
            lambda: self.declines("g-declined"),
            lambda: self.cancels_at_once("g-canceled-at-once", user_email="ann@example.com"),
            lambda: self.asks("g-canceled", "cancel"),
            lambda: self.place("i-new", customer_id="c"),
            lambda: self.release_overtakes("a-overtaken"),
            lambda: self.refuses("r-refused", "account"),
            lambda: self.refuses("r-refused-at-gateway", "gateway"),
            lambda: self.by_account("a-on-its-way", run=False),
            lambda: self.by_gateway("g-on-its-way", run=False),
        ]


@pytest.fixture
def told(settings: Any) -> Iterator[None]:
    """A stream of events of its own."""
    declare_topology()
    settings.EVENTS_STREAM = f"events.{uuid4()}"
    assert stream.declare() == ""
    yield
    with connect() as connection:
        connection.channel().queue_delete(settings.EVENTS_STREAM)


def tell(shop: Shop, *types: str) -> list[Envelope]:
    """
    Let the stream have what was told since the last time, and some of it twice, as a relay does that dies.

    Returns it. With `types` the rest is lost.
    """
    facts = [one for one in shop.shopper.carrier.facts if not types or one.type in types]
    shop.shopper.carrier.facts = []
    publisher = Publisher(exchanges=[""])
    content = {"content_type": "application/cloudevents+json"}
    rest = [("", settings.EVENTS_STREAM, amqp.Message(one.encode(), **content)) for one in [*facts, *facts[-3:]]]
    outcome = publisher.send(rest)
    while outcome.waiting:
        publisher.read_answers()
    publisher.close()
    assert len(outcome.confirmed) == len(rest)
    return facts


@pytest.fixture
def shop(shopper: Shopper, gateway: ModelGateway) -> Shop:
    return Shop(shopper, gateway)


@contextmanager
def set_back(service: str) -> Iterator[datetime]:
    """Let the database of this service forget what happens in the block; the moment before it."""
    with transaction.atomic(using=service):
        yield timezone.now()
        transaction.set_rollback(True, using=service)


def ended() -> list[str]:
    return list(Order.objects.filter(status__in=ENDS).values_list("pk", flat=True))


# What of an order is never changed.
AS_PLACED = (
    "pk", "number", "reference", "principal", "customer_id", "user_id", "user_email", "description", "metadata",
    "total", "currency", "payment_method", "capture", "hold_id", "fingerprint", "created_at",
)  # fmt: skip


def picture(order_ids: list[str]) -> dict[str, list[Any]]:
    """What all services say of these orders, without times and ids that are given anew."""
    of = {"order_id__in": order_ids}
    rows = {
        "orders": Order.objects.filter(pk__in=order_ids).values_list("pk", "status", "captured", "refunded", "blocked"),
        "asked": Order.objects.filter(pk__in=order_ids).values_list(*AS_PLACED),
        "lines": OrderLine.objects.filter(**of).values_list(
            "order_id", "position", "kind", "of_position", "product_id", "sku", "name", "quantity", "unit_price"
        ),
        "refunds": OrderRefund.objects.filter(**of).values_list("pk", "status", "amount", "restock", "fail_code"),
        "payments": Payment.objects.filter(pk__in=order_ids).values_list(
            "pk", "status", "amount", "method", "gateway_payment_id"
        ),
        "entries": Entry.objects.filter(**of).values_list(
            "order_id", "kind", "amount", "source__user_id", "target__user_id"
        ),
        "parts": PaymentRefund.objects.filter(payment__in=order_ids).values_list(
            "pk", "status", "amount", "gateway_refund_id", "is_foreign"
        ),
        "accounts": Account.objects.filter(kind="customer").values_list("user_id", "balance"),
        "holds": Hold.objects.filter(**of).values_list("pk", "order_id", "status"),
        "verdicts": Processing.objects.filter(**of).values_list("pk", "verdict"),
        "movements": StockMovement.objects.filter(hold__order_id__in=order_ids).values_list(
            "hold", "kind", "product", "quantity"
        ),
    }
    return {name: sorted(map(str, found)) for name, found in rows.items()}


def difference(now: dict[str, list[Any]], before: dict[str, list[Any]]) -> list[Any]:
    return [(name, set(now[name]) ^ set(before[name])) for name in before if now[name] != before[name]]


def dead_letters() -> list[str]:
    services = ("orders", "payments", "processing")
    return [f"{one} {one.error}" for name in services for one in model_of(name, "DeadLetter").objects.all()]


def assert_is_as_told(facts: list[Envelope]) -> None:
    """Orders are as they were last told of, or went on from there, each step of their histories once."""
    newest = {one.subject: one.data for one in sorted(facts, key=lambda one: (one.subject, one.sequence or ""))}
    for order in with_lines(Order.objects.filter(pk__in=newest)):
        told, now = newest[order.pk], snapshot(order)
        assert order.version >= told["version"]
        if order.version == told["version"]:
            assert {name: value for name, value in told.items() if name in now} == now
        if order.status not in ENDS:
            assert Outgoing.objects.filter(pk=str(order.timer_id), published_at=None).exists()
    for mismatch in history.check():
        assert isinstance(mismatch, int), mismatch
    assert not Order.objects.annotate(steps=Count("events")).exclude(steps=F("version")).exists()
    assert Outgoing.objects.filter(pk__in=[one.id for one in facts], to="events").count() == len(facts)


def assert_all_is_well() -> None:
    assert dead_letters() == []
    findings = audit(grace=timedelta(0), settle=timedelta(0)).findings
    assert [finding for finding in findings if finding.check != "unsent"] == []


def comes_to_rest(shop: Shop, clock: Any) -> None:
    """Let what waits time out."""
    shop.asks("g-reserved", "capture")
    for _ in range(4):
        expire_holds()
        shop.shopper.carrier.run()
        shop.shopper.hears(shop.gateway)
        clock.shift(timedelta(hours=1))
    shop.shopper.carrier.run()


# After so many of the steps the copy is made.
MOMENTS = [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (4, 9, 13, 17, 21, 25))]


@pytest.mark.parametrize("service", ["payments", "processing", "orders"])
@pytest.mark.parametrize("copied_after", MOMENTS)
def test_everything_is_as_it_was_and_goes_on(
    shop: Shop, told: None, service: str, copied_after: int, settings: Any
) -> None:
    with time_machine.travel(timezone.now(), tick=True) as clock:
        shop.before()
        tell(shop)
        steps = shop.steps()
        for step in steps[:copied_after]:
            step()
        clock.shift(timedelta(seconds=10))
        with set_back(service) as moment:
            for step in steps[copied_after:]:
                step()
            expected, orders = picture(ended()), ended()
            assert {order.status for order in Order.objects.filter(pk__in=orders)} == ENDS
            at_gateway = {key: (held.answer, held.refunds) for key, held in shop.gateway.payments.items()}
            clock.shift(timedelta(hours=2))  # every deadline is over, and so is every hold
        facts = tell(shop)
        settings.PROCESSING_SUCCESS_RATE = 0.0  # whoever is asked again is refused
        assert picture(orders) != expected

        counted = recover(service, since=moment, dry_run=True)
        assert picture(orders) != expected
        report = recover(service, since=moment)
        assert report.decisions == []
        assert {what: number for what, number in counted.done.items() if number} == {
            what: number for what, number in report.done.items() if number
        }
        assert report.done[AGAIN]
        assert report.done[REMEMBERED]
        shop.shopper.carrier.run()
        assert difference(picture(orders), expected) == []
        assert dead_letters() == []
        if service == "orders":
            assert_is_as_told(facts)

        settings.PROCESSING_SUCCESS_RATE = 1.0
        again = recover(service, since=moment)
        assert (again.decisions, again.done[AGAIN], again.done[REMEMBERED]) == ([], 0, 0)
        comes_to_rest(shop, clock)
        assert set(ended()) == set(Order.objects.values_list("pk", flat=True))
        assert_all_is_well()
        now = {key: (held.answer, held.refunds) for key, held in shop.gateway.payments.items()}
        assert {key: now[key] for key in at_gateway if at_gateway[key][0].status == AtGateway.SUCCEEDED} == {
            key: value for key, value in at_gateway.items() if value[0].status == AtGateway.SUCCEEDED
        }


def test_a_recovery_that_was_interrupted_is_begun_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with set_back("payments") as moment:
        for name in ("one", "two", "three"):
            shop.by_account(name)
        expected = picture(ended())
    made: list[Told] = []

    def dies_at_the_second(told: Told, now: datetime) -> None:
        if made:
            raise KeyboardInterrupt
        made.append(told)
        charge_again(told, now)

    with monkeypatch.context() as patch:
        patch.setattr(rebuilding, "charge_again", dies_at_the_second)
        patch.setitem(recovery.money.STEPS, dies_at_the_second, "charged")
        with pytest.raises(KeyboardInterrupt):
            recover("payments", since=moment)
    assert Payment.objects.count() == 1
    assert recover("payments", since=moment).decisions == []
    shop.shopper.carrier.run()
    assert difference(picture(ended()), expected) == []
    assert_all_is_well()


def test_money_that_was_deposited_since_is_asked_for_by_name(shop: Shop) -> None:
    with set_back("payments") as moment:
        money.deposit(user_id="ann", principal="shop", amount=500_00, now=timezone.now())
        money.open_account(user_id="bob", principal="shop")
        money.deposit(user_id="bob", principal="shop", amount=40_00, now=timezone.now())
        shop.by_account("first", quantity=20)
        shop.by_account("second", quantity=20)
        shop.place("third", user_id="bob")
        expected = picture(ended())
    said = command(moment, code=1)
    second, third = (Order.objects.get(reference=name).pk for name in ("second", "third"))
    assert (
        f"order {second}: it was paid 400.00 USD from the account of ann, which has 100.00 USD: deposit again" in said
    )
    assert f"order {third}: it was paid from the account of bob, and there is none (no_account): open it again" in said
    shop.shopper.carrier.run()
    assert dead_letters() == []  # their messages wait
    assert Payment.objects.count() == 1

    money.deposit(user_id="ann", principal="shop", amount=500_00, now=timezone.now())
    money.open_account(user_id="bob", principal="shop")
    money.deposit(user_id="bob", principal="shop", amount=40_00, now=timezone.now())
    assert "2  payments charged again" in command(moment)
    shop.shopper.carrier.run()
    assert difference(picture(ended()), expected) == []
    assert_all_is_well()


def test_stock_that_came_in_since_is_asked_for_by_name(shop: Shop) -> None:
    with set_back("processing") as moment:
        now = timezone.now()
        goods.make_product(name="Chair", sku="chair", price=PRICE, stock=9, actor="x", now=now)
        shop.by_account("of-new-product", sku="chair")
        product = Product.objects.get(sku="chair").pk
        expected = picture(ended())
    said = command(moment, service="processing", code=1)
    assert "it had 2 of chair (0 left): receive again what came in since" in said
    assert "product chair: made again from an order, not for sale: see its price and stock" in said
    shop.shopper.carrier.run()
    assert dead_letters() == []
    goods.change_product(product_id=product, stock=9, is_active=True, actor="x", now=now)
    assert "1  holds made again" in command(moment, service="processing")
    shop.shopper.carrier.run()
    assert difference(picture(ended()), expected) == []
    assert_all_is_well()


def test_a_gateway_that_is_silent_is_asked_again(shop: Shop) -> None:
    with set_back("payments") as moment:
        shop.by_gateway("paid")
        shop.pays("paid")
        shop.asks("paid", "refunds", amount=5)
        expected = picture(ended())
    shop.gateway.fault = "down"
    assert "the gateway does not answer (down): run this again" in command(moment, code=1)
    shop.shopper.carrier.run()
    assert not Payment.objects.exists()
    command(moment)
    shop.shopper.carrier.run()
    assert difference(picture(ended()), expected) == []
    assert_all_is_well()


def test_what_contradicts_the_gateway_is_for_a_person(shop: Shop) -> None:
    with set_back("payments") as moment:
        shop.by_gateway("paid")
        shop.pays("paid")
    shop.gateway.payments.clear()
    said = command(moment, code=1)
    assert "orders was told that it is paid, and the gateway says: no such payment. Look it up" in said


@pytest.mark.parametrize(
    ("service", "since", "why"),
    [
        ("payments", timedelta(minutes=1), "is in the future."),
        ("payments", timedelta(days=-8), "Outboxes keep what was sent for 7 days (OUTBOX_RETENTION_DAYS)"),
        ("orders", timedelta(days=-8), "Outboxes keep what was sent for 7 days (OUTBOX_RETENTION_DAYS)"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(service: str, since: timedelta, why: str) -> None:
    with pytest.raises(CommandError) as refused:
        command(timezone.now() + since, service=service)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_it_runs_where_all_services_are(settings: Any) -> None:
    settings.SERVICES_HERE = ("payments",)
    with pytest.raises(CommandError, match="Run it where all services are: orders, processing is not here"):
        command(timezone.now())


def test_an_upgrade_is_finished_first(settings: Any) -> None:
    settings.UPGRADING = True
    with pytest.raises(CommandError, match="Finish the upgrade first"):
        command(timezone.now())


def test_one_recovers_a_service_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "A_MOMENT", "10ms")
    with recovery._alone("payments"):
        with pytest.raises(CommandError, match="Another process is recovering payments: wait until it has ended"):
            command(timezone.now())
        assert command(timezone.now(), service="processing") == "processing has nothing to recover.\n"
    assert command(timezone.now()) == "payments has nothing to recover.\n"


def test_the_session_of_a_recovery_that_was_killed_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "A_MOMENT", "300s")
    with sessions.connect(sessions.of_its_own("payments")) as killed, ThreadPoolExecutor(1) as pool:
        killed.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [recovery.TURN])

        def ends_when_somebody_waits() -> None:
            here = "SELECT oid FROM pg_database WHERE datname = current_database()"
            waits = f"SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = ({here})"
            while not killed.execute(waits).rowcount:
                time.sleep(0.02)
            killed.close()

        ended = pool.submit(ends_when_somebody_waits)
        assert command(timezone.now()) == "payments has nothing to recover.\n"
        ended.result()


def test_where_nothing_is_lost_nothing_is_done(shop: Shop) -> None:
    shop.by_account("a-done")
    for service in ("payments", "processing"):
        assert command(timezone.now(), service=service) == f"{service} has nothing to recover.\n"


def test_the_audit_names_the_command_while_messages_are_forgotten(shop: Shop) -> None:
    with set_back("processing") as moment:
        shop.by_account("a-done")
    found = audit(grace=timedelta(0), settle=timedelta(0)).findings
    assert any("run manage.py recover" in one.repair for one in found)
    counts = {stock.HOLDS: 1, stock.VERDICTS: 1, REMEMBERED: 1, AGAIN: 1}
    assert recover("processing", since=moment, dry_run=True).done == counts
    assert "Nothing was done: that is what would be." in command(moment, "--dry-run", service="processing")
    assert Hold.objects.count() == 0
    assert recover("processing", since=moment).done == counts
    shop.shopper.carrier.run()
    assert_all_is_well()


def command(since: datetime, *options: str, service: str = "payments", code: int = 0) -> str:
    """Run it; what it said."""
    said = StringIO()
    with pytest.raises(SystemExit) if code else nullcontext():
        call_command("recover", "--service", service, "--since", since.isoformat(), *options, stdout=said)
    return said.getvalue()
