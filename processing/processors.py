"""
The processor decides whether an order is accepted.

It is a callable that takes an order id and returns why it refuses the order, or None if it accepts. The setting
`PROCESSOR` is its dotted path.
"""

import random

from django.conf import settings


def random_success(order_id: str) -> str | None:
    """Accept the order with the probability `PROCESSING_SUCCESS_RATE`."""
    return None if random.random() < settings.PROCESSING_SUCCESS_RATE else "bad_luck"
