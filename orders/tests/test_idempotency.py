"""Idempotency-Key: one answer for each key, with a hundred requests at once and after every crash."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest
import time_machine
from django.db import connections
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient, APIRequestFactory

from common import idempotency
from common.tasks import forget_answers
from orders import factories, saga
from orders.api import Orders
from orders.models import IdempotencyKey, Order, Outgoing
from payments import services as money
from payments.models import IdempotencyKey as PaymentsKey
from processing import services as stock

from .conftest import Shop

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

AMOUNT = {"user_id": "ann", "amount": 5}


def send(client: Client, body: Any, key: str = "k", path: str = "/orders") -> Any:
    return client.post(path, body, content_type="application/json", headers={"Idempotency-Key": key})


def of_lamps(lamp: str, quantity: int = 1) -> dict[str, Any]:
    return {"user_email": "ann@example.com", "items": [{"product_id": lamp, "quantity": quantity}]}


def replayed(answer: Any) -> bool:
    return answer.headers.get("Idempotency-Replayed") == "true"


class TestTheSameRequest:
    def test_gets_the_answer_of_the_first(self, client: Client, shop: Shop, lamp: str) -> None:
        first, second = send(client, of_lamps(lamp)), send(client, of_lamps(lamp))
        assert (first.status_code, second.status_code) == (201, 201)
        assert (replayed(first), replayed(second)) == (False, True)
        assert first.content == second.content
        assert (first["ETag"], first["Location"]) == (second["ETag"], second["Location"])
        assert Order.objects.count() == 1
        assert shop.stock(lamp) == (9, 1)

    def test_gets_it_though_the_order_has_moved_on(self, client: Client) -> None:
        first = send(client, AMOUNT)
        client.post(f"{first['Location']}/cancel")
        assert send(client, AMOUNT).json()["status"] == "pending"

    def test_gets_a_refusal_too_though_it_could_be_had_now(self, client: Client, shop: Shop) -> None:
        last = shop.sells("last", stock=1)
        first = send(client, of_lamps(last, 2))
        client.patch(
            f"/admin/products/{last}", {"stock": 5}, content_type="application/json",
            headers={"X-Admin-Secret": "dev-admin-secret"},
        )  # fmt: skip
        second = send(client, of_lamps(last, 2))
        assert (first.status_code, second.status_code) == (409, 409)
        assert second["Content-Type"] == "application/problem+json"
        assert first.content == second.content
        assert replayed(second)
        assert shop.stock(last) == (5, 0)

    def test_does_not_count_as_one_more(self, client: Client, settings: Any) -> None:
        settings.RATE_LIMIT_ORDERS_PER_MINUTE = 1
        body = AMOUNT | {"user_email": "one-more@example.com"}
        first, second = send(client, body), send(client, body)
        assert (first.status_code, second.status_code) == (201, 201)
        assert '"email"' in first["RateLimit"]
        assert '"email"' not in second.get("RateLimit", "")

    def test_under_another_key_is_another_order(self, client: Client) -> None:
        assert send(client, AMOUNT).json()["order_id"] != send(client, AMOUNT, "other").json()["order_id"]

    def test_of_another_client_is_another_order(self, client_named: Callable[[str], APIClient]) -> None:
        mine = client_named("me").post("/orders", AMOUNT, headers={"Idempotency-Key": "k"})
        yours = client_named("you").post("/orders", AMOUNT, headers={"Idempotency-Key": "k"})
        assert (yours.status_code, replayed(yours)) == (201, False)
        assert mine.json()["order_id"] != yours.json()["order_id"]

    def test_cancels_once(self, client: Client) -> None:
        path = f"/orders/{factories.order().order_id}/cancel"
        first = send(client, "", path=path)
        Order.objects.update(status="canceled", version=3)
        second = send(client, "", path=path)
        assert (first.status_code, second.status_code) == (202, 202)
        assert first.json() == second.json()


class TestAnotherRequestUnderTheKey:
    @pytest.mark.parametrize("other", [AMOUNT | {"amount": 6}, AMOUNT | {"description": "x"}, {"user_id": "ann"}])
    def test_is_refused(self, client: Client, other: Any) -> None:
        send(client, AMOUNT)
        answer = send(client, other)
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")
        assert Order.objects.get().total == 500

    def test_is_refused_with_another_query(self, client: Client) -> None:
        send(client, AMOUNT)
        answer = send(client, AMOUNT, path="/orders?format=json")
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")

    def test_is_refused_at_another_endpoint(self, client: Client) -> None:
        placed = send(client, AMOUNT)
        assert send(client, AMOUNT, path=f"{placed['Location']}/cancel").status_code == 409
        assert Order.objects.get().status == "pending"


class TestWhatIsNotStored:
    def test_many_requests_that_are_not_valid(self, client: Client) -> None:
        place, requests = Orders.as_view(), APIRequestFactory()
        for number in range(100):
            body = {"user_id": "ann", "amount": "x" * 1000}
            answer = place(requests.post("/orders", body, format="json", headers={"Idempotency-Key": f"k{number}"}))
            assert answer.status_code == 400
        assert not IdempotencyKey.objects.exists()
        assert send(client, AMOUNT, "k0").status_code == 201

    def test_a_refusal_of_the_moment(self, client: Client, lamp: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stock, "hold", Mock(side_effect=stock.PlacedTooSlowly))
        assert send(client, of_lamps(lamp)).status_code == 503
        monkeypatch.undo()
        assert send(client, of_lamps(lamp)).status_code == 201

    def test_an_invalid_deposit(self, client: Client) -> None:
        money.open_account(user_id="ann")
        assert send(client, {"amount": -1}, path="/accounts/ann/deposit").status_code == 400
        assert not PaymentsKey.objects.exists()

    def test_requests_are_limited_before_they_are_looked_at(self, client: Client, settings: Any) -> None:
        settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 3
        for path in ("/orders", "/orders/nowhere/cancel", "/accounts/nobody/deposit"):
            assert send(client, "{", path=path).status_code in (400, 404)
        answer = send(client, "{")
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert answer.json()["detail"] == "No more than 3 requests a minute for one address."

    def test_more_keys_than_are_kept_for_one_client(
        self, client_named: Callable[[str], APIClient], settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.IDEMPOTENCY_MAX_KEYS = 2
        monkeypatch.setattr(idempotency, "COUNTED_FOR", 0.0)
        monkeypatch.setattr(idempotency, "_counted", {})

        def place(name: str, key: str) -> int:
            answer = client_named(name).post("/orders", AMOUNT, headers={"Idempotency-Key": key})
            return int(answer.status_code)

        assert [place("me", key) for key in ("a", "b", "c", "a")] == [201, 201, 429, 201]
        assert place("you", "c") == 201
        assert (
            IdempotencyKey.objects.filter(principal="me").count() == Order.objects.filter(principal="me").count() == 2
        )

    def test_an_answer_that_is_larger_than_what_is_kept(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(idempotency, "MAX_ANSWER", 100)
        assert send(client, AMOUNT).json()["code"] == "answer_too_large"
        assert not Order.objects.exists()

    def test_a_body_that_can_not_be_read(self, client: Client) -> None:
        assert send(client, "{").status_code == 400
        assert send(client, AMOUNT).status_code == 201

    def test_too_many_orders(self, client: Client, settings: Any) -> None:
        settings.RATE_LIMIT_ORDERS_PER_MINUTE = 1
        body = AMOUNT | {"user_email": "one@example.com"}
        assert send(client, body, "first").status_code == 201
        assert send(client, body).status_code == 429
        settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0
        assert send(client, body).status_code == 201

    def test_a_server_error(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        client.raise_request_exception = False
        with monkeypatch.context() as broken:
            broken.setattr(saga, "charge", lambda order: 1 / 0)
            assert send(client, AMOUNT).status_code == 500
        assert not IdempotencyKey.objects.exists()
        assert send(client, AMOUNT).status_code == 201


class TestForgetting:
    def test_keeps_a_key_for_a_day_at_least_and_forgets_it_then(self, client: Client, settings: Any) -> None:
        with time_machine.travel(timezone.now() - settings.IDEMPOTENCY_RETENTION - timedelta(minutes=1)):
            send(client, AMOUNT, "old")
        with time_machine.travel(timezone.now() - timedelta(hours=24)):
            send(client, AMOUNT, "young")
        forget_answers("orders")
        assert [key.key for key in IdempotencyKey.objects.all()] == ["young"]
        assert not replayed(send(client, AMOUNT, "old"))


def at_once(requests: int, send: Callable[[], Any], *, threads: int = 16) -> list[Any]:
    """Send this many requests at once; return the answers."""

    def one(_number: int) -> Any:
        try:
            return send()
        finally:
            for connection in connections.all(initialized_only=True):
                connection.close()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(requests)))


@pytest.mark.django_db(transaction=True)
class TestManyAtOnce:
    def test_a_hundred_duplicates_make_one_order(self, shop: Shop, lamp: str) -> None:
        still_running: list[Any] = []

        def insist() -> Any:
            while (answer := send(Client(), of_lamps(lamp))).status_code == 409:
                assert (answer.json()["code"], answer["Retry-After"]) == ("idempotency_key_in_use", "1")
                still_running.append(answer)
                time.sleep(0.1)
            return answer

        answers = at_once(100, insist)
        assert Counter((answer.status_code, replayed(answer)) for answer in answers) == {
            (201, False): 1,
            (201, True): 99,
        }
        assert all(answer.json() == answers[0].json() for answer in answers)
        assert Order.objects.count() == 1
        assert Outgoing.objects.filter(type="payments.charge").count() == 1
        assert shop.stock(lamp) == (9, 1)

    def test_a_hundred_of_one_order_id_make_one_order(self, shop: Shop, lamp: str) -> None:
        body = of_lamps(lamp) | {"order_id": "ord-001"}
        answers = at_once(100, lambda: Client().post("/orders", body, content_type="application/json"))
        assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 99}
        assert Order.objects.count() == 1
        assert shop.stock(lamp) == (9, 1)


def another_connection(service: str) -> psycopg.Connection[Any]:
    """A second connection to a service's database."""
    parameters = connections[service].get_connection_params()
    known = ("host", "port", "user", "password", "dbname")
    return psycopg.connect(**{name: parameters[name] for name in known if parameters.get(name)})


@contextmanager
def in_the_background(send: Callable[[], Any]) -> Iterator[list[Any]]:
    """Send a request in a thread. The list has its answer when the block has ended."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.extend(at_once(1, send, threads=1)))
    thread.start()
    try:
        yield answers
    finally:
        thread.join(300)
        assert not thread.is_alive()


def until_a_lock_is_awaited(service: str) -> int:
    """Wait until a connection to the service's database waits for a lock; return its process id."""
    give_up_at = time.monotonic() + 120
    while time.monotonic() < give_up_at:
        with connections[service].cursor() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if (row := cursor.fetchone()) is not None:
                return int(row[0])
        time.sleep(0.01)
    raise AssertionError("no connection waits for a lock")


@pytest.mark.django_db(transaction=True)
class TestCrashes:
    """A crash at some point is, for the database, a connection that breaks there."""

    BREAKS = {
        "before the hold": ("processing", "SELECT 1 FROM processing_product FOR UPDATE"),
        "in the hold": ("processing", "LOCK processing_stockmovement IN EXCLUSIVE MODE"),
        "after the hold, before the order": ("orders", "LOCK orders_order IN EXCLUSIVE MODE"),
        "after the order, before its lines": ("orders", "LOCK orders_orderline IN EXCLUSIVE MODE"),
        "before the answer is kept": ("orders", "LOCK orders_idempotencykey IN EXCLUSIVE MODE"),
    }

    @pytest.mark.parametrize("point", BREAKS)
    def test_the_retry_with_the_key_gets_a_correct_answer(self, shop: Shop, point: str) -> None:
        self.crash_and_retry(shop, point, key="k")

    @pytest.mark.parametrize("point", list(BREAKS)[:-1])
    def test_the_retry_with_the_order_id_gets_a_correct_answer(self, shop: Shop, point: str) -> None:
        self.crash_and_retry(shop, point, order_id="ord-001")

    def crash_and_retry(self, shop: Shop, point: str, *, key: str = "", **more: str) -> None:
        last = shop.sells("last", stock=1)
        body = of_lamps(last) | more
        headers = {"Idempotency-Key": key} if key else {}

        def attempt() -> Any:
            client = Client(raise_request_exception=False)
            return client.post("/orders", body, content_type="application/json", headers=headers)

        service, lock = self.BREAKS[point]
        with another_connection(service) as blocker:
            blocker.execute(lock)
            with in_the_background(attempt) as answers:
                pid = until_a_lock_is_awaited(service)
                if key:
                    assert attempt().json()["code"] == "idempotency_key_in_use"
                blocker.execute("SELECT pg_terminate_backend(%s)", [pid])
        assert answers[0].status_code in (500, 503)
        assert not Order.objects.exists()

        answer = attempt()
        assert (answer.status_code, replayed(answer)) == (201, False), answer.content
        assert Order.objects.get().order_id == answer.json()["order_id"]
        assert shop.stock(last) == (0, 1)
        assert attempt().json() == answer.json()

    @pytest.mark.slow
    def test_a_deadlock_is_tried_again_at_once(self, shop: Shop, lamp: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two transactions wait for each other: one for the product, the other for the hold of the order."""
        now = timezone.now()
        # A transaction that has waited this long looks for a deadlock, once. By then there must be one, and the order's
        # transaction must be the one to find it.
        options = connections.settings["processing"].setdefault("OPTIONS", {})
        monkeypatch.setitem(options, "options", "-c deadlock_timeout=10s")
        body = of_lamps(lamp) | {"order_id": "ord-001"}
        with another_connection("processing") as other:
            other.execute("SELECT 1 FROM processing_product FOR UPDATE")
            with in_the_background(lambda: send(Client(), body)) as answers:
                until_a_lock_is_awaited("processing")
                other.execute("SET LOCAL deadlock_timeout = '300s'")
                other.execute(
                    "INSERT INTO processing_hold (hold_id, order_id, status, created_at, expires_at)"
                    " VALUES (gen_random_uuid(), 'ord-001', 'held', %s, %s)",
                    [now, now],
                )
                other.rollback()
        assert answers[0].status_code == 201, answers[0].content
        assert shop.stock(lamp) == (9, 1)
