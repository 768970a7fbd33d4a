"""A deploy makes columns longer, of which sessions have prepared statements: nobody notices."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

pytestmark = [pytest.mark.processes]

OFTEN = 30  # more often than it takes until each session has prepared what it runs
COLUMNS = (
    ("orders", "orders_order", "user_email"),
    ("orders", "orders_orderline", "sku"),
    ("orders", "outbox_outgoingmessage", "type"),
    ("payments", "payments_account", "user_id"),
    ("payments", "outbox_outgoingmessage", "type"),
    ("processing", "processing_product", "name"),
    ("processing", "processing_processing", "reason"),
)
LENGTH = """
SELECT character_maximum_length FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = %s AND column_name = %s
"""


@pytest.fixture
def lengths(everything: Any) -> Iterator[dict[tuple[str, str, str], int]]:
    """The lengths of the columns, which they have again afterwards."""
    found = {column: everything.query(column[0], LENGTH, *column[1:])[0][0] for column in COLUMNS}
    yield found
    lengthen(everything, found, by=0)


def lengthen(system: Any, lengths: dict[tuple[str, str, str], int], *, by: int) -> None:
    for (service, table, column), length in lengths.items():
        system.query(service, f"ALTER TABLE {table} ALTER {column} TYPE varchar({length + by})")


def test_longer_columns_stop_nobody(everything: Any, lengths: dict[tuple[str, str, str], int]) -> None:
    system = everything
    user = {"user_id": "long", "items": [{"sku": "long", "quantity": 1, "price": 5.0}]}
    secret = {"X-Admin-Secret": "dev-admin-secret"}
    product = {"sku": "long", "name": "long", "price": 5, "stock": 1000}
    assert requests.post(system.url("/admin/products"), json=product, headers=secret, timeout=60).ok
    assert requests.post(system.url("/accounts?user_id=long"), timeout=60).ok
    assert requests.post(system.url("/accounts/long/deposit"), json={"amount": 10_000}, timeout=60).ok

    def place(number: int) -> int:
        body = user | {"order_id": f"long-{number}"}
        return requests.post(system.url("/orders"), json=body, timeout=60).status_code

    def all_done() -> bool:
        open_ones = "SELECT count(*) FROM orders_order WHERE user_id = %s AND status <> 'done'"
        return bool(system.query("orders", open_ones, "long") == [(0,)])

    assert [place(number) for number in range(OFTEN)] == [201] * OFTEN
    assert [place(0) for _ in range(OFTEN)] == [200] * OFTEN  # each time the stored order is read
    system.until(all_done)

    lengthen(system, lengths, by=20)
    assert [place(0) for _ in range(OFTEN)] == [200] * OFTEN
    assert [place(number) for number in range(OFTEN, 2 * OFTEN)] == [201] * OFTEN
    system.until(all_done)
