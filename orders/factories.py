"""Orders for tests."""

from typing import Any

from django.utils import timezone

from . import services
from .models import Order


def order(*, amount: int = 500, user_id: str = "ann", principal: str = "", **fields: Any) -> Order:
    """Place an order of an amount."""
    new = services.NewOrder(
        lines=(services.Line(quantity=1, price=amount),), user_id=user_id, principal=principal, **fields
    )
    return services.place_order(new=new, now=timezone.now(), actor=principal)[0]
