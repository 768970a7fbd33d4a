"""What every answer has in its headers: the id of the request, the version of the API, and what is deprecated."""

from collections.abc import Callable
from datetime import date
from typing import Any

import grpc
import pytest
from django.test import Client

from orders import api, factories
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders_project.contracts import openapi
from orders_project.http import deprecation
from orders_project.http.deprecation import Deprecated

JSON: Any = {"content_type": "application/json"}
ORDER = {"user_id": "ann", "amount": 1}


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


def stumble(*args: object, **kwargs: object) -> None:
    raise RuntimeError


# By what is answered: the status, and a request that is answered so.
ANSWERS: dict[str, tuple[int, Callable[[Client, dict[str, str]], Any]]] = {
    "a list": (200, lambda c, h: c.get("/orders", headers=h)),
    "an order": (201, lambda c, h: c.post("/orders", ORDER, headers=h, **JSON)),
    "a page": (200, lambda c, h: c.get("/orders", headers=h | {"Accept": "text/html"})),
    "not modified": (304, lambda c, h: c.get("/orders/o", headers=h | {"If-None-Match": '"1"'})),
    "a redirection": (302, lambda c, h: c.get("/admin/", headers=h)),
    "not JSON": (400, lambda c, h: c.post("/orders", "{", headers=h, **JSON)),
    "not valid": (400, lambda c, h: c.post("/orders", {}, headers=h, **JSON)),
    "a host of others": (400, lambda c, h: c.get("/orders", headers=h | {"Host": "evil.example"})),
    "no token": (401, lambda c, h: c.get("/orders", headers=h | {"Authorization": "Bearer x"})),
    "a wrong token request": (400, lambda c, h: c.post("/oauth/token", {"grant_type": "x"}, headers=h)),
    "cross site": (403, lambda c, h: c.post("/orders", ORDER, headers=h | {"Origin": "https://evil.example"}, **JSON)),
    "no such path": (404, lambda c, h: c.get("/no/such/path", headers=h)),
    "no such order": (404, lambda c, h: c.get("/orders/nowhere", headers=h)),
    "no such method": (405, lambda c, h: c.delete("/orders", headers=h)),
    "no such method of a plain view": (405, lambda c, h: c.post("/metrics", headers=h)),
    "no such format": (406, lambda c, h: c.get("/orders", headers=h | {"Accept": "image/png"})),
    "a conflict": (409, lambda c, h: c.post("/orders", ORDER | {"order_id": "o"}, headers=h, **JSON)),
    "another version": (412, lambda c, h: c.post("/orders/o/cancel", headers=h | {"If-Match": '"9"'}, **JSON)),
    "too large": (413, lambda c, h: c.post("/orders", "x" * 300_000, headers=h, **JSON)),
    "no such language": (415, lambda c, h: c.post("/orders", "<x/>", content_type="application/xml", headers=h)),
    "too many": (429, lambda c, h: c.post("/orders", ORDER | {"user_email": "a@example.com"}, headers=h, **JSON)),
    "a mistake of ours": (500, lambda c, h: c.get("/orders/stumbles", headers=h)),
    "health": (200, lambda c, h: c.get("/health/live", headers=h)),
    "metrics": (200, lambda c, h: c.get("/metrics", headers=h)),
    "a head": (200, lambda c, h: c.head("/orders", headers=h)),
    "options": (200, lambda c, h: c.options("/orders", headers=h)),
    "a file": (200, lambda c, h: c.get("/static/backoffice/icon.svg", headers=h)),
}


@pytest.mark.django_db
@pytest.mark.parametrize("what", ANSWERS)
def test_every_answer_has_an_id_and_the_version(
    client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    factories.order(order_id="o")
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 1
    client.post("/orders", ORDER | {"user_email": "a@example.com"}, **JSON)
    status, ask = ANSWERS[what]
    if status == 500:
        monkeypatch.setattr(api.OneOrder, "get", stumble)
    for sent, echoed in (
        ({"X-Request-ID": "r-1"}, "r-1"),
        ({"X-Correlation-ID": "c-1"}, "c-1"),
        ({"X-Request-ID": "r-1", "X-Correlation-ID": "c-1"}, "c-1"),
        ({"X-Request-ID": "r-1", "X-Correlation-ID": "no id"}, "r-1"),
        ({"X-Request-ID": "x" * 65}, None),
        ({}, None),
    ):
        answer = ask(client, sent)
        assert answer.status_code == status, answer
        found = {answer["X-Request-ID"], answer["X-Correlation-ID"]}
        assert len(found) == 1
        assert found == {echoed} if echoed else len(found.pop()) == 32
        assert answer["API-Version"] == settings.SPECTACULAR_SETTINGS["VERSION"]
        if answer.get("Content-Type") == "application/problem+json" and status != 304:
            assert answer.json()["correlation_id"] == answer["X-Request-ID"]


def test_every_answer_is_described_with_them() -> None:
    document = openapi.document()
    for path, item in document["paths"].items():
        for operation in item.values():
            for status, response in operation["responses"].items():
                name = response.get("$ref", "").rpartition("/")[2]
                headers = (document["components"]["responses"][name] if name else response)["headers"]
                assert {"X-Request-ID", "X-Correlation-ID", "API-Version"} <= headers.keys(), (path, status)


@pytest.mark.django_db(transaction=True)
class TestOverGrpc:
    @pytest.mark.parametrize("name", ["x-request-id", "x-correlation-id"])
    def test_an_answer_has_the_id_at_both_ends(self, grpc_channel: grpc.Channel, name: str) -> None:
        orders = OrderServiceStub(grpc_channel)
        request = pb.CreateOrderRequest(user_id="ann", amount=1)
        _, call = orders.CreateOrder.with_call(request, metadata=[(name, "mine-1")])
        for metadata in (dict(call.initial_metadata()), dict(call.trailing_metadata())):
            assert (metadata["x-request-id"], metadata["x-correlation-id"]) == ("mine-1", "mine-1")

    def test_so_has_a_refusal(self, grpc_channel: grpc.Channel) -> None:
        orders = OrderServiceStub(grpc_channel)
        for call in (
            lambda: orders.GetOrder(pb.GetOrderRequest(order_id="none"), metadata=[("x-request-id", "mine-2")]),
            lambda: grpc_channel.unary_unary("/orders.v1.OrderService/GetOrder")(
                b"\xff", metadata=[("x-request-id", "mine-2")]
            ),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert dict(refused.value.trailing_metadata())["x-request-id"] == "mine-2"


SINCE, ENDS = date(2026, 11, 28), date(2027, 11, 28)
DATES = {"Deprecation": "@1795824000", "Sunset": "Sun, 28 Nov 2027 00:00:00 GMT"}
TABLE = (
    Deprecated(operation="GET /orders/{order_id}/events", since=SINCE, ends=ENDS, instead="Use `expand=events`."),
    Deprecated(operation="GET /orders", name="user_email", since=SINCE, ends=ENDS, instead="Use `user_id`."),
    Deprecated(operation="POST /orders", name="currency", since=SINCE, ends=ENDS, instead="Leave it out."),
)


@pytest.mark.django_db
class TestWhatIsDeprecated:
    @pytest.fixture(autouse=True)
    def table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(deprecation, "DEPRECATED", TABLE)

    @pytest.mark.parametrize(
        ("ask", "deprecated"),
        [
            (lambda c: c.get("/orders/o/events"), True),
            (lambda c: c.head("/orders/o/events/"), True),
            (lambda c: c.get("/orders/nowhere/events"), True),
            (lambda c: c.post("/orders/o/events"), False),
            (lambda c: c.get("/orders/o"), False),
            (lambda c: c.get("/orders?user_email=a@example.com"), True),
            (lambda c: c.get("/orders?user_id=ann"), False),
            (lambda c: c.post("/orders", ORDER | {"currency": "USD"}, **JSON), True),
            (lambda c: c.post("/orders", ORDER, **JSON), False),
            (lambda c: c.post("/orders", "[" * 100_000, **JSON), False),
        ],
    )
    def test_is_told_to_who_uses_it(self, client: Client, ask: Callable[[Client], Any], deprecated: bool) -> None:
        factories.order(order_id="o")
        answer = ask(client)
        told = {name: answer[name] for name in DATES if name in answer}
        assert told == (DATES if deprecated else {})
        assert ('rel="deprecation"' in answer.get("Link", "")) is deprecated

    def test_works_as_before(self, client: Client) -> None:
        answer = client.post("/orders", ORDER | {"currency": "USD"}, **JSON)
        assert (answer.status_code, answer.json()["currency"]) == (201, "USD")

    def test_is_in_the_description(self) -> None:
        document = openapi.document()
        events = document["paths"]["/orders/{order_id}/events"]["get"]
        assert events["deprecated"] is True
        assert "ends on 2027-11-28. Use `expand=events`." in events["description"]
        orders = document["paths"]["/orders"]
        assert [one["name"] for one in orders["get"]["parameters"] if one.get("deprecated")] == ["user_email"]
        fields = document["components"]["schemas"]["NewOrderRequest"]["properties"]
        assert [name for name, field in fields.items() if field.get("deprecated")] == ["currency"]
        assert not any("deprecated" in operation for operation in orders.values())


def test_nothing_ends_without_half_a_year_s_notice() -> None:
    with pytest.raises(ValueError, match="less than 180 days"):
        Deprecated(operation="GET /orders", since=SINCE, ends=date(2027, 5, 1), instead="")


def test_every_entry_is_an_operation_of_the_api() -> None:
    paths = openapi.document()["paths"]
    for one in deprecation.DEPRECATED:
        method, _, path = one.operation.partition(" ")
        assert method.lower() in paths[path], one
