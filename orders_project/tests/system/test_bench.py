"""The limit that the system is measured against speaks of the tables as they are."""

from typing import Any

import psycopg
import pytest

from benchmarks.limit import copy_tables, limit
from benchmarks.load import PRODUCTS, USERS
from benchmarks.measurement import SEED


@pytest.mark.processes
def test_the_bare_transactions_of_an_order_run_to_its_end(system: Any) -> None:
    system.manage("shell", "-c", SEED.format(users=USERS, products=PRODUCTS))
    assert limit(system, copy_tables(system), how_long=("-t", "2")) > 0
    with psycopg.connect(system.services.postgres.url("limit")) as connection:
        found = connection.execute(
            "SELECT (SELECT count(*) FROM orders_order WHERE customer_id = 'bench' AND status = 'done'),"
            " (SELECT sum(sold) FROM processing_product WHERE sku LIKE 'bench-%'),"
            " (SELECT -sum(balance - 10::bigint ^ 12) / 1000 FROM payments_account WHERE user_id LIKE 'bench-%')"
        ).fetchone()
    assert found == (32, 32, 32)
