"""What databases and gateway say, asked by plain SQL and HTTP."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import psycopg
import requests

from .customers import Memory
from .schedule import SERVICES

ENDS = ("done", "failed", "canceled")


class Records:
    """What databases and gateway say."""

    def __init__(self, urls: Mapping[str, str], *, gateway: str, memory: Memory, log: Path | None = None) -> None:
        """:param log: of PostgreSQL, where nobody else uses the server"""
        self._urls, self._gateway, self.memory, self.log = urls, gateway, memory, log

    def ask(self, service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._urls[service], autocommit=True, connect_timeout=10) as connection:
            return connection.execute(sql, parameters or None).fetchall()

    def booked(self) -> list[dict[str, Any]]:
        """What the gateway has booked."""
        window = {"since": "0", "until": str(time.time() + 7200)}
        answer = requests.get(f"{self._gateway}/transactions", params=window, timeout=60)
        return list(answer.json()["transactions"])

    def open_orders(self) -> list[tuple[str, str]]:
        """The accepted orders that have not ended, with their statuses."""
        found = self.ask("orders", "SELECT order_id, status FROM orders_order WHERE status <> ALL(%s)", list(ENDS))
        return [(order, status) for order, status in found if order in self.memory.accepted]

    def is_quiet(self, *, but: Collection[str] = ()) -> bool:
        """Whether nothing is on its way any more, but for these orders, which wait for a person."""
        waiting = "SELECT 1 FROM outbox_outgoingmessage WHERE published_at IS NULL AND type <> 'orders.overdue' LIMIT 1"
        open_money = "SELECT 1 FROM payments_payment WHERE ask_at IS NOT NULL LIMIT 1"
        open_refunds = "SELECT 1 FROM payments_refund WHERE status IN ('requested', 'pending') LIMIT 1"
        held = "SELECT 1 FROM processing_hold WHERE status = 'held' LIMIT 1"
        asked = [(service, waiting) for service in SERVICES]
        asked += [("payments", open_money), ("payments", open_refunds), ("processing", held)]
        if any(self.ask(service, sql) for service, sql in asked):
            return False
        open_orders = "SELECT 1 FROM orders_order WHERE status <> ALL(%s) AND order_id <> ALL(%s) LIMIT 1"
        return not self.ask("orders", open_orders, list(ENDS), list(but))
