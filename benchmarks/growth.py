"""What old orders in the tables cost a new one: `--growth N`."""

from typing import Any

from benchmarks import measurement
from orders_project.tests.running_system import RunningSystem

# Rows for each old order, as an order that is paid from an account leaves them; those of outbox and inbox are as many
# as in the busiest service, and of the newest million orders, as they are deleted in time. One event and one movement
# of stock instead of several: each needs an order or a hold of its own.
ROWS = {
    "orders_order": 1, "orders_orderline": 1, "orders_orderevent": 1, "payments_account": 1, "payments_payment": 1,
    "payments_entry": 1, "processing_product": 1, "processing_hold": 1, "processing_holdline": 1,
    "processing_stockmovement": 1, "processing_processing": 1, "outbox_outgoingmessage": 4, "outbox_incomingmessage": 4,
}  # fmt: skip
KEPT = 1_000_000
LONGEST = 6 * 3600  # seconds
FILL = """
from django.db import connections
from orders_project.database_limits import without_limits_of_statements
from orders_project.tests.many_rows import gather
orders, kept, rows = {orders}, min({orders}, {kept}), {rows}
with without_limits_of_statements(*{services}):
    gather(orders, tables=[table for table, times in rows.items() if times == 1], unfinished=0, long_ids=True)
    for table, times in rows.items():
        if times > 1:
            gather(times * kept, tables=[table], unfinished=0, long_ids=True)
    for service in {services}:
        connections[service].cursor().execute("VACUUM ANALYZE")
"""


def fill(system: RunningSystem, *, orders: int) -> None:
    """Store what so many finished orders would have left."""
    script = FILL.format(orders=orders, kept=KEPT, rows=ROWS, services=measurement.SERVICES)
    system.manage("shell", "-v", "0", "-c", script, timeout=LONGEST)


def measure(system: RunningSystem, *, orders: int, rate: float, seconds: int) -> dict[str, Any]:
    """The same load on the tables as they are, and with so many old orders in them."""
    empty = measurement.measure(system, rate=rate, seconds=seconds)
    fill(system, orders=orders)
    full = measurement.measure(system, rate=rate, seconds=seconds)
    return {"orders": orders, "empty": empty, "full": full, "ratio": cpu(full) / cpu(empty)}


def cpu(load: dict[str, Any]) -> float:
    return sum(load["cpu_per_order"].values())


def lines(found: dict[str, Any]) -> list[str]:
    """These figures as text."""
    empty, full = 1000 * cpu(found["empty"]), 1000 * cpu(found["full"])
    rates = [found[which]["finished_per_second"] for which in ("full", "empty")]
    return [
        f"with {found['orders']:,} old orders: {full:.1f} ms of CPU an order ÷ {empty:.1f} ms without"
        f" = {found['ratio']:.2f}; {rates[0]:.0f} ÷ {rates[1]:.0f} finished a second"
    ]
