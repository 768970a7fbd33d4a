"""Clients look after their webhook endpoints by API: theirs alone, and no secret is anywhere but in the answer."""

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient
from standardwebhooks import Webhook

from common.principal import Principal
from orders import outbound_http, webhook_endpoints
from orders.models import IdempotencyKey, WebhookDelivery, WebhookEndpoint
from orders.services import Line, NewOrder, place_order
from orders.webhook_models import WebhookSecret

from .test_webhooks import HIDDEN, Receiver, receiver, resolves, work

__all__ = ["receiver"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

ENDPOINTS = "/webhook-endpoints"
URL = "https://a.example/"
READ, WRITE = "webhooks:read", "webhooks:write"


def client_of(name: str, *scopes: str) -> APIClient:
    client = APIClient()
    client.force_authenticate(Principal(name, frozenset(scopes or (READ, WRITE))))  # type: ignore[arg-type]
    return client


def send(client: APIClient, method: str, path: str, body: Any = None, **headers: str) -> Any:
    return client.generic(method, path, "" if body is None else json.dumps(body), "application/json", headers=headers)


@pytest.fixture
def public(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name has a public address, and nothing else is allowed."""
    settings.WEBHOOKS_ALLOW_LOOPBACK = False
    resolves(monkeypatch, ["93.184.216.34"])


@pytest.fixture
def shop() -> APIClient:
    return client_of("shop")


@pytest.fixture
def made(public: None, shop: APIClient) -> dict[str, Any]:
    """An endpoint of the shop."""
    answer = send(shop, "POST", ENDPOINTS, {"url": "https://shop.example/hook", "events": ["order.paid"]})
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = answer.json()
    return found


def place(order_id: str, principal: str) -> None:
    line = Line(quantity=1, price=500)
    new = NewOrder(lines=(line,), order_id=order_id, user_id="ann", principal=principal)
    place_order(new=new, now=timezone.now())


class TestRegistering:
    def test_shows_the_secret_this_once(self, shop: APIClient, made: dict[str, Any]) -> None:
        assert made.pop("secret").startswith("whsec_")
        assert made == send(shop, "GET", f"{ENDPOINTS}/{made['endpoint_id']}").json()
        assert send(shop, "GET", ENDPOINTS).json() == {"results": [made], "next": None}
        assert (made["url"], made["events"], made["is_active"], made["disabled_because"]) == (
            "https://shop.example/hook", ["order.paid"], True, None,
        )  # fmt: skip

    def test_tells_all_mistakes_at_once_and_near_names(self, public: None, shop: APIClient) -> None:
        body = {"url": "http://shop.example/", "events": ["order.payed", "x"], "description": "a\nb", "uri": "y"}
        answer = send(shop, "POST", ENDPOINTS, body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
        errors = answer.json()["errors"]
        assert set(errors) == {"url", "events[0]", "events[1]", "description", "uri"}
        assert "order.paid" in errors["events[0]"][0]
        assert "/event-types" in errors["events[1]"][0]
        assert not WebhookEndpoint.objects.exists()

    @pytest.mark.parametrize(
        "body",
        [[], "x", None, {"url": 5}, {"url": None}, {"url": ["https://a.example/"]}, {"url": URL + "x" * 500},
         {"url": URL, "events": "order.paid"}, {"url": URL, "events": [1, {}]}, {"url": URL, "events": {"0": "x"}},
         {"url": URL, "events": ["order.paid"] * 51}, {"url": URL, "hears_all": True}, {"url": URL, "principal": "o"}],
    )  # fmt: skip
    def test_takes_nothing_of_another_form(self, public: None, shop: APIClient, body: Any) -> None:
        answer = send(shop, "POST", ENDPOINTS, body)
        assert answer.status_code == 400
        assert answer.json()["errors"] or answer.json()["detail"]
        assert not WebhookEndpoint.objects.exists()

    def test_of_a_hidden_address_is_refused_as_if_there_were_none(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch, shop: APIClient
    ) -> None:
        """Nobody learns from the answer which names our own network has."""
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        told = set()
        for addresses in [[address] for address in HIDDEN] + [["93.184.216.34", "10.0.0.1"], []]:
            resolves(monkeypatch, addresses)
            answer = send(shop, "POST", ENDPOINTS, {"url": "https://db.internal.example/"})
            told.add((answer.status_code, *answer.json()["errors"]["url"]))
        assert told == {(400, "db.internal.example has no public address.")}
        assert not WebhookEndpoint.objects.exists()

    def test_is_not_possible_during_an_upgrade(self, settings: Any, public: None, shop: APIClient) -> None:
        """The release before would send it the orders of all clients."""
        settings.UPGRADING = True
        answer = send(shop, "POST", ENDPOINTS, {"url": "https://shop.example/"})
        assert (answer.status_code, answer.json()["code"]) == (503, "not_during_upgrade")

    def test_works_where_the_api_is_open(self, public: None) -> None:
        made = send(APIClient(), "POST", ENDPOINTS, {"url": "https://a.example/"})
        assert made.status_code == 201
        endpoint = WebhookEndpoint.objects.get()
        assert (endpoint.principal, endpoint.hears_all) == ("", False)
        assert len(send(APIClient(), "GET", ENDPOINTS).json()["results"]) == 1

    def test_is_possible_on_its_page(self, public: None) -> None:
        page = APIClient().get(ENDPOINTS, headers={"Accept": "text/html"})
        assert 'name="url"' in page.content.decode()
        form = {"url": "https://a.example/", "events": "order.paid, order.done", "description": ""}
        headers = {"Accept": "text/html", "Origin": "http://testserver"}
        sent = APIClient().post(ENDPOINTS, form, format="multipart", headers=headers)
        assert sent.status_code == 201, sent.content
        assert WebhookEndpoint.objects.get().events == ["order.done", "order.paid"]
        for path in ("", "/deliveries", "/ping", "/rotate"):
            page = APIClient().get(
                f"{ENDPOINTS}/{WebhookEndpoint.objects.get().pk}{path}", headers={"Accept": "text/html"}
            )
            assert page.status_code == 200, path


class TestTheSecret:
    def test_is_in_no_stored_answer_no_table_and_no_log(
        self, public: None, shop: APIClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        body = {"url": "https://shop.example/"}
        first, again = (send(shop, "POST", ENDPOINTS, body, **{"Idempotency-Key": "k"}) for _ in range(2))
        assert (first.status_code, again.status_code, again["Idempotency-Replayed"]) == (201, 201, "true")
        assert again.json() == first.json() | {"secret": None}
        assert first["Cache-Control"] == again["Cache-Control"] == "no-store"
        path = f"{ENDPOINTS}/{first.json()['endpoint_id']}/rotate"
        turned, same = (send(shop, "POST", path, **{"Idempotency-Key": "r"}) for _ in range(2))
        assert same.json()["secret"] is None
        secrets = [first.json()["secret"], turned.json()["secret"]]
        assert len(set(secrets)) == 2
        assert WebhookSecret.objects.count() == 2  # the replayed requests have made no others
        assert IdempotencyKey.objects.count() == 2
        for table in connections["orders"].introspection.table_names():
            with connections["orders"].cursor() as cursor:
                cursor.execute(f'SELECT t::text FROM "{table}" t')
                rows = "\n".join(row[0] for row in cursor.fetchall())
            assert not [secret for secret in secrets if secret.removeprefix("whsec_") in rows], table
        assert not [secret for secret in secrets if secret.removeprefix("whsec_") in caplog.text]

    def test_is_erased_with_its_endpoint(self, shop: APIClient, made: dict[str, Any]) -> None:
        place("o", "shop")
        path = f"{ENDPOINTS}/{made['endpoint_id']}"
        assert send(shop, "DELETE", path).status_code == 204
        assert not WebhookSecret.objects.exists()
        assert WebhookEndpoint.objects.get().deleted_at is not None  # staff see it, and what was sent to it
        for method, more in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/ping")):
            assert send(shop, method, path + more, {"is_active": True}).status_code == 404
        assert send(shop, "GET", ENDPOINTS).json()["results"] == []
        with pytest.raises(webhook_endpoints.NoSuchEndpoint):
            webhook_endpoints.switch(endpoint_id=made["endpoint_id"], on=True)


class TestAnotherClient:
    def test_finds_nothing(self, made: dict[str, Any]) -> None:
        endpoint = WebhookEndpoint.objects.get()
        delivery = WebhookDelivery.objects.create(
            endpoint=endpoint, event_id=uuid4(), type="order.paid", order_id="o", body='{"data": {}}',
            created_at=timezone.now(),
        )  # fmt: skip
        before, secrets = WebhookEndpoint.objects.values().get(), WebhookSecret.objects.count()
        spy, missing = client_of("spy"), str(uuid4())
        for method, more in (
            ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/ping"), ("GET", "/deliveries"),
            ("POST", f"/deliveries/{delivery.pk}/resend"),
        ):  # fmt: skip
            body = {"url": "https://spy.example/"} if method == "PATCH" else None
            answers = [
                send(spy, method, f"{ENDPOINTS}/{endpoint_id}{more}", body)
                for endpoint_id in (made["endpoint_id"], missing)
            ]
            assert [answer.status_code for answer in answers] == [404, 404], (method, more)
            told = [answer.json() | {"correlation_id": ""} for answer in answers]
            assert told[0] == told[1], "another's must look like nobody's"
        assert send(spy, "GET", ENDPOINTS).json()["results"] == []
        assert WebhookEndpoint.objects.values().get() == before
        assert (WebhookSecret.objects.count(), WebhookDelivery.objects.get().tries) == (secrets, 0)

    def test_does_not_reach_a_delivery_by_an_endpoint_of_its_own(self, public: None, made: dict[str, Any]) -> None:
        delivery = WebhookDelivery.objects.create(
            endpoint=WebhookEndpoint.objects.get(), event_id=uuid4(), type="order.paid", order_id="o",
            body='{"data": {}}', created_at=timezone.now(), status="delivered",
        )  # fmt: skip
        spy = client_of("spy")
        own = send(spy, "POST", ENDPOINTS, {"url": "https://spy.example/"}).json()["endpoint_id"]
        answer = send(spy, "POST", f"{ENDPOINTS}/{own}/deliveries/{delivery.pk}/resend")
        assert (answer.status_code, answer.json()["code"]) == (404, "delivery_not_found")
        delivery.refresh_from_db()
        assert delivery.status == "delivered"

    def test_is_not_heard_of(self, public: None, shop: APIClient) -> None:
        send(shop, "POST", ENDPOINTS, {"url": "https://shop.example/"})
        for principal in ("shop", "spy", ""):
            place(f"of-{principal}", principal)
        assert [json.loads(one.body)["data"]["order_id"] for one in WebhookDelivery.objects.all()] == ["of-shop"]

    @pytest.mark.parametrize("scopes", [("orders:read", "orders:write"), (READ,)])
    def test_without_the_scope_changes_nothing(self, made: dict[str, Any], scopes: tuple[str, ...]) -> None:
        client = client_of("shop", *scopes)
        path = f"{ENDPOINTS}/{made['endpoint_id']}"
        for method, where in (
            ("POST", ENDPOINTS), ("PATCH", path), ("DELETE", path), ("POST", path + "/rotate"),
            ("POST", path + "/ping"),
            ("POST", f"{path}/deliveries/{uuid4()}/resend"),
        ):  # fmt: skip
            assert send(client, method, where, {"url": "https://a.example/"}).status_code == 403, where
        for where in (ENDPOINTS, path, path + "/deliveries"):
            assert send(client, "GET", where).status_code == (200 if READ in scopes else 403)


class TestChanging:
    def test_what_is_named(self, shop: APIClient, made: dict[str, Any]) -> None:
        path = f"{ENDPOINTS}/{made['endpoint_id']}"
        changes = {"url": "https://new.example/", "events": [], "description": "Warehouse", "is_active": False}
        for name, value in changes.items():
            answer = send(shop, "PATCH", path, {name: value})
            assert (answer.status_code, answer.json()[name]) == (200, value)
        assert send(shop, "GET", path).json() == {
            **{name: value for name, value in made.items() if name != "secret"}, **changes,
        }  # fmt: skip
        nothing, unknown = send(shop, "PATCH", path, {}), send(shop, "PATCH", path, {"events": ["order.pad"]})
        assert (nothing.status_code, unknown.status_code) == (400, 400)

    def test_is_refused_for_another_version(self, shop: APIClient, made: dict[str, Any]) -> None:
        path = f"{ENDPOINTS}/{made['endpoint_id']}"
        seen = send(shop, "GET", path)["ETag"]
        moved = send(shop, "PATCH", path, {"description": "a"}, **{"If-Match": seen})
        assert (moved.status_code, moved["ETag"] == seen) == (200, False)
        for method in ("PATCH", "DELETE"):
            stale = send(shop, method, path, {"description": "b"}, **{"If-Match": seen})
            assert (stale.status_code, stale.json()["code"]) == (412, "version_conflict")
        assert WebhookEndpoint.objects.get().description == "a"
        assert send(shop, "DELETE", path, **{"If-Match": moved["ETag"]}).status_code == 204

    def test_to_a_hidden_address_is_refused(
        self, shop: APIClient, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolves(monkeypatch, ["169.254.169.254"])
        answer = send(shop, "PATCH", f"{ENDPOINTS}/{made['endpoint_id']}", {"url": "https://metadata.example/"})
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["url"])
        assert WebhookEndpoint.objects.get().url == made["url"]


class TestTheLookUp:
    """A client chooses who answers for the name of its host, and when."""

    NEW: ClassVar = {"url": "https://new.example/"}

    @pytest.fixture
    def asked(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
        """The hosts that were looked up, each with the databases that had a transaction open meanwhile."""
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        asked: list[tuple[str, list[str]]] = []

        def look_up(host: str, port: int, done: Callable[[], None]) -> Any:
            done()
            busy = [one.alias for one in connections.all(initialized_only=True) if one.in_atomic_block]
            asked.append((host, busy))
            return [(2, 1, 6, "", ("93.184.216.34", port))]

        monkeypatch.setattr(outbound_http, "_look_up", look_up)
        return asked

    @pytest.mark.django_db(transaction=True)
    def test_is_one_a_request_and_in_no_transaction(self, shop: APIClient, asked: list[tuple[str, list[str]]]) -> None:
        made = send(shop, "POST", ENDPOINTS, {"url": "https://first.example/"}).json()
        path = f"{ENDPOINTS}/{made['endpoint_id']}"
        for _ in range(2):
            send(shop, "POST", ENDPOINTS, {"url": "https://second.example/"}, **{"Idempotency-Key": "k"})
        reused = send(shop, "POST", ENDPOINTS, {"url": "https://other.example/"}, **{"Idempotency-Key": "k"})
        assert (reused.status_code, reused.json()["code"]) == (409, "idempotency_key_reused")
        assert send(shop, "PATCH", path, {"url": "https://third.example/"}).status_code == 200
        assert send(shop, "PATCH", path, {"description": "Till"}).status_code == 200
        for wrong in ({"url": "http://shop.example/"}, {"url": "https://wrong.example/", "events": ["order.pad"]}):
            assert send(shop, "POST", ENDPOINTS, wrong).status_code == 400
        assert asked == [(f"{name}.example", []) for name in ("first", "second", "third")]

    @pytest.mark.django_db(transaction=True)
    def test_is_in_no_transaction_of_the_back_office(
        self, admin_client: Client, asked: list[tuple[str, list[str]]]
    ) -> None:
        def do(path: str, **values: str) -> int:
            return admin_client.post(
                f"/admin/orders/webhookendpoint/{path}/", {"once": str(uuid4()), **values}
            ).status_code

        assert do("do/register", url="https://first.example/", client="*") == 200
        assert do(f"{WebhookEndpoint.objects.get().pk}/do/edit", url="https://second.example/") == 302
        assert asked == [("first.example", []), ("second.example", [])]

    def test_that_finds_no_free_place_is_answered_with_503(
        self, made: dict[str, Any], shop: APIClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, key = f"{ENDPOINTS}/{made['endpoint_id']}", {"Idempotency-Key": "k"}
        first = send(shop, "POST", ENDPOINTS, {"url": URL}, **key)
        monkeypatch.setattr(outbound_http, "_checks", threading.BoundedSemaphore(1))
        outbound_http._checks.acquire()
        for refused in (
            send(shop, "POST", ENDPOINTS, self.NEW),
            send(shop, "POST", ENDPOINTS, self.NEW, **{"Idempotency-Key": "new"}),
            send(shop, "PATCH", path, self.NEW),
        ):
            assert (refused.status_code, refused["Retry-After"]) == (503, "3")
            assert refused["Content-Type"] == "application/problem+json"
            assert (refused.json()["code"], refused.json()["retry_after"]) == ("unavailable", 3)
        assert set(WebhookEndpoint.objects.values_list("url", flat=True)) == {made["url"], URL}
        again = send(shop, "POST", ENDPOINTS, {"url": URL}, **key)
        assert (again.status_code, again.json()) == (201, first.json() | {"secret": None})
        assert send(shop, "PATCH", path, {"description": "Till"}).status_code == 200
        outbound_http._checks.release()
        assert send(shop, "POST", ENDPOINTS, self.NEW, **{"Idempotency-Key": "new"}).status_code == 201
        assert send(shop, "PATCH", path, self.NEW).status_code == 200


def test_changes_count_against_the_limits_like_registering(
    shop: APIClient, made: dict[str, Any], settings: Any
) -> None:
    settings.RATE_LIMIT_CLIENT_PER_MINUTE = 3
    path = f"{ENDPOINTS}/{made['endpoint_id']}"
    answers = [send(shop, "PATCH", path, {"description": "Till"}) for _ in range(2)]
    answers += [send(shop, method, path, {"url": URL}) for method in ("DELETE", "PATCH", "DELETE")]
    assert [answer.status_code for answer in answers] == [200, 200, 204, 429, 429]
    assert ['"client";r=2' in answers[0]["RateLimit"], answers[3].json()["code"]] == [True, "rate_limited"]


@pytest.mark.django_db(transaction=True)
def test_a_hundred_at_once_get_no_more_endpoints_than_one_client_may_have(
    public: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound_http, "_checks", threading.BoundedSemaphore(100))
    settings.WEBHOOK_MAX_ENDPOINTS = 5
    send(client_of("other"), "POST", ENDPOINTS, {"url": "https://other.example/"})

    def register(number: int) -> tuple[int, str]:
        try:
            answer = send(client_of("shop"), "POST", ENDPOINTS, {"url": f"https://shop.example/{number}"})
            return answer.status_code, answer.json().get("code", "")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(register, range(100)))
    assert answers.count((201, "")) == 5
    assert answers.count((409, "too_many_endpoints")) == 95
    assert WebhookEndpoint.objects.filter(principal="shop").count() == 5
    shop = client_of("shop")
    (first, *_) = send(shop, "GET", ENDPOINTS).json()["results"]
    send(shop, "DELETE", f"{ENDPOINTS}/{first['endpoint_id']}")
    assert register(100)[0] == 201


class TestDeliveries:
    def test_of_a_ping_an_event_and_a_resend_arrive_signed(
        self, receiver: Receiver, shop: APIClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = send(shop, "POST", ENDPOINTS, {"url": receiver.url, "events": ["order.created"]}).json()
        path = f"{ENDPOINTS}/{made['endpoint_id']}"
        receiver.answers = [(204, {}), (500, {})]
        pinged = send(shop, "POST", f"{path}/ping")
        assert (pinged.status_code, pinged.json()["type"], pinged.json()["order_id"]) == (202, "ping", None)
        place("mine", "shop")
        place("not-mine", "spy")
        work()
        event, ping = send(shop, "GET", f"{path}/deliveries").json()["results"]
        assert (ping["status"], ping["attempts"][0]["status_code"], ping["attempts"][0]["error"]) == (
            "delivered", 204, None,
        )  # fmt: skip
        assert (event["type"], event["order_id"], event["status"]) == ("order.created", "mine", "pending")
        assert event["attempts"][0]["error"] == "The endpoint answered with 500."
        assert event["next_attempt_at"] is not None
        assert event["attempts"][0]["seconds"] >= 0
        pending = send(shop, "GET", f"{path}/deliveries?status=pending").json()["results"]
        assert [one["delivery_id"] for one in pending] == [event["delivery_id"]]
        where = f"{path}/deliveries/{event['delivery_id']}/resend"
        again = [send(shop, "POST", where, **{"Idempotency-Key": "again"}) for _ in range(2)]
        assert [one.status_code for one in again] == [202, 202]
        work()
        assert len(receiver.requests) == 3
        for headers, body in receiver.requests:
            assert json.loads(body) == Webhook(made["secret"]).verify(body, headers)
        types = [json.loads(body)["type"] for _, body in receiver.requests]
        assert types == ["ping", "order.created", "order.created"]
        assert send(shop, "GET", f"{path}/deliveries?limit=1").json()["results"][0]["status"] == "delivered"

    def test_go_to_the_new_address_at_once(self, receiver: Receiver, shop: APIClient) -> None:
        """Though the old one did not answer, and is left alone for a while."""
        made = send(shop, "POST", ENDPOINTS, {"url": "http://127.0.0.1:1/"}).json()
        path = f"{ENDPOINTS}/{made['endpoint_id']}"
        for _ in range(4):
            send(shop, "POST", f"{path}/ping")
        work()
        newest = send(shop, "GET", f"{path}/deliveries").json()["results"]
        assert [len(one["attempts"]) for one in newest] == [0, 1, 1, 1]
        assert "public address" in newest[1]["attempts"][0]["error"]
        send(shop, "PATCH", path, {"url": receiver.url})
        send(shop, "POST", f"{path}/deliveries/{newest[0]['delivery_id']}/resend")
        work()
        assert len(receiver.requests) == 1

    def test_stop_when_the_endpoint_is_off_or_deleted(self, receiver: Receiver, shop: APIClient) -> None:
        made = send(shop, "POST", ENDPOINTS, {"url": receiver.url}).json()
        path = f"{ENDPOINTS}/{made['endpoint_id']}"
        send(shop, "POST", f"{path}/ping")
        send(shop, "PATCH", path, {"is_active": False})
        refused = send(shop, "POST", f"{path}/ping")
        assert (refused.status_code, refused.json()["code"]) == (409, "endpoint_off")
        send(shop, "PATCH", path, {"is_active": True})
        send(shop, "DELETE", path)
        work()
        assert receiver.requests == []
        assert WebhookDelivery.objects.get().status == "failed"


def test_staff_edit_try_and_delete_an_endpoint_by_the_same_rules(
    made: dict[str, Any], admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def do(action: str, **values: Any) -> Any:
        form = {"once": str(uuid4()), **values}
        return admin_client.post(f"/admin/orders/webhookendpoint/{made['endpoint_id']}/do/{action}/", form)

    asked = admin_client.get(f"/admin/orders/webhookendpoint/{made['endpoint_id']}/do/edit/").content.decode()
    assert made["url"] in asked
    new = {"url": "https://new.example/", "events": ["order.done"], "description": "Till"}
    assert do("edit", **new).status_code == 302
    endpoint = WebhookEndpoint.objects.get()
    assert {name: getattr(endpoint, name) for name in new} == new
    assert do("ping").status_code == 302
    assert WebhookDelivery.objects.get().type == "ping"
    shown = do("rotate").content.decode()
    assert 'data-copies="secret"' in shown
    resolves(monkeypatch, ["10.0.0.1"])
    assert do("edit", **new | {"url": "https://inside.example/"}).status_code == 422
    assert do("delete").status_code == 302
    endpoint.refresh_from_db()
    assert (endpoint.is_active, endpoint.url, WebhookSecret.objects.count()) == (False, "https://new.example/", 0)
    assert (
        admin_client.get(f"/admin/orders/webhookdelivery/{WebhookDelivery.objects.get().pk}/change/").status_code == 200
    )
