"""The gRPC API: the same orders, principals and refusals as over HTTP."""

import json
import os
import random
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import pytest
import time_machine
from django.db import connections, transaction
from django.test import Client
from django.utils import timezone
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from common import idempotency, keyset
from orders.models import Order, OrderEvent
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders.tests.test_idempotency import another_connection, in_the_background, until_a_lock_is_awaited
from orders_project.embedded import processes
from orders_project.grpc.calls import SERVICE
from orders_project.tests.efforts import EFFORT
from processing import services as products

from .databases import keep_waiting

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def orders(grpc_channel: grpc.Channel) -> OrderServiceStub:
    return OrderServiceStub(grpc_channel)


def details(error: grpc.RpcError) -> tuple[Any, Any]:
    """The ErrorInfo and the BadRequest of a failed call."""
    status = rpc_status.from_call(error)
    assert status is not None
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return info, bad


def refused(call: Any, *arguments: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refusal:
        call(*arguments, **options)
    return refusal.value


def waiting(service: str) -> int:
    """How many connections to the service's database wait for a lock."""
    with connections[service].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])


class TestAnOrder:
    def test_is_placed_found_and_listed(self, orders: OrderServiceStub) -> None:
        made = orders.CreateOrder(pb.CreateOrderRequest(user_id="ann", amount=19.99, description="A lamp"))
        assert (made.status, made.total_amount, made.payment_method, made.version) == ("pending", 19.99, "account", 1)
        assert made.description == "A lamp"
        assert not made.HasField("user_email")
        assert Order.objects.get(pk=made.order_id).total == 1999
        assert orders.GetOrder(pb.GetOrderRequest(order_id=made.order_id)) == made
        assert list(orders.ListOrders(Empty()).orders) == [made]

    def test_of_lines(self, orders: OrderServiceStub) -> None:
        item = pb.NewItem(sku="free", quantity=3, price=0.1)
        made = orders.CreateOrder(pb.CreateOrderRequest(order_id="ord-1", customer_id="cust", items=[item]))
        assert (made.order_id, made.total_amount) == ("ord-1", 0.3)
        assert [(line.sku, line.quantity, line.price) for line in made.items] == [("free", 3, 0.1)]

    def test_has_the_metadata_that_it_was_placed_with(self, orders: OrderServiceStub) -> None:
        given = {"campaign": "winter", "корзина": ""}
        request = pb.CreateOrderRequest(order_id="ord-1", user_id="ann", amount=1, metadata=given)
        made = orders.CreateOrder(request)
        assert dict(made.metadata) == given == Order.objects.get().metadata
        assert orders.GetOrder(pb.GetOrderRequest(order_id="ord-1")) == made == orders.CreateOrder(request)
        request.metadata["campaign"] = "spring"
        assert refused(orders.CreateOrder, request).code() is grpc.StatusCode.ALREADY_EXISTS
        request.metadata["line"] = "one\ntwo"
        assert details(refused(orders.CreateOrder, request))[1].field_violations[0].field == "metadata.line"

    def test_has_its_currency_and_its_taxes_and_discounts(self, orders: OrderServiceStub, settings: Any) -> None:
        settings.CURRENCIES = ("USD", "KWD")
        items = [
            pb.NewItem(sku="book", quantity=2, price=1.234),
            pb.NewItem(type="tax", name="VAT", amount=0.25, of=1),
            pb.NewItem(type="discount", name="Regular", amount=0.018),
            pb.NewItem(type="shipping", name="Parcel", amount=1),
        ]
        request = pb.CreateOrderRequest(user_id="ann", items=items, currency="KWD", total_amount=3.7)
        made = orders.CreateOrder(request)
        assert (made.total_amount, made.currency) == (3.7, "KWD")
        assert (made.tax_amount, made.discount_amount, made.shipping_amount) == (0.25, 0.018, 1.0)
        shown = [(line.position, line.type, line.HasField("of") and line.of, line.price) for line in made.items]
        assert shown == [
            (1, "item", False, 1.234), (2, "tax", 1, 0.25), (3, "discount", False, -0.018), (4, "shipping", False, 1.0),
        ]  # fmt: skip
        request.total_amount = 3.701
        error = refused(orders.CreateOrder, request)
        assert (error.code(), details(error)[0].reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOTAL_MISMATCH")
        request.currency = "EUR"
        assert details(refused(orders.CreateOrder, request))[1].field_violations[0].field == "currency"

    def test_shows_what_was_refunded(self, orders: OrderServiceStub) -> None:
        made = orders.CreateOrder(pb.CreateOrderRequest(user_id="ann", amount=19.99))
        Order.objects.update(refunded=5_25)
        assert orders.GetOrder(pb.GetOrderRequest(order_id=made.order_id)).refunded_amount == 5.25

    def test_is_captured_when_it_says_so(self, orders: OrderServiceStub) -> None:
        asked = pb.CreateOrderRequest(user_email="ann@example.com", amount=5, capture="manual")
        assert Order.objects.get(pk=orders.CreateOrder(asked).order_id).capture == "manual"
        for wrong, code in (
            (pb.CreateOrderRequest(user_id="ann", amount=5, capture="manual"), "NOTHING_RESERVED"),
            (pb.CreateOrderRequest(user_email="ann@example.com", amount=5, capture="later"), "INVALID"),
        ):
            info, bad = details(refused(orders.CreateOrder, wrong))
            assert (info.reason, [one.field for one in bad.field_violations]) == (code, ["capture"])

    def test_has_its_amounts_as_texts_too(self, orders: OrderServiceStub) -> None:
        item = pb.NewItem(sku="free", quantity=1, price=0.1, decimal_price="1234567.10")
        tax = pb.NewItem(type="tax", name="VAT", decimal_amount="0.04")
        request = pb.CreateOrderRequest(user_id="ann", items=[item, tax], decimal_total_amount="1234567.14")
        made = orders.CreateOrder(request)
        assert Order.objects.get().total == 123456714
        assert [line.decimal_price for line in made.items] == ["1234567.10", "0.04"]
        names = ("total", "tax", "discount", "shipping", "refunded")
        shown = [getattr(made, f"decimal_{name}_amount") for name in names]
        assert shown == ["1234567.14", "0.04", "0.00", "0.00", "0.00"]
        info, bad = details(refused(orders.CreateOrder, pb.CreateOrderRequest(user_id="ann", decimal_amount="ten")))
        assert (info.reason, [one.field for one in bad.field_violations]) == ("INVALID", ["amount"])

    def test_is_canceled_once_and_at_the_version_that_was_seen(self, orders: OrderServiceStub) -> None:
        made = orders.CreateOrder(pb.CreateOrderRequest(user_id="ann", amount=1))
        stale = pb.CancelOrderRequest(order_id=made.order_id, version=made.version + 1)
        error = refused(orders.CancelOrder, stale)
        assert (error.code(), details(error)[0].reason) == (grpc.StatusCode.ABORTED, "VERSION_CONFLICT")
        asked = pb.CancelOrderRequest(order_id=made.order_id, reason="Too late", version=made.version)
        canceled = orders.CancelOrder(asked)
        assert (canceled.status, canceled.version) == ("voiding", made.version + 1)
        event = OrderEvent.objects.get(version=canceled.version)
        assert event.data["note"] == "Too late"
        again = orders.CancelOrder(pb.CancelOrderRequest(order_id=made.order_id))
        assert again == canceled
        Order.objects.update(status="done", fail_reason="")
        error = refused(orders.CancelOrder, pb.CancelOrderRequest(order_id=made.order_id))
        assert (error.code(), details(error)[0].reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_DONE")
        error = refused(orders.CancelOrder, pb.CancelOrderRequest(order_id=made.order_id, reason="x" * 201))
        assert [one.field for one in details(error)[1].field_violations] == ["reason"]

    def test_asked_for_twice_is_made_once(self, orders: OrderServiceStub) -> None:
        request = pb.CreateOrderRequest(user_id="ann", amount=1)
        key = [("idempotency-key", "key-1")]
        first, call = orders.CreateOrder.with_call(request, metadata=key)
        again, call_again = orders.CreateOrder.with_call(request, metadata=key)
        assert first == again
        assert dict(call.trailing_metadata())["order-made"] == "true"
        assert dict(call_again.trailing_metadata())["order-made"] == "false"
        other = pb.CreateOrderRequest(user_id="ann", amount=2)
        assert refused(orders.CreateOrder, other, metadata=key).code() is grpc.StatusCode.ALREADY_EXISTS
        assert Order.objects.count() == 1

    @pytest.mark.parametrize("http_first", [True, False])
    @pytest.mark.parametrize("named", [{}, {"order_id": "ord-1"}], ids=["generated id", "own id"])
    def test_under_one_key_is_one_order_over_http_and_grpc(
        self, orders: OrderServiceStub, http_first: bool, named: dict[str, str]
    ) -> None:
        def over_http() -> str:
            body = {"user_id": "ann", "amount": 1} | named
            answer = Client().post("/orders", body, "application/json", headers={"Idempotency-Key": "key-4"})
            assert answer.status_code in (200, 201), answer.content
            return str(answer.json()["order_id"])

        def over_grpc() -> str:
            request = pb.CreateOrderRequest(user_id="ann", amount=1, **named)  # type: ignore[arg-type]  # of texts
            return str(orders.CreateOrder(request, metadata=[("idempotency-key", "key-4")]).order_id)

        calls = (over_http, over_grpc, over_http) if http_first else (over_grpc, over_http, over_grpc)
        assert len({call() for call in calls}) == 1
        assert Order.objects.count() == 1

    def test_another_order_under_the_key_of_an_http_request_is_refused(self, orders: OrderServiceStub) -> None:
        for number, named in enumerate(({}, {"order_id": "ord-1"})):
            body = {"user_id": "ann", "amount": 1} | named
            key = f"key-5-{number}"
            assert (
                Client().post("/orders", body, "application/json", headers={"Idempotency-Key": key}).status_code == 201
            )
            error = refused(
                orders.CreateOrder, pb.CreateOrderRequest(user_id="ann", amount=2), metadata=[("idempotency-key", key)]
            )
            assert error.code() is grpc.StatusCode.ALREADY_EXISTS
            assert details(error)[0].reason == "IDEMPOTENCY_KEY_REUSED"
        assert Order.objects.count() == 2

    @pytest.mark.parametrize("first", ["http", "grpc"])
    @pytest.mark.parametrize("then", ["http", "grpc"])
    def test_with_another_id_under_the_key_is_refused(self, orders: OrderServiceStub, first: str, then: str) -> None:
        def place(how: str, **named: str) -> str:
            """Return the code of the refusal, or nothing."""
            if how == "http":
                body = {"user_id": "ann", "amount": 1} | named
                answer = Client().post("/orders", body, "application/json", headers={"Idempotency-Key": "key-6"})
                return str(answer.json().get("code", ""))
            request = pb.CreateOrderRequest(user_id="ann", amount=1, **named)  # type: ignore[arg-type]  # of texts
            try:
                orders.CreateOrder(request, metadata=[("idempotency-key", "key-6")])
            except grpc.RpcError as error:
                return str(details(error)[0].reason).lower()
            return ""

        assert place(first, order_id="ord-1") == ""
        for other in ({"order_id": "ord-2"}, {}, {"order_id": "ord-2"}):
            assert place(then, **other) == place("grpc", **other) == "idempotency_key_reused"
        assert place("grpc", order_id="ord-1") == ""
        assert Order.objects.count() == 1

    def test_with_an_id_under_the_key_of_one_without_is_refused(self, orders: OrderServiceStub) -> None:
        key = [("idempotency-key", "key-7")]
        made = orders.CreateOrder(pb.CreateOrderRequest(user_id="ann", amount=1), metadata=key)
        named = pb.CreateOrderRequest(user_id="ann", amount=1, order_id="ord-1")
        assert details(refused(orders.CreateOrder, named, metadata=key))[0].reason == "IDEMPOTENCY_KEY_REUSED"
        assert Order.objects.get().order_id == made.order_id

    def test_of_many_ids_at_once_under_one_key_is_one(self, orders: OrderServiceStub) -> None:
        def place(number: int) -> str:
            named = {"order_id": f"ord-{number}"} if number % 4 else {}
            request = pb.CreateOrderRequest(user_id="ann", amount=1, **named)  # type: ignore[arg-type]  # of texts
            try:
                orders.CreateOrder(request, metadata=[("idempotency-key", "key-8")])
            except grpc.RpcError as error:
                return str(details(error)[0].reason)
            return ""

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(place, range(24))) == {"", "IDEMPOTENCY_KEY_REUSED"}
        assert Order.objects.count() == 1

    @pytest.mark.parametrize("named", [{}, {"order_id": "ord-2"}], ids=["generated id", "own id"])
    def test_waits_for_the_one_that_is_being_placed_under_its_key(
        self, orders: OrderServiceStub, named: dict[str, str]
    ) -> None:
        key = [("idempotency-key", "key-10")]
        requests = [pb.CreateOrderRequest(user_id="ann", amount=1, **names) for names in (named, {"order_id": "ord-1"})]  # type: ignore[arg-type]
        with another_connection("orders") as blocker:
            blocker.execute("LOCK orders_orderevent IN EXCLUSIVE MODE")
            calls = []
            for number, request in enumerate(requests, start=1):
                calls.append(orders.CreateOrder.future(request, metadata=key))
                processes.wait_until(lambda number=number: waiting("orders") == number, timeout=120)  # type: ignore[misc]
            blocker.rollback()
        first, second = calls
        assert first.result().order_id
        assert details(refused(second.result))[0].reason == "IDEMPOTENCY_KEY_REUSED"
        assert Order.objects.count() == 1

    def test_that_is_being_placed_is_known_over_http(self, orders: OrderServiceStub) -> None:
        named, key = {"user_id": "ann", "amount": 1, "order_id": "ord-1"}, "key-11"

        def over_http() -> Any:
            return Client().post("/orders", named, "application/json", headers={"Idempotency-Key": key})

        with another_connection("orders") as blocker:
            blocker.execute("LOCK orders_orderevent IN EXCLUSIVE MODE")
            call = orders.CreateOrder.future(pb.CreateOrderRequest(**named), metadata=[("idempotency-key", key)])  # type: ignore[arg-type]
            until_a_lock_is_awaited("orders")
            with in_the_background(over_http) as answers:
                processes.wait_until(lambda: bool(answers) or waiting("orders") > 1, timeout=120)
                blocker.rollback()
        assert (answers[0].status_code, answers[0].json()["code"]) == (409, "idempotency_key_in_use")
        assert call.result().order_id == "ord-1"

    def test_is_answered_over_http_once_under_its_key(self, orders: OrderServiceStub) -> None:
        named, key = {"user_id": "ann", "amount": 1, "order_id": "ord-1"}, "key-13"
        orders.CreateOrder(pb.CreateOrderRequest(**named), metadata=[("idempotency-key", key)])  # type: ignore[arg-type]
        headers = {"Idempotency-Key": key}
        answers = [Client().post("/orders", named, "application/json", headers=headers) for _ in range(2)]
        assert [answer.get("Idempotency-Replayed") for answer in answers] == [None, "true"]

    def test_under_more_keys_than_are_kept_is_refused(
        self, orders: OrderServiceStub, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.IDEMPOTENCY_MAX_KEYS = 1
        monkeypatch.setattr(idempotency, "COUNTED_FOR", 0.0)
        monkeypatch.setattr(idempotency, "_counted", {})

        def place(number: int) -> Any:
            request = pb.CreateOrderRequest(user_id="ann", amount=1, order_id=f"ord-{number}")
            return orders.CreateOrder(request, metadata=[("idempotency-key", f"key-14-{number}")])

        assert place(1) == place(1)
        assert details(refused(place, 2))[0].reason == "TOO_MANY_IDEMPOTENCY_KEYS"
        assert Order.objects.count() == 1

    def test_may_have_an_id_under_a_key_that_is_forgotten(self, orders: OrderServiceStub, settings: Any) -> None:
        key = [("idempotency-key", "key-12")]
        with time_machine.travel(timezone.now() - settings.IDEMPOTENCY_RETENTION - timedelta(minutes=1)):
            orders.CreateOrder(pb.CreateOrderRequest(user_id="ann", amount=1), metadata=key)
        orders.CreateOrder(pb.CreateOrderRequest(user_id="ann", amount=1, order_id="ord-1"), metadata=key)
        assert Order.objects.count() == 2

    def test_that_http_refused_under_the_key_can_be_placed_once(self, orders: OrderServiceStub) -> None:
        lamp = products.make_product(name="Lamp", price=1, stock=0, actor="test", now=timezone.now())
        items = [{"product_id": str(lamp.pk), "quantity": 1}]
        body = {"user_id": "ann", "items": items, "order_id": "ord-1"}
        answer = Client().post("/orders", body, "application/json", headers={"Idempotency-Key": "key-9"})
        assert (answer.status_code, answer.json()["code"]) == (409, "insufficient_stock")
        key = [("idempotency-key", "key-9")]
        orders.CreateOrder(pb.CreateOrderRequest(user_id="ann", amount=1, order_id="ord-1"), metadata=key)
        other = pb.CreateOrderRequest(user_id="ann", amount=1, order_id="ord-2")
        assert details(refused(orders.CreateOrder, other, metadata=key))[0].reason == "IDEMPOTENCY_KEY_REUSED"
        assert Order.objects.count() == 1

    def test_that_is_older_than_its_key_is_the_one_that_the_key_means(
        self, orders: OrderServiceStub, settings: Any
    ) -> None:
        named = pb.CreateOrderRequest(user_id="ann", amount=1, order_id="ord-1")
        made = orders.CreateOrder(named)
        Order.objects.update(created_at=timezone.now() - 2 * settings.IDEMPOTENCY_RETENTION)
        key = [("idempotency-key", "key-10")]
        assert orders.CreateOrder(named, metadata=key).order_id == made.order_id
        alone = pb.CreateOrderRequest(user_id="ann", amount=1)
        assert details(refused(orders.CreateOrder, alone, metadata=key))[0].reason == "IDEMPOTENCY_KEY_REUSED"
        assert Order.objects.count() == 1

    def test_asked_for_again_under_its_key_is_not_counted(self, orders: OrderServiceStub, settings: Any) -> None:
        settings.RATE_LIMIT_ORDERS_PER_MINUTE = 1
        request = pb.CreateOrderRequest(user_email="grpc-again@example.com", amount=1)
        made = [orders.CreateOrder(request, metadata=[("idempotency-key", "key-2")]).order_id for _ in range(3)]
        assert len(set(made)) == 1
        error = refused(orders.CreateOrder, request, metadata=[("idempotency-key", "key-3")])
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class TestASearch:
    def test_answers_page_by_page_what_the_list_over_http_does(self, orders: OrderServiceStub) -> None:
        for user in ("ann", "ben", "ann", "ann"):
            orders.CreateOrder(pb.CreateOrderRequest(user_id=user, amount=1))
        searches: list[dict[str, Any]] = [{}, {"user_id": "ann"}, {"status": "paid"}]
        for given in (*searches, {"sort": "created_at", "user_id": "ann"}):
            over_http = [order["order_id"] for order in Client().get("/orders", given).json()["results"]]
            found: list[str] = []
            answer = pb.FindOrdersResponse(next_cursor="")
            while not found or answer.next_cursor:
                request = pb.FindOrdersRequest(**given, limit=2, cursor=answer.next_cursor)
                answer = orders.FindOrders(request)
                assert len(answer.orders) <= 2
                if not answer.orders:
                    break
                found += [order.order_id for order in answer.orders]
            assert found == over_http
        line = pb.NewItem(sku="Hat", quantity=1, decimal_price="1.00")
        with_sku = orders.CreateOrder(pb.CreateOrderRequest(user_id="ann", items=[line]))
        assert [order.order_id for order in orders.FindOrders(pb.FindOrdersRequest(sku="hat")).orders] == [
            with_sku.order_id
        ]
        newest = orders.FindOrders(pb.FindOrdersRequest(limit=1)).orders[0]
        later = pb.FindOrdersRequest(created_from=newest.created_at)
        assert [order.order_id for order in orders.FindOrders(later).orders] == [newest.order_id]
        assert newest.order_id not in [
            order.order_id for order in orders.FindOrders(pb.FindOrdersRequest(created_to=newest.created_at)).orders
        ]

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (pb.FindOrdersRequest(status="lost"), "status"),
            (pb.FindOrdersRequest(sort="price"), "sort"),
            (pb.FindOrdersRequest(limit=101), "limit"),
            (pb.FindOrdersRequest(limit=-1), "limit"),
            (pb.FindOrdersRequest(cursor="nonsense"), "cursor"),
            (pb.FindOrdersRequest(cursor=keyset.encode(["2026-01-01T00:00:00+20:00", 1])), "cursor"),
            (pb.FindOrdersRequest(cursor=keyset.encode(["2026-01-01 00:00:00+00:00:00.5", 1])), "cursor"),
            (pb.FindOrdersRequest(cursor=keyset.encode([None, None])), "cursor"),
            (pb.FindOrdersRequest(user_id="a\0b"), "user_id"),
            (pb.FindOrdersRequest(updated_since=Timestamp(seconds=10**12)), "updated_since"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_for_what_cannot_be_is_refused(
        self, orders: OrderServiceStub, request_: pb.FindOrdersRequest, field: str
    ) -> None:
        error = refused(orders.FindOrders, request_)
        info, bad = details(error)
        assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")
        assert [violation.field for violation in bad.field_violations] == [field]


class TestARefusal:
    def test_of_a_wrong_field_names_it(self, orders: OrderServiceStub) -> None:
        item = pb.NewItem(sku="free", quantity=-1, price=float("nan"))
        error = refused(orders.CreateOrder, pb.CreateOrderRequest(customer_id="cust", items=[item]))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        info, bad = details(error)
        assert (info.reason, info.domain) == ("INVALID", "orders")
        assert {violation.field for violation in bad.field_violations} == {"items[0].quantity", "items[0].price"}
        assert Order.objects.count() == 0

    def test_of_very_much_still_arrives(self, orders: OrderServiceStub) -> None:
        items = [pb.NewItem(sku="x" * 2000, quantity=-1)] * 100
        error = refused(orders.CreateOrder, pb.CreateOrderRequest(payment_method="y" * 9000, items=items))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(error)[0].reason == "INVALID"

    @pytest.mark.parametrize("order_id", ["no-such-order", "", "..", "a\0b", "x" * 100, "☃"])
    def test_of_what_is_not_there(self, orders: OrderServiceStub, order_id: str) -> None:
        error = refused(orders.GetOrder, pb.GetOrderRequest(order_id=order_id))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert details(error)[0].reason == "ORDER_NOT_FOUND"

    def test_quotes_the_correlation_id(self, orders: OrderServiceStub) -> None:
        error = refused(orders.GetOrder, pb.GetOrderRequest(), metadata=[("x-correlation-id", "mine-3")])
        assert details(error)[0].metadata["correlation_id"] == "mine-3"
        assert dict(error.initial_metadata())["x-correlation-id"] == "mine-3"

    def test_of_too_many_says_when_to_come_again(self, orders: OrderServiceStub) -> None:
        request = pb.CreateOrderRequest(user_email="grpc-many@example.com", amount=1)
        for left in (4, 3, 2, 1, 0):
            call = orders.CreateOrder.with_call(request)[1]
            assert f'"email";r={left};' in dict(call.trailing_metadata())["ratelimit"]
        error = refused(orders.CreateOrder, request)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        info, _ = details(error)
        assert info.reason == "RATE_LIMITED"
        assert 0 < int(info.metadata["retry_after"]) <= 60

    def test_of_a_mistake_of_ours_shows_nothing(
        self, orders: OrderServiceStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from orders import services

        def stumble(*args: object, **kwargs: object) -> None:
            raise RuntimeError("the secret inside")

        monkeypatch.setattr(services, "get_order", stumble)
        error = refused(orders.GetOrder, pb.GetOrderRequest(order_id="x"))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in (error.details() or "")
        assert details(error)[0].metadata["correlation_id"]


def test_a_call_ends_at_its_deadline(orders: OrderServiceStub) -> None:
    """A statement that waits for a lock gives up when the caller has left."""
    request = pb.CreateOrderRequest(order_id="waits", user_id="ann", amount=1)
    with transaction.atomic(using="orders"):
        keep_waiting("waits")
        error = refused(orders.CreateOrder, request, timeout=0.5)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert orders.CreateOrder(request, timeout=60).order_id == "waits"
    assert Order.objects.count() == 1


def test_a_message_too_large_is_refused(orders: OrderServiceStub) -> None:
    request = pb.CreateOrderRequest(user_id="ann", amount=1, description="x" * 300_000)
    assert refused(orders.CreateOrder, request).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_health_and_reflection(grpc_channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(grpc_channel)
    for service in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(reflection_pb2_grpc.ServerReflectionStub(grpc_channel).ServerReflectionInfo(iter([asked])))
    assert SERVICE in [service.name for service in answer.list_services_response.service]


METHODS = {
    "CreateOrder": pb.CreateOrderRequest(
        order_id="o", user_id="ann", user_email="a@example.com", description="d", payment_method="account",
        items=[pb.NewItem(sku="lamp", quantity=2, price=1.5), pb.NewItem(product_id="x", quantity=1)],
    ),
    "GetOrder": pb.GetOrderRequest(order_id="some-order"),
    "ListOrders": Empty(),
    "FindOrders": pb.FindOrdersRequest(
        status="paid", user_email="a@example.com", created_from=Timestamp(seconds=5), sort="created_at", limit=5,
        cursor="x",
    ),
    "CancelOrder": pb.CancelOrderRequest(order_id="some-order", reason="r", version=3),
}  # fmt: skip


def test_no_message_however_broken_is_our_mistake(grpc_channel: grpc.Channel, settings: Any) -> None:
    """Random, truncated and twisted messages: each is answered or refused, none is INTERNAL or UNKNOWN."""
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0
    chance = random.Random(7)
    codes: dict[str, int] = {}
    for number in range(EFFORT.broken):
        method, whole = chance.choice(sorted(METHODS.items()))
        raw = bytearray(whole.SerializeToString())
        match number % 3:
            case 0:
                raw = bytearray(chance.randbytes(chance.randrange(60)))
            case 1:
                raw = raw[: chance.randrange(len(raw) + 1)]
            case _:
                for _ in range(chance.randrange(1, 6)):
                    place = chance.randrange(len(raw) + 1)
                    raw[place : place + 1] = chance.randbytes(1)
        call = grpc_channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            call(bytes(raw), timeout=60)
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
        codes[code] = codes.get(code, 0) + 1
    assert sum(codes.values()) == EFFORT.broken
    assert not codes.keys() & {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"}, codes
    assert codes.keys() >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}, codes


class TestOverHttp:
    @pytest.fixture
    def http(self, grpc_channel: Any, settings: Any) -> Client:
        settings.ORDER_SERVICE_GRPC = grpc_channel.target
        return Client(raise_request_exception=False)

    def test_an_order_goes_through_grpc(self, http: Client) -> None:
        body = {"user_id": "ann", "amount": 19.99, "description": "A lamp", "metadata": {"campaign": "winter"}}
        made = http.post("/grpc/orders/", body, content_type="application/json")
        assert made.status_code == 201, made.content
        order = made.json()
        assert (order["total_amount"], order["status"], order["user_email"]) == (19.99, "pending", None)
        assert order["metadata"] == {"campaign": "winter"}
        assert http.get(f"/grpc/orders/{order['order_id']}").json() == order
        assert http.get("/grpc/orders").json() == [order]
        direct = http.get(f"/orders/{order['order_id']}").json()
        assert {name: value for name, value in direct.items() if name in order} == order

    def test_its_key_makes_it_once(self, http: Client) -> None:
        def place() -> Any:
            body = json.dumps({"user_id": "ann", "amount": "5.00"})
            return http.post("/grpc/orders", body, "application/json", headers={"Idempotency-Key": "k"})

        first, again = place(), place()
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json() == again.json()

    def test_its_refusals_are_problems(self, http: Client) -> None:
        answer = http.get("/grpc/orders/no-such-order")
        assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")
        assert answer.json()["code"] == "order_not_found"
        answer = http.post("/grpc/orders", {"items": []}, content_type="application/json")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
        assert "items" in answer.json()["errors"] or "customer_id" in answer.json()["errors"]
        wrong: list[Any] = [{"amount": []}, {"userId": "ann", "amount": 1}, []]
        for body in wrong:
            answer = http.post("/grpc/orders", body, content_type="application/json")
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid")

    @pytest.mark.parametrize(
        ("header", "status", "code"),
        [("Authorization", 401, "authentication_failed"), ("Idempotency-Key", 400, "invalid")],
    )
    @pytest.mark.parametrize("value", ["ключ", "Bearer \xe9", "a\tb"])
    def test_a_header_of_other_characters_is_refused_as_elsewhere(
        self, http: Client, header: str, status: int, code: str, value: str
    ) -> None:
        body = json.dumps({"user_id": "ann", "amount": 1})
        for path in ("/grpc/orders", "/orders"):
            answer = http.post(path, body, "application/json", headers={header: value})
            assert (answer.status_code, answer.json()["code"]) == (status, code), path
        assert not Order.objects.exists()

    def test_a_key_too_long_is_refused_over_grpc_too(self, orders: OrderServiceStub) -> None:
        request = pb.CreateOrderRequest(user_id="ann", amount=1)
        error = refused(orders.CreateOrder, request, metadata=[("idempotency-key", "k" * 256)])
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(error)[1].field_violations[0].field == "Idempotency-Key"

    def test_without_a_server_it_is_unavailable(self, http: Client, settings: Any) -> None:
        settings.ORDER_SERVICE_GRPC = "127.0.0.1:1"
        answer = http.get("/grpc/orders")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer["Retry-After"] == "5"


def test_programs_that_a_process_starts_while_it_calls_are_not_harmed(grpc_channel: grpc.Channel) -> None:
    """Started as another user, as the embedded servers are: by a fork that a library may prepare."""
    health, done = health_pb2_grpc.HealthStub(grpc_channel), threading.Event()

    def call() -> None:
        while not done.is_set():
            health.Check(health_pb2.HealthCheckRequest())

    with ThreadPoolExecutor(2) as threads:
        calling = [threads.submit(call) for _ in range(2)]
        try:
            ended = [subprocess.run(["true"], preexec_fn=os.getpid, check=False).returncode for _ in range(100)]
        finally:
            done.set()
    assert [one.result() for one in calling] == [None, None]
    assert set(ended) == {0}
