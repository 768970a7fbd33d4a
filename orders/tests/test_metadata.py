"""The metadata of an order: texts of the client, given back wherever the order is shown or told of."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from common.fields import Metadata
from orders import history, transitions, webhook_endpoints
from orders.models import Order, Outgoing, WebhookDelivery
from orders.services import Line, NewOrder
from outbox.message import MAX_BYTES
from payments.messages import PaymentPending

from .conftest import Shop

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

MINE = {"campaign": "winter", "Корзина": "8f14 \N{SNOWMAN}", "empty": "", " spaced ": " as it is "}
AMOUNT = {"user_id": "ann", "amount": 5}
FULL = {f"{n:040}": "v" * 500 for n in range(50)}


def place(client: Client, metadata: Any, **more: Any) -> Any:
    return client.post("/orders", AMOUNT | more | {"metadata": metadata}, content_type="application/json")


class TestMetadata:
    def test_is_given_back_with_each_shape_of_an_order(self, client: Client, shop: Shop, lamp: str) -> None:
        for body in (
            {"user_email": "a@example.com", "items": [{"product_id": lamp, "quantity": 1}]},
            {"customer_id": "c", "items": [{"sku": "free", "quantity": 1, "price": 1}]},
            AMOUNT,
        ):
            answer = client.post("/orders", body | {"metadata": MINE}, content_type="application/json")
            assert (answer.status_code, answer.json()["metadata"]) == (201, MINE)
            assert client.get(answer["Location"]).json()["metadata"] == MINE
        assert [order["metadata"] for order in client.get("/orders").json()["results"]] == [MINE] * 3

    @pytest.mark.parametrize("nothing", [None, {}])
    def test_may_be_left_out(self, client: Client, nothing: Any) -> None:
        assert place(client, nothing).json()["metadata"] == {}
        assert client.post("/orders", AMOUNT, content_type="application/json").json()["metadata"] == {}

    def test_is_told_with_every_event_and_webhook(self, client: Client, settings: Any) -> None:
        settings.WEBHOOKS_ALLOW_LOOPBACK = True
        webhook_endpoints.register(url="http://127.0.0.1:9/", actor="root", now=timezone.now())
        order_id = place(client, MINE).json()["order_id"]
        pending = PaymentPending(order_id=order_id, payment_id="p")
        transitions.advance(order_id=order_id, event=pending, now=timezone.now())
        facts = Outgoing.objects.filter(to="events").order_by("id")
        assert [(row.type, row.data["metadata"]) for row in facts] == [
            ("order.created", MINE),
            ("order.payment_pending", MINE),
        ]
        bodies = [json.loads(one.body) for one in WebhookDelivery.objects.order_by("id")]
        assert [body["data"]["metadata"] for body in bodies] == [MINE, MINE]

    def test_is_in_the_history(self, client: Client) -> None:
        place(client, MINE)
        order = Order.objects.get()
        assert history.mismatch(order, list(order.events.all())) is None
        Order.objects.update(metadata={"campaign": "spring"})
        order.refresh_from_db()
        assert "metadata" in str(history.mismatch(order, list(order.events.all())))

    def test_is_shown_in_the_back_office_as_text(self, client: Client) -> None:
        order_id = place(client, {"<b>campaign": "<script>alert(1)</script>"}).json()["order_id"]
        client.force_login(User.objects.create_superuser("boss"))
        page = client.get(reverse("admin:orders_order_change", args=[order_id])).content.decode()
        assert "&lt;b&gt;campaign" in page
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert(1)" not in page

    def test_of_the_largest_kind_fits_into_its_events(self, client: Client) -> None:
        assert place(client, FULL).json()["metadata"] == FULL
        widest = {"k": "k"} | {f"{n}": "\N{GRINNING FACE}" * 500 for n in range(Metadata.MAX_BYTES // 2010)}
        answer = place(client, widest)
        assert answer.status_code == 201, answer.content
        assert all(len(json.dumps(row.data)) < MAX_BYTES for row in Outgoing.objects.all())


WRONG: dict[str, tuple[Any, str]] = {
    "too many": (FULL | {"one": "more"}, "metadata"),
    "no key": ({"": "x"}, "metadata."),
    "long key": ({"k" * 41: "x"}, "metadata." + "k" * 41),
    "long value": ({"k": "v" * 501}, "metadata.k"),
    "lines": ({"k": "one\ntwo"}, "metadata.k"),
    "key of lines": ({"one\ntwo": "v"}, "metadata.one\ntwo"),
    "number": ({"k": 1}, "metadata.k"),
    "true": ({"k": True}, "metadata.k"),
    "null": ({"k": None}, "metadata.k"),
    "nested": ({"k": {"a": "b"}}, "metadata.k"),
    "list": (["k"], "metadata"),
    "text": ("k=v", "metadata"),
    "bytes": ({f"{n}": "\N{GRINNING FACE}" * 500 for n in range(20)}, "metadata"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_metadata_is_refused_by_name(client: Client, what: str) -> None:
    metadata, field = WRONG[what]
    answer = place(client, metadata)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert list(answer.json()["errors"]) == [field]
    assert not Order.objects.exists()


class TestARepeatedRequest:
    def test_with_the_same_metadata_is_the_same_order(self, client: Client) -> None:
        first = place(client, MINE, order_id="o")
        again = place(client, dict(reversed(MINE.items())), order_id="o")
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json()["metadata"] == MINE

    @pytest.mark.parametrize("other", [{}, {"campaign": "spring"}, None])
    def test_with_other_metadata_is_another_order(self, client: Client, other: Any) -> None:
        assert place(client, MINE, order_id="o").status_code == 201
        answer = place(client, other, order_id="o")
        assert (answer.status_code, answer.json()["code"]) == (409, "order_exists")
        assert Order.objects.get().metadata == MINE

    def test_under_a_key_with_other_metadata_is_refused(self, client: Client) -> None:
        for metadata, status in ((MINE, 201), (MINE, 201), ({"campaign": "spring"}, 409)):
            body = AMOUNT | {"metadata": metadata}
            answer = client.post("/orders", body, "application/json", headers={"Idempotency-Key": "k"})
            assert answer.status_code == status
        assert Order.objects.get().metadata == MINE

    def test_of_the_release_before_is_known(self) -> None:
        """An order without metadata has the fingerprint that it had when there was none."""
        new = NewOrder(lines=(Line(quantity=1, price=500),), order_id="o-1", user_id="ann", principal="shop")
        assert new.fingerprint == "95f2616e01320f4e0d34d73fece9e7532989aa3edbe658e50a1557c58510320e"


def test_a_writer_of_the_release_before_may_leave_it_out() -> None:
    with connections["orders"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO orders_order (order_id, principal, customer_id, user_id, user_email, description, status,"
            " total, currency, payment_method, payment_id, fail_reason, version, fingerprint, created_at, updated_at)"
            " VALUES ('o', '', '', '', '', '', 'done', 1, 'USD', 'account', '', '', 1, '', now(), now())"
        )
    assert Order.objects.get().metadata == {}
