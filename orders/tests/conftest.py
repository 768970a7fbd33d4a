"""What the tests of orders share."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient

from common.principal import Caller


@pytest.fixture
def unlimited(settings: Any) -> None:
    """As many orders a minute as a test likes."""
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0


class Shop:
    """The catalogue, reached as everybody reaches it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def sells(self, sku: str, *, price: float = 39.9, stock: int = 10, is_active: bool = True) -> str:
        """Put a product on sale; its id."""
        answer = self.client.post(
            "/admin/products",
            {"name": sku.capitalize(), "sku": sku, "price": price, "stock": stock, "is_active": is_active},
            content_type="application/json",
            headers={"X-Admin-Secret": "dev-admin-secret"},
        )
        assert answer.status_code == 201, answer.content
        return str(answer.json()["product_id"])

    def stock(self, product_id: str) -> tuple[int, int]:
        """How much can be bought, and how much is held."""
        product = self.client.get(f"/products/{product_id}").json()
        return product["stock"], product["held"]


@pytest.fixture
def shop(client: Client) -> Shop:
    return Shop(client)


@pytest.fixture
def lamp(shop: Shop) -> str:
    """The id of a lamp for 39.90, of which there are ten."""
    return shop.sells("lamp")


@pytest.fixture
def caller_named() -> Callable[[str], APIClient]:
    """A client that has shown who it is, and may do what it likes with its own orders."""

    def client(principal: str) -> APIClient:
        api = APIClient()
        api.force_authenticate(Caller(principal, frozenset({"orders:read", "orders:write"})))  # type: ignore[arg-type]
        return api

    return client
