"""Orders to test with."""

from typing import Any

from django.utils import timezone

from . import services
from .models import Order


def order(*, amount: int = 500, user_id: str = "ann", principal: str = "", **asked: Any) -> Order:
    """A stored order of an amount."""
    new = services.NewOrder(
        lines=(services.Line(quantity=1, price=amount),), user_id=user_id, principal=principal, **asked
    )
    return services.place_order(new=new, now=timezone.now(), actor=principal)[0]
