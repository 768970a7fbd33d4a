"""What the tests of orders share."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient

from common.principal import Principal


@pytest.fixture
def unlimited(settings: Any) -> None:
    """No limit of orders a minute."""
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0


class Shop:
    """The catalogue, through its API."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def sells(self, sku: str, *, price: float = 39.9, stock: int = 10, is_active: bool = True) -> str:
        """Create a product; return its id."""
        answer = self.client.post(
            "/admin/products",
            {"name": sku.capitalize(), "sku": sku, "price": price, "stock": stock, "is_active": is_active},
            content_type="application/json",
            headers={"X-Admin-Secret": "dev-admin-secret"},
        )
        assert answer.status_code == 201, answer.content
        return str(answer.json()["product_id"])

    def stock(self, product_id: str) -> tuple[int, int]:
        """How many can be bought, and how many are held."""
        product = self.client.get(f"/products/{product_id}").json()
        return product["stock"], product["held"]


@pytest.fixture
def shop(client: Client) -> Shop:
    return Shop(client)


@pytest.fixture
def lamp(shop: Shop) -> str:
    """A lamp for 39.90, with ten in stock; its id."""
    return shop.sells("lamp")


@pytest.fixture
def client_named() -> Callable[[str], APIClient]:
    """A function that returns a test client authenticated as this principal, with all scopes for orders."""

    def client(principal: str) -> APIClient:
        api = APIClient()
        api.force_authenticate(Principal(principal, frozenset({"orders:read", "orders:write"})))  # type: ignore[arg-type]
        return api

    return client
