"""
An order as a DBOS workflow of four transactional steps; run by peer.py, with a Python that has DBOS.

    python peer_dbos.py URL SECONDS THREADS NAME

So many threads run one workflow after the other for so long, and wait for the end of each. Prints one JSON line: how
many were finished, in how many seconds, with how many CPU-seconds of this process.
"""

import json
import random
import sys
import threading
import time
import uuid
from typing import Any

import sqlalchemy as sa  # type: ignore[import-not-found]
from dbos import DBOS, SQLAlchemyDatasource  # type: ignore[import-not-found]

USERS, PRODUCTS, PRICE = 100, 50, 1000
POOL = 20  # connections for the steps; DBOS has as many for its own tables by default
SCHEMA = """
CREATE TABLE IF NOT EXISTS product (id int PRIMARY KEY, available bigint NOT NULL, held bigint NOT NULL, sold bigint NOT NULL);
CREATE TABLE IF NOT EXISTS account (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
CREATE TABLE IF NOT EXISTS hold (id text PRIMARY KEY, product int NOT NULL, status text NOT NULL, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, account int NOT NULL, status text NOT NULL, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS entry (id text PRIMARY KEY, account int NOT NULL, amount bigint NOT NULL, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS event (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "order" text NOT NULL, type text NOT NULL, at timestamptz NOT NULL DEFAULT now());
INSERT INTO product SELECT n, 1000000000, 0, 0 FROM generate_series(0, 49) AS n ON CONFLICT DO NOTHING;
INSERT INTO account SELECT n, 1000000000000 FROM generate_series(0, 99) AS n ON CONFLICT DO NOTHING;
"""  # noqa: E501
STEPS = {
    "place": (
        "UPDATE product SET available = available - 1, held = held + 1 WHERE id = :product AND available >= 1",
        "INSERT INTO hold (id, product, status) VALUES (:id, :product, 'held')",
        "INSERT INTO orders (id, account, status) VALUES (:id, :account, 'reserved')",
        "INSERT INTO event (\"order\", type) VALUES (:id, 'order.created')",
    ),
    "charge": (
        "UPDATE account SET balance = balance - :amount WHERE id = :account",
        "INSERT INTO entry (id, account, amount) VALUES (:id, :account, :amount)",
    ),
    "pay": (
        "UPDATE orders SET status = 'paid' WHERE id = :id",
        "INSERT INTO event (\"order\", type) VALUES (:id, 'order.paid')",
    ),
    "sell": (
        "UPDATE product SET held = held - 1, sold = sold + 1 WHERE id = :product",
        "UPDATE hold SET status = 'sold' WHERE id = :id",
        "UPDATE orders SET status = 'done' WHERE id = :id",
        "INSERT INTO event (\"order\", type) VALUES (:id, 'order.done')",
    ),
}


def main(url: str, seconds: float, threads: int, name: str) -> None:
    DBOS(config={
        "name": "peer", "system_database_url": url, "log_level": "ERROR", "executor_id": name,
        "application_version": "1",
    })  # fmt: skip
    pool = {"pool_size": POOL, "max_overflow": 0}
    source = SQLAlchemyDatasource.create(url, engine_kwargs=pool)
    with source.engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(1)"))
        connection.execute(sa.text(SCHEMA))

    # Our services commit at this level, too; DBOS's default is SERIALIZABLE.
    @source.transaction(isolation_level="READ COMMITTED")
    def step(what: str, order: dict[str, Any]) -> None:
        for statement in STEPS[what]:
            source.sql_session().execute(sa.text(statement), order)

    @DBOS.workflow()
    def place_order(order: dict[str, Any]) -> None:
        for what in STEPS:
            step(what, order)

    DBOS.launch()
    finished = [0] * threads
    end = 0.0

    def client(number: int) -> None:
        while time.monotonic() < end:
            account, product = random.randrange(USERS), random.randrange(PRODUCTS)
            place_order({"id": str(uuid.uuid4()), "account": account, "product": product, "amount": PRICE})
            finished[number] += 1

    place_order({"id": str(uuid.uuid4()), "account": 0, "product": 0, "amount": PRICE})
    began, cpu = time.monotonic(), time.process_time()
    end = began + seconds
    clients = [threading.Thread(target=client, args=(number,)) for number in range(threads)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    took, spent = time.monotonic() - began, time.process_time() - cpu
    print(json.dumps({"finished": sum(finished), "seconds": took, "cpu": spent}), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
