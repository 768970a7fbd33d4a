"""
What to order to see how things go wrong: totals and products with an outcome of their own.

They mean something only where `TEST_MODE` is on, as in the embedded run. A gateway that takes real money knows none of
them: `payments/gateways/fake.py` alone passes a behaviour on, and only the fake payment service has one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings


@dataclass(frozen=True)
class TestTotal:
    """A total for which the fake payment service behaves like this."""

    __test__ = False  # for pytest

    behaviour: dict[str, Any]
    outcome: str


# The total of an order that is paid through the gateway, in minor units: 90001 is 900.01 USD.
TOTALS: Mapping[int, TestTotal] = {
    900_01: TestTotal({"outcome": "failed"}, "The payment is declined: the order is `canceled`."),
    900_02: TestTotal(
        {"outcome": "success", "delay": 3600},
        "The gateway does not answer for an hour: the order waits in `payment_pending` until its time is over.",
    ),
    900_03: TestTotal(
        {"outcome": "success", "dispute": True}, "The payment succeeds, and the payer's bank disputes all of it."
    ),
    900_04: TestTotal(
        {"outcome": "success", "delay": 5, "refund": "late"},
        "The payment and each refund are `pending` for five seconds.",
    ),
    900_05: TestTotal({"outcome": "success", "refund": "failed"}, "A refund is `pending` at first, and fails."),
    900_06: TestTotal({"outcome": "success", "refuse_return": True}, "Refunds and cancellations are refused."),
}

# Products of the demo data, by sku.
SOLD_OUT = "test-sold-out"
REFUSED = "test-refused"
SKUS: Mapping[str, str] = {
    SOLD_OUT: "The order is refused, because none is left: 409 `insufficient_stock`.",
    REFUSED: "The processor refuses the order: the money goes back, and the order ends as `failed` with"
    " `processing_refused`.",
}


def behaviour_of(total: int) -> dict[str, Any]:
    """How the fake payment service is to treat a payment of this total, in minor units; usually nothing special."""
    return TOTALS[total].behaviour if settings.TEST_MODE and total in TOTALS else {}
