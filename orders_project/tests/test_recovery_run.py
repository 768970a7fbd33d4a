"""
One database goes back while the others are ahead, with real servers and processes and under load; then `manage.py
recover` puts things right. What is checked afterwards is what `make chaos` checks, and the audit.
"""

from collections.abc import Callable, Collection, Iterator
from uuid import uuid4

import pytest
import requests

from orders_project.embedded import processes, variable
from orders_project.embedded.services import DATABASES, Services
from orders_project.tests.chaos import checker
from orders_project.tests.chaos.checker import Records
from orders_project.tests.chaos.customers import ADDED, USERS, Customers
from orders_project.tests.chaos.schedule import SERVICES
from orders_project.tests.going_back import Database
from orders_project.tests.running_system import RunningSystem

ENVIRONMENT = {
    "RATE_LIMIT_ORDERS_PER_MINUTE": "0", "FAKE_PAYMENT_SUCCESS_RATE": "0.9", "PROCESSING_SUCCESS_RATE": "0.9",
    "REFUND_APPROVAL_ABOVE": "100000", "HOLD_TTL_SECONDS": "1200",
}  # fmt: skip
SOME = 15  # orders that are accepted before and after the copy is made
SENT = """SELECT message_id FROM outbox_outgoingmessage WHERE "to" = %s AND due_at < now()"""
HANDLED = """
SELECT count(*) FROM unnest(%s::uuid[]) AS asked
WHERE NOT EXISTS (SELECT FROM outbox_incomingmessage WHERE message_id = asked)
  AND NOT EXISTS (SELECT FROM outbox_deadletter WHERE message_id = asked)
"""

pytestmark = pytest.mark.processes


@pytest.fixture
def system(given: Callable[..., Services], request: pytest.FixtureRequest) -> Iterator[RunningSystem]:
    port = processes.free_port()
    environment = ENVIRONMENT | {"FAKE_GATEWAY_URL": f"http://127.0.0.1:{port}"}
    with RunningSystem(environment, given=given(f"recovery_{request.param}")) as standing:
        standing.commands["gateway"] = ["manage.py", "fake_gateway", "--port", str(port)]
        standing.start_all()
        standing.until(lambda: processes.answers(port))
        yield standing


@pytest.mark.parametrize(("system", "service"), [(one, one) for one in SERVICES], indirect=["system"])
def test_a_service_goes_back_under_load_and_everything_ends_well(
    system: RunningSystem, service: str, request: pytest.FixtureRequest
) -> None:
    customers = Customers(system, seed=19, rate=3)
    customers.prepare()
    records = Records(
        {name: system.env[variable(name)] for name in DATABASES},
        gateway=system.env["FAKE_GATEWAY_URL"],
        memory=customers.memory,
    )
    database = Database(system.env[variable(service)])
    customers.start()
    request.addfinalizer(customers.stop)
    system.until(lambda: len(customers.memory.accepted) >= SOME)
    reserved = [order_with_reserved_money(system)]
    moment = database.back_up()
    system.until(lambda: len(customers.memory.accepted) >= 2 * SOME)
    reserved.append(order_with_reserved_money(system))
    customers.stop()
    system.stop("web")
    system.kill(service)
    system.until(lambda: all_is_handled(records, [service], {*SERVICES} - {service}) and all_is_told(records))
    for name in SERVICES:
        if name in system.running:
            system.kill(name)
    database.go_back()

    said = system.manage("recover", "--service", service, "--since", moment.isoformat())
    assert ("orders placed again" if service == "orders" else "messages sent again") in said
    assert "messages that it had sent are known to it again" in said
    system.start_all()
    for amount in customers.memory.deposited:  # what is lost, nobody but the client knows, who may send all of it again
        number = amount - ADDED
        path, headers = f"/accounts/u{number % USERS}/deposit", {"Idempotency-Key": f"in-{number}"}
        sent = requests.post(system.url(path), json={"amount": amount / 100}, headers=headers, timeout=60)
        sent.raise_for_status()
        customers.memory.deposited[amount] = True
    customers.repeat()
    for order_id in reserved:
        requests.post(system.url(f"/orders/{order_id}/capture"), timeout=60).raise_for_status()
    system.until(lambda: records.is_quiet() and all_is_handled(records, SERVICES, SERVICES))
    again = system.manage("recover", "--service", service, "--since", moment.isoformat())
    assert again == f"{service} has nothing to recover.\n"
    assert checker.check(records) == []
    system.manage("audit", "--grace", "0", "--settle", "2")


def all_is_told(records: Records) -> bool:
    """Whether the broker has all events."""
    return not records.ask(
        "orders", "SELECT FROM outbox_outgoingmessage WHERE \"to\" = 'events' AND published_at IS NULL"
    )


def order_with_reserved_money(system: RunningSystem) -> str:
    """Place an order whose money is taken later, and wait until it is reserved."""
    order_id = str(uuid4())
    behaviour = {"order_id": order_id, "outcome": "success"}
    requests.post(f"{system.env['FAKE_GATEWAY_URL']}/behaviour", json=behaviour, timeout=60).raise_for_status()
    order = {"order_id": order_id, "user_id": "u0", "payment_method": "gateway", "amount": 10, "capture": "manual"}
    order["description"] = order_id
    requests.post(system.url("/orders"), json=order, timeout=60).raise_for_status()
    status = "SELECT status FROM orders_order WHERE order_id = %s"
    system.until(lambda: system.query("orders", status, order_id) == [("authorized",)])
    return order_id


def all_is_handled(records: Records, senders: Collection[str], receivers: Collection[str]) -> bool:
    """Whether these services have handled what those have sent them."""
    for receiver in receivers:
        sent = [message for sender in senders for (message,) in records.ask(sender, SENT, receiver)]
        if records.ask(receiver, HANDLED, sent) != [(0,)]:
            return False
    return True
