"""
Processes that are frozen, by SIGSTOP, at each of their locks: everybody else goes on.

A child of the test does the real work of its role and stops itself where it would commit. Meanwhile somebody else wants
the same rows. The limits of the sessions are short, so that the test is.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler
from django.utils import timezone

from orders import services as orders
from orders.models import DeadLetter, Order
from orders.models import Outgoing as OrdersOutgoing
from orders_project.database_limits import Limits
from outbox import consumers, retention
from outbox.broker import Outcome
from outbox.ids import uuid7
from outbox.relay import Relay
from outbox.sqlstates import sqlstate_of
from payments import services as money
from payments.messages import Charge
from payments.models import Account, Payment
from payments.models import Outgoing as PaymentsOutgoing
from processing import services as stock
from processing.messages import StockReleased
from processing.models import Hold, Product
from processing.models import Outgoing as ProcessingOutgoing
from processing.tasks import expire_holds

LIMITS = Limits(lock=0.5, statement=60, idle=10, host=60)  # idle: all must be frozen before the first one is ended
GO_ON = 30  # seconds

pytestmark = [
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True),
    # The child uses nothing that other threads of the parent could have locked.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Broker:
    """A publisher that confirms everything, or freezes its process."""

    def __init__(self, *, freezes: bool = False) -> None:
        self.freezes = freezes

    def open(self) -> None:
        pass

    def publish(self, batch: Any) -> Outcome:
        if self.freezes:
            _freeze()
        return Outcome(confirmed=set(range(len(batch))))


def _freeze(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@contextmanager
def frozen(work: Callable[[], Any]) -> Iterator[None]:
    """A child process that does this and is frozen where it would commit."""
    child = os.fork()
    if child == 0:
        try:
            inherited = connections._connections  # type: ignore[attr-defined]
            connections._connections = ConnectionHandler()._connections  # type: ignore[attr-defined]
            BaseDatabaseWrapper.commit = _freeze  # type: ignore[method-assign,assignment]
            work()
        finally:
            os._exit(1 if inherited else 2)  # without any farewell to the parent's servers
    try:
        _, status = os.waitpid(child, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it has ended without being frozen"
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class Other(threading.Thread):
    """Somebody else, who tries again as long as the database says that it cannot do this now."""

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        super().__init__(name=name)
        self.work, self.seconds = work, -1.0
        self.refusals: list[str] = []
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        try:
            while not self.done():
                time.sleep(0.1)
            self.seconds = time.monotonic() - began
        finally:
            connections.close_all()

    def done(self) -> bool:
        """Do the work; whether that has succeeded. What returns false was kept waiting as well."""
        try:
            succeeded = self.work() is not False
        except Error as error:
            self.refusals.append(sqlstate_of(error))
            return False
        if not succeeded:
            self.refusals.append("nothing")
        return succeeded


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def close() -> None:
        for alias in settings.DATABASES:
            connections[alias].close()

    close()
    for alias in settings.DATABASES:
        options = connections[alias].settings_dict["OPTIONS"]
        monkeypatch.setitem(options, "options", LIMITS.of_client()["options"])
    yield
    close()


def envelope_of(message: Any) -> dict[str, Any]:
    with transaction.atomic(using="payments"):
        (row,) = PaymentsOutgoing.post(message)
        row.delete()
    return row.envelope().as_dict()


def place(order_id: str) -> None:
    line = orders.Line(quantity=1, price=500)
    orders.place_order(new=orders.NewOrder(lines=(line,), order_id=order_id, user_id="ann"), now=timezone.now())


def sent() -> bool:
    Relay("orders", Broker()).send_batch(now=timezone.now())  # type: ignore[arg-type]
    return not OrdersOutgoing.objects.filter(published_at=None, due_at__lte=timezone.now()).exists()


def purged(service: str) -> bool:
    return retention.purge(service, now=timezone.now())["published"] > 0


def test_everybody_else_goes_on(short_limits: None) -> None:
    now, long_ago = timezone.now(), timezone.now() - timedelta(days=30)
    lamp, chair = (
        str(stock.make_product(name=sku, sku=sku, price=100, stock=9, actor="test", now=now).pk)
        for sku in ("lamp", "chair")
    )
    stock.hold(order_id="expired", quantities={chair: 1}, now=now - settings.HOLD_TTL)
    stock.hold(order_id="held", quantities={lamp: 1}, now=now)
    for user in ("ann", "bob"):
        money.open_account(user_id=user)
    money.deposit(user_id="ann", amount=9_000, now=now)
    place("canceled")
    charge = Charge(order_id="charged", amount=5, currency="USD", method="account", user_id="ann", principal="")
    raw = json.loads(json.dumps(envelope_of(charge)))
    with transaction.atomic(using="processing"):
        (gone,) = ProcessingOutgoing.post(StockReleased(order_id="old"))
        ProcessingOutgoing.objects.filter(pk=gone.pk).update(id=uuid7(long_ago), published_at=long_ago)
    dead = DeadLetter.of(None, reason="failed", type="x", origin="broker", queue="orders", error="", body=b"")

    def record() -> None:
        with transaction.atomic(using="orders"):
            DeadLetter._base_manager.bulk_create([dead], ignore_conflicts=True)

    # What is done by who is frozen there, and what somebody else wants to do.
    roles: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "web, with stock that is held": (  # none is frozen while it holds stock anew: that is one statement
            lambda: stock.hold(order_id="held", quantities={lamp: 1}, now=now),
            lambda: stock.hold(order_id="held", quantities={lamp: 1}, now=now),
        ),
        "web, with the lock of an order": (
            lambda: orders.cancel_order(order_id="canceled", now=now),
            lambda: orders.cancel_order(order_id="canceled", now=now),
        ),
        "web, with the row of an account": (
            lambda: money.deposit(user_id="bob", amount=5, now=now),
            lambda: money.deposit(user_id="bob", amount=7, now=now),
        ),
        "worker, in a handler": (
            lambda: consumers.receive("payments", raw, headers={}, worker="frozen"),
            lambda: consumers.receive("payments", raw, headers={}, worker="other"),
        ),
        "relay, with a batch": (
            lambda: Relay("orders", Broker(freezes=True)).send_batch(now=timezone.now()),  # type: ignore[arg-type]
            sent,
        ),
        "collector": (record, record),
        "beat, expiring holds": (
            expire_holds,
            lambda: stock.release(order_id="expired", hold_id=str(Hold.objects.get(order_id="expired").pk), now=now),
        ),
        "beat, purging": (lambda: purged("processing"), lambda: purged("processing")),
    }
    with ExitStack() as stack:
        for work, _ in roles.values():
            stack.enter_context(frozen(work))
        others = {role: Other(role, work) for role, (_, work) in roles.items()}
        for other in others.values():
            other.join(GO_ON * 4)
    assert {role: 0 < other.seconds < GO_ON for role, other in others.items()} == dict.fromkeys(roles, True)
    waited = {role for role, other in others.items() if other.refusals}
    assert waited == roles.keys() - {"worker, in a handler"}  # which waits inside
    # Who was frozen has done nothing, and who went on has done it once.
    assert sorted(Hold.objects.values_list("order_id", "status")) == [("expired", "released"), ("held", "held")]
    assert Product.objects.get(pk=lamp).available == 8
    assert Order.objects.get().status == "voiding"
    assert dict(Account.objects.filter(user_id__in=("ann", "bob")).values_list("user_id", "balance")) == {
        "ann": 8_995,
        "bob": 7,
    }
    assert Payment.objects.get().status == "succeeded"
    assert DeadLetter.objects.count() == 1
    assert not ProcessingOutgoing.objects.filter(published_at=long_ago).exists()
