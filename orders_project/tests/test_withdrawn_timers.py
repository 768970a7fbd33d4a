"""
Processes are killed while orders end whose timers are due much later, so that they are withdrawn; then those that were
not come as well. Elsewhere in the tests with real processes, timers are due within a minute, and none is withdrawn.
"""

from collections.abc import Callable

import pytest

from orders_project.embedded.services import Services
from orders_project.tests.chaos.records import ENDS
from orders_project.tests.running_system import RunningSystem

from .under_load import UnderLoad

LONG = {"PAYMENT_TIMEOUT_SECONDS": "900", "PROCESSING_TIMEOUT_SECONDS": "300", "HOLD_TTL_SECONDS": "1200"}
SOME = 6  # orders
ENDED = "SELECT count(*) FROM orders_order WHERE status = ANY(%s)"
PAID = "SELECT count(*) FROM orders_order WHERE status = 'paid'"
ANSWERED = """SELECT count(*) FROM outbox_outgoingmessage WHERE type = 'order.processed' AND published_at IS NOT NULL"""
# Time passes, for the timers of some orders.
PASS = """
UPDATE outbox_outgoingmessage SET due_at = now() WHERE type = 'orders.overdue' AND published_at IS NULL
AND subject IN (SELECT order_id FROM orders_order WHERE status = ANY(%s)) RETURNING message_id
"""
NOT_SENT = "SELECT count(*) FROM outbox_outgoingmessage WHERE message_id = ANY(%s) AND published_at IS NULL"
HANDLED = "SELECT count(*) FROM outbox_incomingmessage WHERE message_id = ANY(%s)"
WITHOUT_TIMER = """
SELECT count(*) FROM orders_order WHERE status = ANY(%s) AND NOT EXISTS (
    SELECT FROM outbox_outgoingmessage WHERE type = 'orders.overdue' AND subject = order_id
)
"""
VERSIONS = "SELECT order_id, version FROM orders_order"

pytestmark = pytest.mark.processes


def test_timers_that_are_withdrawn_leave_nothing_and_others_do_nothing(given: Callable[..., Services]) -> None:
    with UnderLoad(given("timers"), rate=4, settings=LONG) as load:
        system = load.system
        for name in ("orders", "relay", "payments", "processing", "orders"):
            more = ended(system) + SOME
            system.until(lambda more=more: ended(system) >= more)  # type: ignore[misc]
            die(system, name)
        sent = sent_before_their_orders_end(system)
        assert load.findings() == []

        before = system.query("orders", VERSIONS)
        left = time_passes(system, *ENDS)
        system.until(lambda: system.query("orders", HANDLED, [*sent, *left]) == [(len(sent) + len(left),)])
        assert system.query("orders", WITHOUT_TIMER, [*ENDS])[0][0] >= 5 * SOME
        assert sorted(system.query("orders", VERSIONS)) == sorted(before)
        assert load.findings() == []
        system.manage("audit", "--grace", "0", "--settle", "2")


def sent_before_their_orders_end(system: RunningSystem) -> list[object]:
    """
    Have timers of orders sent after the messages that end them, before these are handled; return their ids.

    The relay that sends them and the worker that handles them are killed.
    """
    system.kill("processing")
    system.until(lambda: system.query("orders", PAID)[0][0] >= SOME)
    system.kill("orders")
    answered = system.query("processing", ANSWERED)[0][0]
    system.start("processing")
    system.until(lambda: system.query("processing", ANSWERED)[0][0] >= answered + SOME)
    timers = time_passes(system, "paid")
    die(system, "relay")
    system.until(lambda: system.query("orders", NOT_SENT, timers) == [(0,)])
    more = ended(system) + SOME // 2
    system.start("orders")
    system.until(lambda: ended(system) >= more)
    die(system, "orders")
    return timers


def time_passes(system: RunningSystem, *statuses: str) -> list[object]:
    """Make the timers of orders in these statuses due that wait; return their ids."""
    return [timer for (timer,) in system.query("orders", PASS, [*statuses])]


def die(system: RunningSystem, name: str) -> None:
    system.kill(name)
    system.start(name)


def ended(system: RunningSystem) -> int:
    return int(system.query("orders", ENDED, [*ENDS])[0][0])
