"""What an order leaves behind and moves on its way: bytes, rows, write-ahead log, commits and AMQP messages."""

from typing import Any

from benchmarks.measurement import SERVICES
from orders_project.tests.running_system import RunningSystem

# What retention deletes in time; of all other rows nothing is ever deleted, unless orders are archived.
PASSING = (
    "outbox_outgoingmessage", "outbox_incomingmessage", "outbox_startedmessage", "outbox_deadletter",
    "orders_idempotencykey", "payments_idempotencykey",
)  # fmt: skip
SIZES = """
SELECT pg_class.relname, sum(pg_total_relation_size(relid))::bigint
FROM pg_stat_user_tables JOIN pg_class ON oid = coalesce(pg_partition_root(relid), relid) GROUP BY 1
"""
MOVED = ("wal_bytes", "commits", "messages", "rows")
RECEIVED = (
    "maps:get(messages_received_total, maps:get([{protocol, amqp091}], rabbit_global_counters:overview(), #{}), 0)."
)


def measure(system: RunningSystem) -> dict[str, Any]:
    """
    Vacuum the tables of all services, and return their sizes with what has been counted before and after that.

    Two of these, taken before and after some orders, are what `per_order` needs.
    """
    before = counted(system)
    sizes: dict[str, int] = {}
    for service in SERVICES:
        system.query(service, "VACUUM")
        rows = system.query(service, SIZES)
        sizes |= {f"{service}.{table}": size for table, size in rows}
    return {"sizes": sizes, "before": before, "after": counted(system)}


def counted(system: RunningSystem) -> dict[str, int]:
    """What has been written, committed and published since the servers started."""
    ((wal,),) = system.query("orders", "SELECT (pg_current_wal_lsn() - '0/0')::bigint")
    ((commits,),) = system.query(
        "orders", "SELECT sum(xact_commit)::bigint FROM pg_stat_database WHERE datname = ANY(%s)", list(SERVICES)
    )
    inserted = "SELECT coalesce(sum(n_tup_ins), 0)::bigint FROM pg_stat_user_tables"
    rows = sum(system.query(service, inserted)[0][0] for service in SERVICES)
    rabbitmq = system.services.rabbitmq
    assert rabbitmq is not None
    assert rabbitmq._source is not None
    said = rabbitmq._source.control("eval", RECEIVED)
    assert said.returncode == 0, said.stdout + said.stderr
    return {"wal_bytes": wal, "commits": commits, "messages": int(said.stdout), "rows": rows}


def per_order(before: dict[str, Any], after: dict[str, Any], *, orders: int) -> dict[str, Any]:
    """What each of so many orders took, between these two measurements."""
    grown = {table: (size - before["sizes"].get(table, 0)) / orders for table, size in after["sizes"].items()}
    lasting = {table: size for table, size in grown.items() if table.partition(".")[2] not in PASSING}
    return {
        "bytes": sum(grown.values()),
        "lasting_bytes": sum(lasting.values()),
        "tables": {table: size for table, size in grown.items() if size},
    } | {name: (after["before"][name] - before["after"][name]) / orders for name in MOVED}


def lines(found: dict[str, Any]) -> list[str]:
    """These figures as text."""
    return [
        f"tables an order       {found['bytes']:7.0f} bytes with indexes; {found['lasting_bytes']:.0f} stay for ever",
        f"WAL an order          {found['wal_bytes']:7.0f} bytes, in {found['commits']:.1f} commits",
        f"messages an order     {found['messages']:7.1f} (AMQP), {found['rows']:.1f} rows inserted",
    ]
