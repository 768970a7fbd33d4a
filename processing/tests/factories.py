"""Products and holds for tests."""

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from processing import services
from processing.models import Hold, Product


def product(sku: str = "lamp", *, stock: int = 10, price: int = 1000, is_active: bool = True) -> Product:
    """Create a product with its first stock."""
    return services.make_product(
        name=sku.capitalize(), sku=sku, price=price, stock=stock, is_active=is_active, actor="test", now=timezone.now()
    )


def hold(order_id: str, **quantities: int) -> str:
    """Hold these quantities by sku, and return the id of the hold."""
    return hold_at(timezone.now(), order_id, **quantities)


def hold_at(now: datetime, order_id: str, /, **quantities: int) -> str:
    """Hold these quantities by sku at this time, and return the id of the hold."""
    wanted = {str(Product.objects.get(sku=sku).pk): quantity for sku, quantity in quantities.items()}
    return str(services.hold(order_id=order_id, quantities=wanted, now=now))


def when_expired() -> datetime:
    """Return a time when what is held now has expired."""
    return timezone.now() + settings.HOLD_TTL + timedelta(seconds=1)


def counters(sku: str = "lamp") -> tuple[int, int, int]:
    """Return how much of a product is available, held and sold."""
    found = Product.objects.get(sku=sku)
    return found.available, found.held, found.sold


def status(hold_id: str) -> str:
    """Return the status of a hold."""
    return Hold.objects.get(pk=UUID(hold_id)).status
