"""The gateway from HTTP to gRPC looks at no body before it knows whose it is, and whether it may be sent."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from common import client_limits, near
from orders.grpc import COUNTED
from orders.models import Order
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders_project.http.parsers import JSONParser
from orders_project.tests.callers import bearer, new_key

pytestmark = pytest.mark.django_db(transaction=True)

ORDER = {"user_id": "ann", "user_email": "ann@example.com", "amount": 1}


@pytest.fixture
def http(grpc_channel: Any, settings: Any) -> Client:
    settings.ORDER_SERVICE_GRPC = grpc_channel.target
    return Client(raise_request_exception=False)


@pytest.fixture
def required(settings: Any, tmp_path: Any) -> None:
    settings.API_AUTH = "required"
    settings.JWT_KEY_FILES = [new_key(tmp_path / "key.pem")]


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No body is read."""
    parse = Mock(return_value={})
    monkeypatch.setattr(JSONParser, "parse", parse)
    yield
    assert parse.call_count == 0


def place(http: Client, body: Any = ORDER, **headers: str) -> Any:
    return http.post("/grpc/orders", json.dumps(body), "application/json", headers=headers)


@pytest.mark.usefixtures("required", "unread")
class TestNobody:
    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}])
    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/grpc/orders"), ("HEAD", "/grpc/orders"), ("POST", "/grpc/orders"), ("GET", "/grpc/orders/o1")],
    )
    def test_without_a_token_is_asked_for_one(
        self, http: Client, method: str, path: str, headers: dict[str, str]
    ) -> None:
        answer = http.generic(method, path, b'{"userId": 1}', content_type="application/json", headers=headers)
        assert (answer.status_code, answer["WWW-Authenticate"]) == (401, 'Bearer realm="orders"')
        if method != "HEAD":
            assert answer.json()["code"] == ("authentication_failed" if headers else "not_authenticated")

    def test_without_the_scope_is_refused(self, http: Client) -> None:
        answer = place(http, **bearer("shop", "orders:read"))
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        assert "orders:write" in answer.json()["detail"]
        answer = http.get("/grpc/orders", headers=bearer("shop", "orders:write"))
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")

    def test_by_a_session_of_the_back_office(self, http: Client, admin_user: Any) -> None:
        http.force_login(admin_user)
        assert [http.get("/grpc/orders").status_code, place(http).status_code] == [401, 401]


@pytest.mark.usefixtures("required")
class TestTheLimits:
    @pytest.fixture
    def place_as(self, http: Client, settings: Any) -> Callable[..., Any]:
        settings.RATE_LIMIT_CLIENT_PER_MINUTE, settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 3, 100
        settings.RATE_LIMIT_ORDERS_PER_MINUTE = 10
        return lambda name, body=ORDER: place(http, body, **bearer(name, "orders:write"))

    def test_count_an_order_once(self, place_as: Callable[..., Any]) -> None:
        answers = [place_as("shop") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
        assert [re.findall(r'"(\w+)";r=(\d+)', answer["RateLimit"]) for answer in answers[:3]] == [
            [("client", str(left)), ("address", str(left + 97)), ("email", str(left + 7))] for left in (2, 1, 0)
        ]
        assert answers[0]["RateLimit-Policy"] == '"client";q=3;w=60, "address";q=100;w=60, "email";q=10;w=60'
        assert answers[3].json()["code"] == "rate_limited"
        assert int(answers[3]["Retry-After"]) > 30
        assert Order.objects.count() == 3
        assert place_as("other").status_code == 201

    def test_count_what_is_not_valid_and_then_look_at_nothing(
        self, place_as: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrong = {f"user_i{number}": 1 for number in range(50)}
        answers = [place_as("shop", wrong) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [400] * 3
        assert len(answers[0].json()["errors"]) == near.MOST_NAMED + 3
        monkeypatch.setattr(JSONParser, "parse", lambda *arguments, **options: pytest.fail("it was read"))
        assert place_as("shop", wrong).status_code == 429

    def test_are_those_of_calls_as_well(self, place_as: Callable[..., Any], grpc_channel: grpc.Channel) -> None:
        call = OrderServiceStub(grpc_channel).CreateOrder
        metadata = [("authorization", bearer("shop", "orders:write")["Authorization"])]
        for _ in range(2):
            call(pb.CreateOrderRequest(user_id="ann", amount=1), metadata=metadata)
        assert [place_as("shop").status_code for _ in range(2)] == [201, 429]

    @pytest.mark.parametrize("token", ["", "yes", "x:y:z", client_limits.count_token("other")])
    def test_count_a_call_that_says_falsely_that_it_is_counted(
        self, place_as: Callable[..., Any], grpc_channel: grpc.Channel, token: str
    ) -> None:
        call = OrderServiceStub(grpc_channel).CreateOrder
        metadata = [("authorization", bearer("shop", "orders:write")["Authorization"]), (COUNTED, token)]
        for _ in range(3):
            call(pb.CreateOrderRequest(user_id="ann", amount=1), metadata=metadata)
        with pytest.raises(grpc.RpcError) as refused:
            call(pb.CreateOrderRequest(user_id="ann", amount=1), metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_that_a_request_is_counted_is_told_for_a_minute_of_one_client() -> None:
    token = client_limits.count_token("shop")
    assert client_limits.is_counted("shop", token)
    assert not client_limits.is_counted("other", token)
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert not client_limits.is_counted("shop", token)
