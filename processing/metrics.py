"""The metrics of processing."""

from outbox.metrics import after_commit, counter

STOCK_HOLDS = counter("stock_holds_total", "Holds of stock: held, insufficient, sold, released.", "result")


def count_hold(result: str) -> None:
    """Count a hold when the transaction commits."""
    after_commit("processing", STOCK_HOLDS.labels(result).inc)
