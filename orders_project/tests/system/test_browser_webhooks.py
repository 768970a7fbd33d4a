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
from orders_project.tests.operators import NASTY, Operator, approve
from orders_project.tests.running_system import RunningSystem

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("on_record")]


@pytest.fixture(scope="module")
def furnished(everything: RunningSystem) -> tuple[RunningSystem, str]:
    """All of the running system, with no order that waits."""
    return everything, ""


class TestWebhooksIn:
    """Money and news that fit no order of ours, and what people make of them."""

    @staticmethod
    def gateway(system: RunningSystem, path: str, **content: Any) -> dict[str, Any]:
        answer = requests.post(f"{system.env['FAKE_GATEWAY_URL']}{path}", json=content, timeout=60)
        answer.raise_for_status()
        return dict(answer.json())

    def stray(self, user: Operator, amount: float) -> tuple[str, str]:
        """A payment at the gateway for an order that was never ours: its id there, and that of its webhook here."""
        asked = {"amount": amount, "currency": "USD", "webhook_url": user.system.url("/webhooks/payments/fake")}
        self.gateway(user.system, "/behaviour", order_id=f"stray-{amount}", outcome="success", delay=0)
        payment = self.gateway(user.system, "/payments", order_id=f"stray-{amount}", **asked)["payment_id"]
        return payment, self.kept(user.system, payment)

    @staticmethod
    def kept(system: RunningSystem, payment: str) -> str:
        sql = "SELECT id FROM payments_webhookreceipt WHERE payment_id = %s AND status IN ('unmatched', 'quarantined')"
        system.until(lambda: system.query("payments", sql, payment))
        return str(system.query("payments", sql, payment)[0][0])

    @staticmethod
    def status(system: RunningSystem, receipt: str) -> str:
        return str(system.query("payments", "SELECT status FROM payments_webhookreceipt WHERE id = %s", receipt)[0][0])

    def truth(self, system: RunningSystem, payment: str) -> str:
        answer = requests.get(f"{system.env['FAKE_GATEWAY_URL']}/payments/{payment}", timeout=60)
        return str(answer.json()["status"])

    def test_are_discarded(self, user: Operator) -> None:
        payment, receipt = self.stray(user, 11)
        user.open("/admin/payments/webhookreceipt/?waiting=yes")
        user.follow(f"#result_list a[href*='{receipt}']")
        user.press("Discard the webhook")
        user.send(reason=f"a test {NASTY}")
        assert self.status(user.system, receipt) == "discarded"
        assert NASTY in user.page.inner_text("#content")
        assert self.truth(user.system, payment) == "succeeded"
        user.is_well()

    def test_are_refunded_at_the_gateway(self, user: Operator) -> None:
        payment, receipt = self.stray(user, 12.5)
        user.open(f"/admin/payments/webhookreceipt/{receipt}/change/")
        user.press("Refund the money")
        user.send(reason="nobody's")
        assert "asked to return the money" in user.told()
        user.system.until(lambda: self.status(user.system, receipt) == "refunded")
        assert self.truth(user.system, payment) == "refunded"
        user.is_well()

    def test_large_ones_are_refunded_when_a_second_person_approves(self, user: Operator, bob: Operator) -> None:
        payment, receipt = self.stray(user, 1000.01)
        user.open(f"/admin/payments/webhookreceipt/{receipt}/change/")
        user.press("Refund the money")
        user.send(reason="nobody's")
        assert "second person" in user.told()
        assert (self.status(user.system, receipt), self.truth(user.system, payment)) == (
            "unmatched",
            "succeeded",
        )
        approve(user, receipt)
        assert "you requested this" in user.page.inner_text("[role=alert]")
        approve(bob, receipt)
        user.system.until(lambda: self.status(user.system, receipt) == "refunded")
        assert self.truth(user.system, payment) == "refunded"
        bob.is_well()

    def test_are_matched_with_their_order(self, user: Operator) -> None:
        system = user.system
        self.gateway(system, "/behaviour", order_id="matched", outcome="success", delay=3600)
        items = [{"sku": "x", "quantity": 1, "price": 9}]
        screenshots.place(system, order_id="matched", customer_id="c", payment_method="gateway", items=items)
        system.until(lambda: screenshots.status_of(system, "matched") == "payment_pending")
        sql = "SELECT gateway_payment_id FROM payments_payment WHERE order_id = 'matched'"
        ((payment,),) = system.query("payments", sql)
        self.tell(system, payment_id=payment, order_id="misspelt")
        receipt = self.kept(system, payment)
        assert self.status(system, receipt) == "quarantined"
        user.open(f"/admin/payments/webhookreceipt/{receipt}/change/")
        user.press("Match with an order")
        user.send(order_id="no such order", reason="the gateway says so")
        assert "webhook_does_not_match" in user.page.inner_text("[role=alert]")
        user.send(order_id="matched")
        assert "applied" in user.told()
        system.until(lambda: screenshots.status_of(system, "matched") == "done")
        user.is_well()

    @staticmethod
    def tell(system: RunningSystem, **data: str) -> None:
        """Send what the gateway would, signed with its secret."""
        said = {"status": "success", "amount": 9, "currency": "USD"} | data
        request = requests.Request("POST", system.url("/webhooks/payments/fake"), json={
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
    def hear(user: Operator, receiver: Receiver, order_id: str) -> tuple[dict[str, str], bytes]:
        """What the receiver is told of this order first."""

        def found() -> list[tuple[dict[str, str], bytes]]:
            return [one for one in receiver.requests if order_id.encode() in one[1]]

        user.system.until(found)
        return found()[0]

    @staticmethod
    def secret(user: Operator) -> str:
        found = re.search(r"whsec_\S+", user.page.inner_text("#secret"))
        assert found is not None
        return found[0].rstrip(".")

    def test_are_registered_given_secrets_switched_and_sent_to_again(self, user: Operator, receiver: Receiver) -> None:
        system = user.system
        user.open("/admin/orders/webhookendpoint/")
        user.press("Register an endpoint")
        user.page.select_option("[name=client]", "*")
        user.send(url="ftp://nowhere.example")
        assert user.page.inner_text(".errornote")
        user.send(url=receiver.url)
        first = self.secret(user)
        headers, body = self.hear(user, receiver, screenshots.place(system, user_id="demo-rich", amount=1))
        Webhook(first).verify(body, headers)

        user.press("Back")
        user.follow("#result_list tbody tr:first-child th a")
        endpoint = user.page.url
        user.press("Rotate the secret")
        user.send()
        second = self.secret(user)
        headers, body = self.hear(user, receiver, screenshots.place(system, user_id="demo-rich", amount=2))
        for secret in (first, second):
            Webhook(secret).verify(body, headers)

        user.page.goto(endpoint)
        user.press("Disable the endpoint")
        user.send(reason="on holiday")
        unheard = screenshots.place(system, user_id="demo-rich", amount=3)
        system.until(lambda: screenshots.status_of(system, unheard) == "done")
        told = "SELECT count(*) FROM orders_webhookdelivery WHERE order_id = %s"
        assert system.query("orders", told, unheard) == [(0,)]
        user.press("Enable the endpoint")
        user.send()
        heard = screenshots.place(system, user_id="demo-rich", amount=4)
        self.hear(user, receiver, heard)
        delivered = "SELECT id, attempts FROM orders_webhookdelivery WHERE order_id = %s AND status = 'delivered'"
        system.until(lambda: system.query("orders", delivered, heard))
        ((delivery, attempts), *_) = system.query("orders", delivered, heard)
        user.open(f"/admin/orders/webhookdelivery/?q={heard}&status__exact=delivered")
        user.follow(f"#result_list a[href*='{delivery}']")
        user.press("Send again")
        user.send()
        system.until(lambda: dict(system.query("orders", delivered, heard)).get(delivery, 0) > attempts)
        user.is_well()


def test_every_verb_is_on_record(on_record: Callable[[], str]) -> None:
    said = on_record()
    for verb in (
        "Match with an order.", "Refund the money.", "Discard the webhook.",
        "Approve.", "Register an endpoint.", "Rotate the secret.",
        "Disable the endpoint.", "Enable the endpoint.", "Send again.",
    ):  # fmt: skip
        assert verb in said, f"{verb} is not in the log"
