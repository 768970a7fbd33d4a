"""What operators do with the money of an order that stays: they refund some of it, and capture what is reserved."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orders import history
from orders.models import Order, Refund
from orders_project.models import Approval
from orders_project.tests.test_admin_actions import ann as ann
from orders_project.tests.test_admin_actions import client_of, do, place, url
from orders_project.tests.test_money_of_orders import gateway as gateway
from payments import receipts
from payments.models import Account
from payments.tests.model_gateway import ModelGateway
from processing import services as stock
from processing.models import Product

pytestmark = pytest.mark.django_db


def page_of(order: Order, client: Client) -> str:
    return client.get(reverse("admin:orders_order_change", args=[order.pk])).content.decode()


class TestARefund:
    @pytest.fixture
    def lamp(self) -> Product:
        return stock.make_product(name="Lamp", sku="lamp", price=20_00, stock=5, actor="x", now=timezone.now())

    @pytest.fixture
    def order(self, client: Client, ann: Account, lamp: Product, post: Any, settings: Any) -> Order:
        """Three lamps and a free line, which is done."""
        settings.PROCESSING_SUCCESS_RATE = 1.0
        items = [{"sku": "lamp", "quantity": 3, "price": 20}, {"sku": "gift wrap", "quantity": 1, "price": 5}]
        answer = client.post("/orders", {"user_id": "ann", "items": items}, content_type="application/json")
        assert answer.status_code == 201, answer.content
        post.run()
        return Order.objects.get(status="done")

    def test_of_an_amount_leaves_the_order_done(self, order: Order, ann: Account, post: Any) -> None:
        operator = client_of("operator")
        assert do(operator, order, "refund", amount="2.50", reason="scratched").status_code == 302
        post.run()
        order.refresh_from_db()
        ann.refresh_from_db()
        assert (order.status, order.refunded, ann.balance) == ("done", 2_50, 10_000_00 - 62_50)
        asked = order.events.get(type="order.refund_requested")
        assert (asked.data["note"], asked.actor) == ("scratched", "operator")
        assert history.mismatch(order, list(order.events.all())) is None
        page = page_of(order, operator)
        assert "scratched" in page
        assert str(Refund.objects.get().pk) in page

    def test_of_pieces_puts_them_back_into_stock(self, order: Order, lamp: Product, post: Any) -> None:
        operator = client_of("operator")
        assert do(operator, order, "refund", pieces_1="2", restock="on", reason="returned").status_code == 302
        post.run()
        refund = Refund.objects.get()
        lamp.refresh_from_db()
        assert (refund.amount, refund.status, lamp.available, lamp.sold) == (40_00, "succeeded", 4, 1)
        order.refresh_from_db()
        answer = do(operator, order, "refund", pieces_1="2", reason="returned")
        assert (answer.status_code, "1 of 3 are left." in answer.content.decode()) == (422, True)
        assert do(operator, order, "refund", pieces_1="1", pieces_2="1", reason="all").status_code == 302
        order.refresh_from_db()
        assert do(operator, order, "refund").status_code == 302  # nothing is left, so its page leads back
        assert Refund.objects.count() == 2

    def test_that_makes_no_sense_is_refused(self, order: Order) -> None:
        operator = client_of("operator")
        refused: tuple[tuple[dict[str, str], str], ...] = (
            ({"amount": "1", "pieces_1": "1"}, "not both"),
            ({"amount": "65.01"}, "refund_exceeds_captured"),
            ({"amount": "0"}, "greater than zero"),
            ({"pieces_2": "1", "restock": "on"}, "has no stock"),
            ({"amount": "1", "restock": "on"}, "which lines"),
            ({"amount": "1", "reason": " "}, "required"),
            ({"amount": "1", "version": "1"}, "has changed"),
        )
        for values, why in refused:
            answer = do(operator, order, "refund", **{"reason": "x"} | values)
            assert (answer.status_code, why in answer.content.decode()) == (422, True), values
            assert not Refund.objects.exists(), values

    def test_in_parts_above_the_limit_takes_two_persons(
        self, order: Order, ann: Account, post: Any, settings: Any
    ) -> None:
        settings.REFUND_APPROVAL_ABOVE = 50
        eve, bob = client_of("operator", "eve"), client_of("manager", "bob")
        assert do(eve, order, "refund", pieces_1="2", reason="first").status_code == 302
        order.refresh_from_db()
        assert do(eve, order, "refund", pieces_1="1", restock="on", reason="second").status_code == 302
        assert Refund.objects.count() == 1
        approval = Approval.objects.get()
        assert (approval.verb, approval.amount) == ("orders.order.refund", 60_00)
        assert do(eve, approval, "approve").status_code == 403
        assert do(bob, approval, "approve").status_code == 302
        post.run()
        second = Refund.objects.last()
        assert second is not None
        assert (second.actor, second.amount, second.restock, second.status) == ("bob for eve", 20_00, True, "succeeded")
        ann.refresh_from_db()
        assert ann.balance == 10_000_00 - 5_00

    def test_sent_twice_is_made_once(self, order: Order) -> None:
        operator = client_of("operator")
        form = operator.get(url(order, "refund")).context["form"]
        values = {name: form[name].value() or "" for name in form.fields} | {"amount": "5", "reason": "twice"}
        assert [operator.post(url(order, "refund"), values).status_code for _ in range(2)] == [302, 302]
        assert Refund.objects.count() == 1

    def test_of_an_order_that_keeps_no_money_is_not_offered(self, ann: Account) -> None:
        order, operator = place(), client_of("operator")
        assert url(order, "refund") not in page_of(order, operator)
        assert do(operator, order, "refund").status_code == 302
        assert not Refund.objects.exists()


class TestACapture:
    @pytest.fixture
    def order(self, client: Client, gateway: ModelGateway, post: Any) -> Order:
        """An order whose money is reserved."""
        body = {"user_email": "ann@example.com", "amount": 80, "capture": "manual"}
        assert client.post("/orders", body, content_type="application/json").status_code == 201
        post.run()
        gateway.pays("pay_1")
        self.hear(gateway, post)
        return Order.objects.get(status="authorized")

    def hear(self, gateway: ModelGateway, post: Any) -> None:
        while gateway.webhooks:
            receipts.receive(gateway="model", headers={}, body=gateway.webhooks.pop(0), now=timezone.now())
        post.run()

    def test_takes_less_than_is_reserved(self, order: Order, gateway: ModelGateway, post: Any) -> None:
        operator = client_of("operator")
        page = page_of(order, operator)
        assert "nobody has captured it yet" in page
        assert url(order, "capture") in page
        assert do(operator, order, "capture", amount="30", reason="the rest is sold out").status_code == 302
        post.run()
        self.hear(gateway, post)
        order.refresh_from_db()
        assert (order.status, order.captured, gateway.payments["pay_1"].answer.captured) == ("done", 30_00, 30_00)
        assert url(order, "capture") not in page_of(order, operator)

    def test_of_too_much_or_of_another_version_is_refused(self, order: Order) -> None:
        operator = client_of("operator")
        for values, why in (({"amount": "80.01"}, "capture_exceeds_authorized"), ({"version": "1"}, "has changed")):
            answer = do(operator, order, "capture", **{"reason": "x"} | values)
            assert (answer.status_code, why in answer.content.decode()) == (422, True)
        assert Order.objects.get().status == "authorized"

    def test_above_the_limit_takes_two_persons(self, order: Order, settings: Any) -> None:
        settings.REFUND_APPROVAL_ABOVE = 50
        assert do(client_of("operator"), order, "capture", reason="all").status_code == 302
        assert Order.objects.get().status == "authorized"
        assert do(client_of("manager"), Approval.objects.get(), "approve").status_code == 302
        assert Order.objects.get().status == "capturing"
