"""Webhooks in and out in the back office: every verb, pressed in a real browser, on the running system."""

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from django.utils import timezone
from standardwebhooks import Webhook

from common import signing
from orders.tests.test_webhooks import Receiver
from orders_project.tests import screenshots
from orders_project.tests.desk import NASTY, Desk, approve
from orders_project.tests.house import House

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("on_record")]


@pytest.fixture(scope="module")
def furnished(everything: House) -> tuple[House, str]:
    """All of the running system, with no order that waits."""
    return everything, ""


class TestWebhooksIn:
    """Money and news that fit no order of ours, and what people make of them."""

    @staticmethod
    def gateway(house: House, path: str, **content: Any) -> dict[str, Any]:
        answer = requests.post(f"{house.env['FAKE_GATEWAY_URL']}{path}", json=content, timeout=60)
        answer.raise_for_status()
        return dict(answer.json())

    def stray(self, desk: Desk, amount: float) -> tuple[str, str]:
        """A payment at the gateway for an order that was never ours: its id there, and that of its webhook here."""
        asked = {"amount": amount, "currency": "USD", "webhook_url": desk.house.url("/webhooks/payments/fake")}
        self.gateway(desk.house, "/behaviour", order_id=f"stray-{amount}", outcome="success", delay=0)
        payment = self.gateway(desk.house, "/payments", order_id=f"stray-{amount}", **asked)["payment_id"]
        return payment, self.kept(desk.house, payment)

    @staticmethod
    def kept(house: House, payment: str) -> str:
        sql = "SELECT id FROM payments_webhookreceipt WHERE payment_id = %s AND status IN ('unmatched', 'quarantined')"
        house.until(lambda: house.query("payments", sql, payment))
        return str(house.query("payments", sql, payment)[0][0])

    @staticmethod
    def status(house: House, receipt: str) -> str:
        return str(house.query("payments", "SELECT status FROM payments_webhookreceipt WHERE id = %s", receipt)[0][0])

    def truth(self, house: House, payment: str) -> str:
        answer = requests.get(f"{house.env['FAKE_GATEWAY_URL']}/payments/{payment}", timeout=60)
        return str(answer.json()["status"])

    def test_are_discarded(self, desk: Desk) -> None:
        payment, receipt = self.stray(desk, 11)
        desk.open("/admin/payments/webhookreceipt/?waiting=yes")
        desk.follow(f"#result_list a[href*='{receipt}']")
        desk.press("Discard")
        desk.send(reason=f"a test {NASTY}")
        assert self.status(desk.house, receipt) == "discarded"
        assert NASTY in desk.page.inner_text("#content")
        assert self.truth(desk.house, payment) == "succeeded"
        desk.is_well()

    def test_are_refunded_at_the_gateway(self, desk: Desk) -> None:
        payment, receipt = self.stray(desk, 12.5)
        desk.open(f"/admin/payments/webhookreceipt/{receipt}/change/")
        desk.press("Refund")
        desk.send(reason="nobody's")
        assert "asked to return the money" in desk.told()
        desk.house.until(lambda: self.status(desk.house, receipt) == "refunded")
        assert self.truth(desk.house, payment) == "refunded"
        desk.is_well()

    def test_large_ones_are_refunded_when_a_second_person_approves(self, desk: Desk, bob: Desk) -> None:
        payment, receipt = self.stray(desk, 1000.01)
        desk.open(f"/admin/payments/webhookreceipt/{receipt}/change/")
        desk.press("Refund")
        desk.send(reason="nobody's")
        assert "second person" in desk.told()
        assert (self.status(desk.house, receipt), self.truth(desk.house, payment)) == ("unmatched", "succeeded")
        approve(desk, receipt)
        assert "you requested this" in desk.page.inner_text("[role=alert]")
        approve(bob, receipt)
        desk.house.until(lambda: self.status(desk.house, receipt) == "refunded")
        assert self.truth(desk.house, payment) == "refunded"
        bob.is_well()

    def test_are_matched_with_their_order(self, desk: Desk) -> None:
        house = desk.house
        self.gateway(house, "/behaviour", order_id="matched", outcome="success", delay=3600)
        screenshots.place(house, order_id="matched", customer_id="c", items=[{"sku": "x", "quantity": 1, "price": 9}])
        house.until(lambda: screenshots.status_of(house, "matched") == "payment_pending")
        sql = "SELECT gateway_payment_id FROM payments_payment WHERE order_id = 'matched'"
        ((payment,),) = house.query("payments", sql)
        self.tell(house, payment_id=payment, order_id="misspelt")
        receipt = self.kept(house, payment)
        assert self.status(house, receipt) == "quarantined"
        desk.open(f"/admin/payments/webhookreceipt/{receipt}/change/")
        desk.press("Match with an order")
        desk.send(order_id="no such order")
        assert "webhook_does_not_match" in desk.page.inner_text("[role=alert]")
        desk.send(order_id="matched")
        assert "applied" in desk.told()
        house.until(lambda: screenshots.status_of(house, "matched") == "done")
        desk.is_well()

    @staticmethod
    def tell(house: House, **data: str) -> None:
        """Send what the gateway would, signed with its secret."""
        said = {"status": "success", "amount": 9, "currency": "USD"} | data
        request = requests.Request("POST", house.url("/webhooks/payments/fake"), json={
            "type": "payment.succeeded", "data": said,
        }).prepare()  # fmt: skip
        body: Any = request.body
        request.headers.update(
            signing.sign(secrets=["dev-webhook-secret"], message_id="told", timestamp=timezone.now(), body=body)
        )
        with requests.Session() as session:
            assert session.send(request, timeout=60).status_code == 202


@pytest.mark.usefixtures("hushed")
class TestEndpoints:
    """Those who are told of orders."""

    @pytest.fixture
    def receiver(self) -> Iterator[Receiver]:
        server = Receiver()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
        server.server_close()

    @staticmethod
    def hear(desk: Desk, receiver: Receiver, order_id: str) -> tuple[dict[str, str], bytes]:
        """What the receiver is told of this order first."""

        def found() -> list[tuple[dict[str, str], bytes]]:
            return [one for one in receiver.requests if order_id.encode() in one[1]]

        desk.house.until(found)
        return found()[0]

    @staticmethod
    def secret(desk: Desk) -> str:
        found = re.search(r"whsec_\S+", desk.told())
        assert found is not None
        return found[0].rstrip(".")

    def test_are_registered_given_secrets_switched_and_sent_to_again(self, desk: Desk, receiver: Receiver) -> None:
        house = desk.house
        desk.open("/admin/orders/webhookendpoint/")
        desk.press("Register an endpoint")
        desk.send(url="ftp://nowhere.example")
        assert desk.page.inner_text(".errornote")
        desk.send(url=receiver.url)
        first = self.secret(desk)
        headers, body = self.hear(desk, receiver, screenshots.place(house, user_id="demo-rich", amount=1))
        Webhook(first).verify(body, headers)

        desk.follow("#result_list tbody tr:first-child th a")
        endpoint = desk.page.url
        desk.press("Rotate the secret")
        desk.send()
        second = self.secret(desk)
        headers, body = self.hear(desk, receiver, screenshots.place(house, user_id="demo-rich", amount=2))
        for secret in (first, second):
            Webhook(secret).verify(body, headers)

        desk.page.goto(endpoint)
        desk.press("Disable")
        desk.send(reason="on holiday")
        unheard = screenshots.place(house, user_id="demo-rich", amount=3)
        house.until(lambda: screenshots.status_of(house, unheard) == "done")
        told = "SELECT count(*) FROM orders_webhookdelivery WHERE order_id = %s"
        assert house.query("orders", told, unheard) == [(0,)]
        desk.press("Enable")
        desk.send()
        heard = screenshots.place(house, user_id="demo-rich", amount=4)
        self.hear(desk, receiver, heard)
        delivered = "SELECT id, attempts FROM orders_webhookdelivery WHERE order_id = %s AND status = 'delivered'"
        house.until(lambda: house.query("orders", delivered, heard))
        ((delivery, attempts), *_) = house.query("orders", delivered, heard)
        desk.open(f"/admin/orders/webhookdelivery/?q={heard}&status__exact=delivered")
        desk.follow(f"#result_list a[href*='{delivery}']")
        desk.press("Resend")
        desk.send()
        house.until(lambda: dict(house.query("orders", delivered, heard)).get(delivery, 0) > attempts)
        desk.is_well()


def test_every_verb_is_on_record(on_record: Callable[[], str]) -> None:
    said = on_record()
    for verb in (
        "Match with an order.", "Refund.", "Discard.", "Approve.", "Register an endpoint.", "Rotate the secret.",
        "Disable.", "Enable.", "Resend.",
    ):  # fmt: skip
        assert verb in said, f"{verb} is not in the log"
