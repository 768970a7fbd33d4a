"""
The processor is a port: a callable that takes an order id and says why it refuses the order, or None if it accepts.

`PROCESSOR` names it by its dotted path.
"""

import random

from django.conf import settings


def random_success(order_id: str) -> str | None:
    """The seeds' processor: accepts with `PROCESSING_SUCCESS_RATE`."""
    return None if random.random() < settings.PROCESSING_SUCCESS_RATE else "bad_luck"
