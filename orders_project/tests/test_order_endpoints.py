"""What the endpoints of orders show while an order passes through all services."""

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from orders import webhook_endpoints, webhooks
from orders.models import WebhookDelivery
from processing import services as stock
from processing.models import Product

pytestmark = pytest.mark.django_db


@pytest.fixture
def lamp() -> Product:
    """A lamp for 39.90, with ten in stock."""
    return stock.make_product(name="Lamp", sku="lamp", price=3990, stock=10, actor="test", now=timezone.now())


def place(client: Client, body: dict[str, Any]) -> Any:
    answer = client.post("/orders", body, content_type="application/json")
    assert answer.status_code == 201, answer.content
    return answer


def test_a_canceled_order_gives_its_stock_back_first(client: Client, lamp: Product, post: Any) -> None:
    item = {"product_id": str(lamp.pk), "quantity": 2}
    path = place(client, {"user_email": "ann@example.com", "items": [item]})["Location"]
    answer = client.post(f"{path}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "voiding")
    lamp.refresh_from_db()
    assert (lamp.available, lamp.held) == (8, 2)
    post.run()
    answer = client.post(f"{path}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    lamp.refresh_from_db()
    assert (lamp.available, lamp.held) == (10, 0)


def test_the_history_shows_what_every_service_did_under_one_correlation_id(client: Client, post: Any) -> None:
    placed = place(client, {"user_id": "poor", "amount": 5})
    post.run()
    events = client.get(f"{placed['Location']}/events").json()["results"]
    assert [(event["version"], event["status"]) for event in events] == [
        (1, "pending"),
        (2, "releasing"),
        (3, "failed"),
    ]
    assert (events[0]["type"], events[1]["type"]) == ("order.created", "payment.failed")
    assert events[1]["fail_reason"] == "no_account"
    assert {event["correlation_id"] for event in events} == {placed["X-Correlation-ID"]}


def test_every_event_of_an_order_becomes_a_webhook(
    client: Client, post: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOKS_ALLOW_LOOPBACK = True
    monkeypatch.setattr(webhooks, "_breakers", {})
    webhook_endpoints.register(url="http://127.0.0.1:1/", actor="root", now=timezone.now())  # where nothing listens
    place(client, {"user_id": "poor", "amount": 5})
    post.run()
    deliveries = WebhookDelivery.objects.order_by("id")
    assert [delivery.type for delivery in deliveries] == [event.type for event in post.facts]
    assert deliveries[0].type == "order.created"
