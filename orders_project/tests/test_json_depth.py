"""A body of JSON that is nested too deeply is a mistake of its sender, at every endpoint and of every gateway."""

import json
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from common import signing
from common.admin.display import laid_out
from common.circuit_breaker import CircuitBreaker
from common.personal_data import Person, data, encoded
from orders import factories
from orders.models import IdempotencyKey, Order, WebhookEndpoint
from orders_project.contracts import openapi
from outbox.strict_json import MAX_DEPTH
from payments import gateways, services
from payments.gateways.base import BadEvent, GatewayUnavailable
from payments.gateways.http import HttpClient
from payments.models import WebhookReceipt
from processing.models import Product

from .test_parameters import UUID, VALUES, at

pytestmark = pytest.mark.django_db

TOO_DEEP = [MAX_DEPTH + 1, 100, 400, 700, 850, 950, 980, 100_000]
JSON = "application/json"


def in_lists(depth: int) -> str:
    return "[" * depth + "]" * depth


def bodies() -> list[tuple[str, str, str]]:
    """Each field of each request that has a body: its method and path, and its name."""
    described = openapi.document()
    fields = []
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get(JSON, {"schema": {}})["schema"]
            name = content.get("$ref", "").rpartition("/")[2]
            for field in described["components"]["schemas"].get(name, {}).get("properties", ()):
                fields.append((method, path, field))
    return fields


@pytest.fixture
def http() -> Client:
    factories.order(order_id=VALUES["order_id"])
    services.open_account(user_id=VALUES["user_id"])
    WebhookEndpoint.objects.create(id=UUID, url="https://shop.example/", created_at=timezone.now())
    Product.objects.create(product_id=UUID, sku="lamp", name="Lamp", price=1, currency="USD")
    return Client(raise_request_exception=False, headers={"X-Admin-Secret": "dev-admin-secret"})


def test_no_field_of_any_request_may_be_nested_too_deeply(http: Client, settings: Any) -> None:
    fields = bodies()
    assert len(fields) > 30
    for number, (method, path, field) in enumerate(fields):
        for depth in (TOO_DEEP[number % len(TOO_DEEP)], 950, 980):
            body = f'{{"{field}": {in_lists(depth)}}}'
            answer = http.generic(method.upper(), at(path), body, content_type=JSON)
            assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json"), (path, field)
            problem = answer.json()
            assert (problem["code"], "nested more than 32 levels" in problem["detail"]) == ("malformed", True)
    assert (Order.objects.count(), IdempotencyKey.objects.count()) == (1, 0)


@pytest.mark.parametrize("path", ["/orders", "/grpc/orders"])
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
def test_what_is_nested_less_is_refused_for_what_it_is(http: Client, path: str, key: dict[str, str]) -> None:
    """With 32 levels in all."""
    for field in ("payment_method", "capture", "metadata", "items", "user_id", "unknown"):
        body = f'{{"{field}": {in_lists(MAX_DEPTH - 1)}}}'
        answer = http.post(path, body, JSON, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


class TestAWebhook:
    @pytest.mark.parametrize("depth", TOO_DEEP)
    @pytest.mark.parametrize("field", ["fail_reason", "client_secret", "unknown"])
    def test_is_refused_and_not_stored(self, client: Client, settings: Any, field: str, depth: int) -> None:
        told = '{"payment_id": "p", "order_id": "o", "status": "failed", "amount": 1, "currency": "USD", "%s": %s}'
        body = f'{{"type": "payment.failed", "data": {told % (field, in_lists(depth))}}}'.encode()
        headers = signing.sign(
            secrets=settings.PAYMENT_WEBHOOK_SECRETS, message_id="evt_1", timestamp=timezone.now(), body=body
        )
        answer = client.post("/webhooks/payments/fake", body, JSON, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_webhook")
        assert not WebhookReceipt.objects.exists()

    @pytest.mark.parametrize("depth", TOO_DEEP)
    @pytest.mark.parametrize("gateway", gateways.GATEWAYS)
    def test_of_any_gateway_cannot_be_read(self, gateway: str, depth: int) -> None:
        body = f'{{"id": "evt_1", "type": "payment_intent.succeeded", "data": {{"object": {in_lists(depth)}}}}}'
        with pytest.raises(BadEvent):
            gateways.get(gateway).read_webhook(body=body.encode())


@pytest.mark.parametrize("depth", TOO_DEEP)
def test_an_answer_of_a_gateway_is_no_answer(depth: int) -> None:
    http = HttpClient(
        "slow", base_url="http://127.0.0.1:1", timeout=(1, 1), breaker=CircuitBreaker("slow", failures=())
    )
    with pytest.raises(GatewayUnavailable, match="without a JSON object"):
        http._understand(200, f'{{"fail_reason": {in_lists(depth)}}}'.encode())


@pytest.mark.parametrize("depth", TOO_DEEP)
def test_personal_data_in_it_are_erased_as_in_a_text(depth: int) -> None:
    """A dead letter keeps what it was, however it is nested."""
    person = Person(("ann@example.com",))
    body = f'{{"user_email": "ann@example.com", "x": {in_lists(depth)}}}'.encode()
    erased = encoded(data)(body, person)
    assert erased == body.replace(b"ann@example.com", person.pseudonym("ann@example.com").encode())
    assert json.loads(encoded(data)(b'{"user_email": "ann@example.com"}', person)) != {"user_email": "ann@example.com"}


@pytest.mark.parametrize("depth", TOO_DEEP)
def test_a_page_of_the_back_office_shows_it_as_text(depth: int) -> None:
    assert in_lists(depth) in laid_out(in_lists(depth).encode())
