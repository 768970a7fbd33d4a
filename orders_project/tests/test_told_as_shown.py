"""Events and webhooks tell of an order as the API shows it."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from orders import refunds, transitions, webhook_endpoints
from orders.models import Order, Outgoing, WebhookDelivery
from orders.tests.conftest import Shop, client_named, lamp, shop, unlimited
from orders_project.contracts import asyncapi
from payments.messages import PaymentDisputed, PaymentSucceeded, RefundSucceeded

__all__ = ["client_named", "lamp", "shop", "unlimited"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

OF_EVENTS = {"reference", "total", "refund", "dispute", "captured_amount", "origin"}
DOCUMENT = asyncapi.document()


def shown(client: APIClient) -> dict[str, Any]:
    order: dict[str, Any] = client.get(f"/orders/{Order.objects.get().shown_id}").json()
    return order


def last_event() -> Outgoing:
    event = Outgoing.objects.filter(to="events").order_by("id").last()
    assert event is not None
    schema = {**DOCUMENT["components"]["schemas"]["OrderFact"], "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(event.data)))
    return event


def test_at_every_version(shop: Shop, lamp: str, settings: Any, client_named: Callable[[str], APIClient]) -> None:
    client = client_named("shop")
    settings.WEBHOOKS_ALLOW_LOOPBACK = True
    webhook_endpoints.register(url="http://127.0.0.1:9/", hears_all=True, actor="test", now=timezone.now())
    items = [
        {"sku": "lamp", "quantity": 2, "price": 39.9},
        {"sku": "poem", "quantity": 1, "price": 3},
        {"type": "discount", "name": "Regular customer", "amount": 2.8},
    ]
    body = {"order_id": "ord-1", "user_email": "ann@example.com", "metadata": {"a": "b"}, "items": items}
    assert client.post("/orders", body, format="json").status_code == 201
    order = Order.objects.get()
    now = timezone.now()
    paid = PaymentSucceeded(order_id=order.order_id, payment_id="p")
    back = RefundSucceeded(
        order_id=order.order_id,
        refund_id="01a1fe01-4d49-7bd4-9e70-2e5fa2680929",
        amount=250,
        currency="USD",
        reason="x",
    )
    dispute = PaymentDisputed(
        order_id=order.order_id, dispute_id="d", status="opened", amount=100, currency="USD", reason="fraudulent"
    )
    for step, besides in (
        (lambda: None, {}),
        (lambda: transitions.advance(order_id=order.order_id, event=paid, now=now), {}),
        (lambda: refunds.succeeded(back, now=now), {"refund": 2.5}),
        (lambda: refunds.disputed(dispute, now=now), {"dispute": 1.0}),
    ):
        step()
        event, as_shown = last_event(), shown(client)
        told = event.data
        assert {name: value for name, value in told.items() if name not in OF_EVENTS | {"order_id"}} == {
            name: value for name, value in as_shown.items() if name != "order_id"
        }
        assert (told["order_id"], told["reference"], told["total"]) == (order.order_id, "ord-1", 80_00)
        assert {name: told[name]["amount"] for name in ("refund", "dispute") if name in told} == besides
        sent = json.loads(WebhookDelivery.objects.get(event_id=event.message_id).body)["data"]
        public = {name: value for name, value in told.items() if name not in ("reference", "origin")}
        assert sent == public | {"order_id": "ord-1"}
    assert [line["free_line"] for line in as_shown["items"]] == [False, True, False]


def test_a_column_that_a_later_release_adds_to_lines_is_ignored(client: Client, shop: Shop, lamp: str) -> None:
    body = {"user_email": "ann@example.com", "items": [{"product_id": lamp, "quantity": 1}]}
    assert client.post("/orders", body, content_type="application/json").status_code == 201
    with connections["orders"].cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE orders_orderline ADD COLUMN weight integer")
    order = transitions.lock(Order.objects.get().pk)
    assert [line.sku for line in order.loaded_lines] == ["lamp"]
