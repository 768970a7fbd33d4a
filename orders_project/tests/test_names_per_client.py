"""Order ids, user ids, emails and webhook endpoints belong to a client: no other client meets or notices them."""

import json
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client as Http
from django.urls import reverse
from django.utils import timezone

from orders import outbound_http, webhook_endpoints
from orders.grpc import Call, OrderService
from orders.models import IdempotencyKey, Order, WebhookDelivery, WebhookEndpoint
from orders.protos import order_service_pb2 as pb
from orders_project.models import Client
from orders_project.tests.callers import bearer, new_key
from orders_project.tests.test_admin_actions import client_of
from payments.models import Account, Payment

pytestmark = pytest.mark.django_db

SCOPES = ("orders:read", "orders:write", "accounts:read", "accounts:write")
BODY = {"order_id": "ord-1", "user_id": "ann", "amount": 5}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_key(tmp_path_factory.mktemp("keys") / "key.pem")


@pytest.fixture(autouse=True)
def closed(settings: Any, key_file: str) -> None:
    """Clients need a token."""
    settings.API_AUTH, settings.JWT_KEY_FILES = "required", [key_file]


def call(who: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
    sent = json.dumps(body) if body is not None else ""
    return Http().generic(method, path, sent, "application/json", headers=bearer(who, *SCOPES) | headers)


def without_what_differs(answer: Any) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name != "number" and not name.endswith("_at")}


class TestAnOrderId:
    def test_is_answered_as_if_nobody_else_had_it(self) -> None:
        first, second = call("shop", "POST", "/orders", BODY), call("spy", "POST", "/orders", BODY)
        assert (first.status_code, second.status_code) == (201, 201)
        assert without_what_differs(first) == without_what_differs(second)
        assert second["Location"] == "/orders/ord-1"
        assert Order.objects.count() == 2

    def test_is_the_same_order_for_its_client(self) -> None:
        placed = call("shop", "POST", "/orders", BODY)
        assert call("shop", "POST", "/orders", BODY).status_code == 200
        assert call("shop", "POST", "/orders", BODY | {"amount": 6}).json()["code"] == "order_exists"
        assert call("shop", "GET", "/orders/ord-1").json() == placed.json()
        assert len(call("shop", "GET", "/orders/ord-1/events").json()["results"]) == 1
        stored = Order.objects.get()
        assert call("shop", "GET", f"/orders/{stored.pk}").json() == placed.json()

    def test_cancels_the_order_of_its_client_only(self) -> None:
        call("shop", "POST", "/orders", BODY)
        stored = Order.objects.get()
        for order_id in ("ord-1", stored.pk):
            assert call("spy", "POST", f"/orders/{order_id}/cancel").status_code == 404
            assert call("spy", "GET", f"/orders/{order_id}").status_code == 404
        call("spy", "POST", "/orders", BODY)
        canceled = call("spy", "POST", "/orders/ord-1/cancel", None, **{"Idempotency-Key": "k"})
        assert (canceled.status_code, canceled.json()["order_id"]) == (202, "ord-1")
        stored.refresh_from_db()
        assert stored.status == "pending"
        assert IdempotencyKey.objects.get().order_id == Order.objects.get(principal="spy").pk

    def test_of_before_belongs_to_its_client(self) -> None:
        """An order that was placed when order ids were shared by all has the client's id as its key."""
        call("shop", "POST", "/orders", BODY)
        old = Order.objects.get()
        Order.objects.bulk_create([_copy(old, order_id="old-1", reference="", number=None)])
        assert call("shop", "GET", "/orders/old-1").json()["order_id"] == "old-1"
        assert call("shop", "POST", "/orders", BODY | {"order_id": "old-1", "amount": 9}).status_code == 409
        assert call("spy", "POST", "/orders", BODY | {"order_id": "old-1"}).status_code == 201
        assert call("spy", "GET", "/orders/old-1").json()["total_amount"] == 5.0

    def test_is_the_same_over_grpc(self) -> None:
        from common.principal import Principal

        made = []
        for name in ("shop", "spy"):
            principal = Principal(name, frozenset(SCOPES))
            request = pb.CreateOrderRequest(order_id="ord-1", user_id="ann", amount=5)
            made.append(OrderService().CreateOrder(request, Call(principal)))
            found = OrderService().GetOrder(pb.GetOrderRequest(order_id="ord-1"), Call(principal))
            assert found == made[-1]
        assert [order.order_id for order in made] == ["ord-1", "ord-1"]
        assert call("shop", "GET", "/orders/ord-1").json()["version"] == 1

    def test_finds_the_order_of_a_client_for_staff(self) -> None:
        for name in ("shop", "spy"):
            call(name, "POST", "/orders", BODY)
        boss = client_of("manager")
        for order in Order.objects.all():
            assert boss.get(f"/orders/{order.pk}").json()["order_id"] == "ord-1"
        listed = boss.get(reverse("admin:orders_order_changelist"), {"q": "ord-1"}).content.decode()
        assert all(order.pk in listed for order in Order.objects.all())

    def test_of_several_clients_is_not_changed_by_guessing(self) -> None:
        for name in ("shop", "spy"):
            call(name, "POST", "/orders", BODY)
        found = [order.pk for order in Order.objects.order_by("-created_at")]
        boss = client_of("manager")
        assert boss.get("/orders/ord-1").status_code == 200
        for what in ("cancel", "capture", "refunds"):
            answer = boss.post(f"/orders/ord-1/{what}", {"reason": "asked for"}, content_type="application/json")
            assert (answer.status_code, answer.json()["code"]) == (409, "ambiguous_order"), answer.content
            assert answer.json()["order_ids"] == found
            assert all(order_id in answer.json()["detail"] for order_id in found)
        assert set(Order.objects.values_list("status", flat=True)) == {"pending"}
        answer = boss.post(f"/orders/{found[1]}/cancel", {"reason": "asked for"}, content_type="application/json")
        assert answer.status_code == 202, answer.content
        assert {order.pk for order in Order.objects.exclude(status="pending")} == {found[1]}
        assert call("spy", "POST", "/orders/ord-1/cancel").status_code == 202
        assert not Order.objects.filter(status="pending").exists()


def _copy(order: Order, **changes: Any) -> Order:
    fields = {field.attname: getattr(order, field.attname) for field in Order._meta.concrete_fields}
    return Order(**fields | changes)


class TestAUserId:
    def test_is_answered_as_if_nobody_else_had_it(self) -> None:
        answers = [call(name, "POST", "/accounts?user_id=ann") for name in ("shop", "spy", "shop")]
        assert [answer.status_code for answer in answers] == [201, 201, 200]
        assert without_what_differs(answers[0]) == without_what_differs(answers[1])

    def test_names_the_account_that_pays(self, post: Any) -> None:
        for name, amount in (("shop", 9), ("spy", 1)):
            call(name, "POST", "/accounts?user_id=ann")
            assert call(name, "POST", "/accounts/ann/deposit", {"amount": amount}).status_code == 200
            assert call(name, "POST", "/orders", BODY).status_code == 201
        post.run()
        balances = [call(name, "GET", "/accounts/ann/balance").json()["balance"] for name in ("shop", "spy")]
        assert balances == [4.0, 1.0]
        assert [call(name, "GET", "/orders/ord-1").json()["status"] for name in ("shop", "spy")] == ["done", "failed"]
        assert Payment.objects.count() == 2

    def test_of_several_clients_is_not_guessed_for_staff(self) -> None:
        for name in ("shop", "spy"):
            call(name, "POST", "/accounts?user_id=ann")
        call("shop", "POST", "/accounts?user_id=bob")
        boss = client_of("manager")
        assert boss.get("/accounts/ann/balance").json()["code"] == "ambiguous_user"
        assert boss.get("/accounts/bob/balance").json()["user_id"] == "bob"
        assert Account.objects.count() == 3


def test_an_email_is_limited_for_each_client(settings: Any) -> None:
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 2
    body = {"user_email": "ann@example.com", "amount": 5}
    refused = [call("spy", "POST", "/orders", body).status_code for _ in range(4)]
    assert refused == [201, 201, 429, 429]
    assert call("shop", "POST", "/orders", body).status_code == 201


class TestAWebhookEndpoint:
    @pytest.fixture(autouse=True)
    def anywhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbound_http, "check", lambda url: None)

    def register(self, client: str) -> WebhookEndpoint:
        """Register an endpoint for this client, on the page of the back office."""
        where = reverse("admin:orders_webhookendpoint_list_action", args=["register"])
        form = {"once": str(uuid4()), "url": f"https://{uuid4().hex}.example/", "client": client}
        assert client_of("manager", str(uuid4())).post(where, form).status_code == 200
        return WebhookEndpoint.objects.latest("created_at")

    def test_hears_of_the_orders_of_its_client_only(self) -> None:
        for name in ("shop", "spy"):
            Client.objects.create(client_id=name, name=name, scopes="orders:write")
        of_shop, of_spy, of_all = (self.register(name) for name in ("shop", "spy", "*"))
        call("shop", "POST", "/orders", BODY)
        call("shop", "POST", "/orders/ord-1/cancel")
        heard = {
            endpoint.pk: {delivery.type for delivery in endpoint.deliveries.all()}
            for endpoint in WebhookEndpoint.objects.all()
        }
        both = {"order.created", "order.voiding"}
        assert heard == {of_shop.pk: both, of_spy.pk: set(), of_all.pk: both}

    def test_hears_of_an_order_by_the_id_of_its_client(self) -> None:
        webhook_endpoints.register(url="https://shop.example/", principal="shop", actor="root", now=timezone.now())
        call("shop", "POST", "/orders", BODY)
        told = json.loads(WebhookDelivery.objects.get().body)["data"]
        assert (told["order_id"], "reference" in told) == ("ord-1", False)

    def test_is_made_for_a_client_or_for_all_and_says_so(self) -> None:
        where = reverse("admin:orders_webhookendpoint_list_action", args=["register"])
        form = {"once": str(uuid4()), "url": "https://shop.example/"}
        for client in ("", "unknown"):
            assert client_of("manager", str(uuid4())).post(where, form | {"client": client}).status_code == 422
        assert not WebhookEndpoint.objects.exists()
