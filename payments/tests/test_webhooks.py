"""Webhooks of gateways: forged, stale and malformed ones are refused; the rest is stored as it came, handled once."""

import json
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connections, transaction
from django.test import Client, RequestFactory
from django.utils import timezone
from standardwebhooks import Webhook

from common import signing
from common.authority import Authority
from common.money import Money
from outbox.models import OutgoingMessage
from outbox.services import model_of
from payments import decisions, gateway_calls, lifecycle, receipts, services
from payments.gateway_calls import GatewayReply
from payments.gateways.base import Answer
from payments.gateways.base import Status as GatewayStatus
from payments.models import Entry, Outgoing, Payment, WebhookReceipt
from payments.webhooks import Webhooks

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtMTIzNA=="
OLD_SECRET = "the-secret-before"
CLIENT = Client()
REQUESTS = RequestFactory()
ENDPOINT = Webhooks.as_view()

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def secrets(settings: Any) -> None:
    settings.PAYMENT_WEBHOOK_SECRETS = [SECRET, OLD_SECRET]


def event(order: str = "o", /, *, outcome: str = "success", **data: object) -> bytes:
    kind = {"success": "payment.succeeded", "failed": "payment.failed"}[outcome]
    said = {
        "payment_id": f"pay_{order}", "order_id": order, "status": outcome,
        "amount": 10.0, "currency": "USD",
    }  # fmt: skip
    return json.dumps({"type": kind, "data": said | data}).encode()


def signed(
    body: bytes, *, webhook_id: str = "evt_1", at: datetime | None = None, secret: str = SECRET
) -> dict[str, str]:
    return signing.sign(secrets=[secret], message_id=webhook_id, timestamp=at or timezone.now(), body=body)


def send(body: bytes, headers: dict[str, Any] | None = None, *, path: str = "/webhooks/payments", **how: Any) -> Any:
    return CLIENT.post(
        path, body, content_type="application/json", headers=signed(body, **how) if headers is None else headers
    )


def send_many(number: int, body: bytes, headers: dict[str, Any]) -> Any:
    """Every twentieth as `send` does, and the others to the endpoint alone, without what stands around it."""
    if number % 20 == 0:
        return send(body, headers)
    request = REQUESTS.post("/webhooks/payments", body, content_type="application/json", headers=headers)
    return ENDPOINT(request)


def pending(order_id: str = "o", *, amount: int = 1000) -> Payment:
    """Make a payment that is pending at the gateway."""
    now = timezone.now()
    services.charge_gateway(order_id=order_id, money=services.Money(amount, "USD"), now=now)
    answer = Answer(
        payment_id=f"pay_{order_id}", order_id=order_id, status=GatewayStatus.PENDING, amount=amount, currency="USD"
    )
    Payment.objects.filter(pk=order_id).update(tried_at=now)
    record(order_id, GatewayReply(Payment.Status.REQUESTED, answer=answer))
    Outgoing.objects.filter(published_at=None).update(published_at=now)
    return Payment.objects.get(pk=order_id)


def record(order_id: str, reply: GatewayReply) -> None:
    with transaction.atomic("payments"):
        gateway_calls.record(order_id=order_id, reply=reply, now=timezone.now())


def work() -> list[str]:
    """Handle the webhooks for which messages were posted, and return the types of the other messages."""
    others = []
    while rows := list(Outgoing.objects.filter(published_at=None).order_by("id")):
        for row in rows:
            Outgoing.objects.filter(pk=row.pk).update(published_at=timezone.now())
            if row.type == "payments.handle_webhook":
                receipts.handle(receipt_id=row.data["receipt_id"], now=timezone.now())
            else:
                others.append(row.type)
    return others


class TestASignedWebhook:
    @pytest.mark.parametrize("path", ["/webhooks/payments", "/webhooks/payments/", "/webhooks/payments/fake"])
    @pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
    def test_is_stored_as_it_came_and_handled(self, path: str, secret: str) -> None:
        pending()
        body = event()
        answer = send(body, path=path, secret=secret)
        receipt = WebhookReceipt.objects.get()
        assert (answer.status_code, answer.json()) == (202, {"receipt_id": str(receipt.pk)})
        assert (bytes(receipt.body), receipt.status, receipt.webhook_id) == (body, "received", "evt_1")
        assert set(receipt.headers) >= {"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}
        assert "Cookie" not in receipt.headers
        assert work() == ["payment.succeeded"]
        receipt.refresh_from_db()
        assert (receipt.status, Payment.objects.get().status) == ("applied", "succeeded")
        assert [(e.kind, e.source.user_id, e.amount) for e in Entry.objects.all()] == [("charge", "cash", 1000)]

    def test_of_the_reference_library_is_accepted(self) -> None:
        body = event().decode()
        now = timezone.now()
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(SECRET).sign("msg_1", now, body),
        }
        assert send(body.encode(), headers).status_code == 202

    @pytest.mark.parametrize("accept", ["text/html", "image/png", "*/*", "nonsense"])
    def test_is_accepted_whatever_answer_its_sender_accepts(self, accept: str) -> None:
        body = event()
        assert send(body, signed(body) | {"Accept": accept}).status_code == 202

    def test_sent_a_thousand_times_has_one_effect(self) -> None:
        pending()
        body = event()
        headers = signed(body)
        assert {send_many(number, body, headers).status_code for number in range(1000)} == {202}
        assert WebhookReceipt.objects.count() == 1
        assert work() == ["payment.succeeded"]
        assert Entry.objects.count() == 1

    def test_under_other_ids_has_one_effect(self) -> None:
        pending()
        for number in range(20):
            send(event(), webhook_id=f"evt_{number}")
        assert work() == ["payment.succeeded"]
        assert set(WebhookReceipt.objects.values_list("status", flat=True)) == {"applied"}
        assert Entry.objects.count() == 1

    def test_under_a_used_id_is_refused(self) -> None:
        send(event())
        answer = send(event(amount=1.0))
        assert (answer.status_code, answer.json()["code"]) == (409, "webhook_id_reused")
        assert bytes(WebhookReceipt.objects.get().body) == event()

    @pytest.mark.parametrize(
        "body",
        [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"type": "payment.succeeded"}', event(amount="x"),
         event(amount=None), event(currency="XXX"), event(status="failed"), event(order_id=7), event(amount=1e300),
         b"[" * 50_000, event(payment_id="\0"), event("x" * 101)],
    )  # fmt: skip
    def test_that_cannot_be_read_is_refused(self, body: bytes) -> None:
        assert send(body).status_code == 400
        assert not WebhookReceipt.objects.exists()

    def test_of_an_unknown_gateway_is_refused(self) -> None:
        assert send(event(), path="/webhooks/payments/nobody").status_code == 404

    def test_is_refused_by_the_endpoint_of_another_gateway(self) -> None:
        assert send(event(), path="/webhooks/payments/stripe").status_code == 401

    def test_that_is_too_large_is_refused(self) -> None:
        assert send(event() + b" " * 300_000).status_code == 413
        assert not WebhookReceipt.objects.exists()


MALFORMED = [
    "",
    " ",
    "v1",
    "v1,",
    "v1,=",
    "v1,é",
    "-1",
    "1e9",
    "9" * 40,
    "٣",
    "NaN",
    "a.b",
    "\x7f",
    "v1," * 999,
    "x" * 9000,
]

FORGERIES: dict[str, Callable[[random.Random, bytes, dict[str, str]], tuple[bytes, dict[str, Any]]]] = {
    "a bit flipped": lambda chance, body, headers: (flipped(chance, body), headers),
    "cut off": lambda chance, body, headers: (body[: chance.randrange(len(body))], headers),
    "lengthened": lambda chance, body, headers: (body + chance.randbytes(chance.randint(1, 9)), headers),
    "the wrong key": lambda chance, body, headers: (body, signed(body, secret=f"guess-{chance.random()}")),
    "another order's": lambda chance, body, headers: (event(f"o{chance.randrange(10**6)}"), headers),
    "too old": lambda chance, body, headers: (body, signed(body, at=timezone.now() - timedelta(seconds=301))),
    "too new": lambda chance, body, headers: (body, signed(body, at=timezone.now() + timedelta(seconds=301))),
    "another time": lambda chance, body, headers: (
        body, headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + chance.choice([-9, 1, 250]))},
    ),
    "another id": lambda chance, body, headers: (body, headers | {"webhook-id": f"evt_{chance.randrange(10**9)}"}),
    "a header missing": lambda chance, body, headers: (body, without(headers, chance.choice(sorted(headers)))),
    "a header malformed": lambda chance, body, headers: (
        body, headers | {chance.choice(sorted(headers)): chance.choice(MALFORMED)},
    ),
    "a signature of another version": lambda chance, body, headers: (
        body,
        headers | {"webhook-signature": headers["webhook-signature"].replace("v1,", chance.choice(["v1a,", "v2,"]))},
    ),
    "not UTF-8": lambda chance, body, headers: (b"\xff" + chance.randbytes(40), headers),
    "noise": lambda chance, body, headers: (
        chance.randbytes(60), {name: chance.randbytes(12).decode("latin-1") for name in headers},
    ),
}  # fmt: skip


def flipped(chance: random.Random, body: bytes) -> bytes:
    index = chance.randrange(len(body))
    return body[:index] + bytes([body[index] ^ 1 << chance.randrange(8)]) + body[index + 1 :]


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {other: value for other, value in headers.items() if other != name}


FORGED = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 2_000


@pytest.mark.slow
@pytest.mark.parametrize("forgery", FORGERIES)
def test_of_thousands_of_forged_webhooks_none_is_accepted(forgery: str) -> None:
    """A share of them for each kind of forgery."""
    chance = random.Random(forgery)
    pending()
    with time_machine.travel(timezone.now(), tick=False):
        for number in range(FORGED // len(FORGERIES) + 1):
            body = event()
            body, headers = FORGERIES[forgery](chance, body, signed(body, webhook_id=f"evt_{number}"))
            assert send_many(number, body, headers).status_code in (400, 401), (body, headers)
    assert not WebhookReceipt.objects.exists()
    assert Payment.objects.get().status == "pending"


class TestAWebhookThatDoesNotFit:
    @pytest.mark.parametrize(
        ("says", "reason"),
        [
            ({"amount": 9.99}, "amount_mismatch"),
            ({"currency": "EUR"}, "currency_mismatch"),
            ({"payment_id": "pay_other"}, "payment_mismatch"),
            ({"order_id": "unknown"}, "order_mismatch"),
            ({"order_id": "p"}, "payment_mismatch"),
        ],
    )
    def test_is_quarantined(self, says: dict[str, Any], reason: str) -> None:
        pending("o")
        pending("p")
        send(event("o", **says))
        assert work() == []
        receipt = WebhookReceipt.objects.get()
        assert (receipt.status, receipt.reason) == ("quarantined", reason)
        assert not Entry.objects.exists()
        assert set(Payment.objects.values_list("status", flat=True)) == {"pending"}

    def test_because_it_contradicts_is_quarantined(self) -> None:
        pending()
        send(event())
        send(event(outcome="failed"), webhook_id="evt_2")
        assert work() == ["payment.succeeded"]
        receipt = WebhookReceipt.objects.get(webhook_id="evt_2")
        assert (receipt.status, receipt.reason) == ("quarantined", "contradicts_the_payment")


class TestAWebhookBeforeItsPayment:
    def test_is_kept_until_the_gateway_has_replied(self) -> None:
        services.charge_gateway(order_id="o", money=services.Money(1000, "USD"), now=timezone.now())
        send(event())
        assert work() == ["payments.turn_to_gateway"]
        assert WebhookReceipt.objects.get().status == "unmatched"
        answer = Answer(payment_id="pay_o", order_id="o", status=GatewayStatus.PENDING, amount=1000, currency="USD")
        record("o", GatewayReply(Payment.Status.REQUESTED, answer=answer))
        assert work() == ["payment.pending", "payment.succeeded"]
        assert WebhookReceipt.objects.get().status == "applied"

    def test_is_found_by_the_sweep(self) -> None:
        send(event())
        work()
        assert receipts.sweep() == 0
        pending()
        assert receipts.sweep() == 1
        assert work() == ["payment.succeeded"]
        assert receipts.sweep() == 0


ROOT = Authority("root", is_staff=True)


class TestAnOperator:
    def kept(self, **says: Any) -> str:
        pending()
        send(event(**says))
        work()
        return str(WebhookReceipt.objects.get().pk)

    def test_matches_a_webhook_to_its_order(self) -> None:
        receipt_id = self.kept(order_id="mistyped")
        receipt = decisions.match(receipt_id=receipt_id, order_id="o", reason="seen", by=ROOT, now=timezone.now())
        assert (receipt.status, receipt.decided_by, work()) == ("applied", "root", ["payment.succeeded"])

    @pytest.mark.parametrize("says", [{"amount": 1.0}, {"currency": "EUR"}, {"payment_id": "pay_second"}])
    def test_cannot_match_other_money(self, says: dict[str, Any]) -> None:
        receipt_id = self.kept(**says)
        with pytest.raises(decisions.DoesNotMatch):
            decisions.match(receipt_id=receipt_id, order_id="o", reason="seen", by=ROOT, now=timezone.now())
        assert WebhookReceipt.objects.get().status == "quarantined"
        assert not Entry.objects.exists()

    def test_discards_a_webhook_once(self) -> None:
        receipt_id = self.kept(amount=1.0)
        decisions.discard(receipt_id=receipt_id, reason="a test of theirs", by=ROOT, now=timezone.now())
        receipt = WebhookReceipt.objects.get()
        assert (receipt.status, receipt.reason, receipt.decided_by) == ("discarded", "a test of theirs", "root")
        with pytest.raises(decisions.NotOpen):
            decisions.discard(receipt_id=receipt_id, reason="again", by=ROOT, now=timezone.now())

    def test_cannot_return_money_that_belongs_to_an_order(self) -> None:
        receipt_id = self.kept(amount=1.0)
        with pytest.raises(decisions.NotStray):
            decisions.refund(receipt_id=receipt_id, money=Money(1, "USD"), reason="stray", by=ROOT)

    def test_has_stray_money_refunded(self) -> None:
        receipt_id = self.kept(payment_id="pay_second")
        decisions.refund(receipt_id=receipt_id, money=Money(1, "USD"), reason="stray", by=ROOT)
        assert work() == ["payments.refund_receipt"]


class TestMoneyThatComesInLate:
    def test_goes_back_without_an_announcement(self) -> None:
        """It was announced that no money came in, and that is true again."""
        pending()
        send(event(outcome="failed"), webhook_id="evt_1")
        send(event(), webhook_id="evt_2")
        assert work() == ["payment.failed", "payments.turn_to_gateway"]
        assert Payment.objects.get().status == "refunding"
        answer = Answer(payment_id="pay_o", order_id="o", status=GatewayStatus.REFUNDED, amount=1000, currency="USD")
        record("o", GatewayReply(Payment.Status.REFUNDING, answer=answer))
        assert work() == []
        assert list(Entry.objects.order_by("id").values_list("kind", flat=True)) == ["charge", "refund"]


@pytest.mark.parametrize("status", list(Payment.Status))
@pytest.mark.parametrize("says", [GatewayStatus.SUCCEEDED, GatewayStatus.FAILED, GatewayStatus.CANCELED])
def test_a_webhook_contradicts_a_payment_only_if_its_money_came_in(status: Payment.Status, says: GatewayStatus) -> None:
    event = receipts.EVENTS[says]
    contradicts = (status, event) not in lifecycle.STEPS and lifecycle.otherwise(
        status, event
    ) == "refused as a contradiction"
    assert contradicts == (status in ("succeeded", "refunding", "refund_refused") and says != GatewayStatus.SUCCEEDED)


@pytest.mark.django_db(transaction=True)
def test_webhooks_void_and_answers_at_once_move_the_money_once() -> None:
    pending()
    body = event()

    def deliver(number: int) -> None:
        try:
            if number % 4 == 3:
                services.give_back(order_id="o", now=timezone.now())
            else:
                send(body, webhook_id=f"evt_{number}")
                found = WebhookReceipt.objects.get(webhook_id=f"evt_{number}")
                receipts.handle(receipt_id=str(found.pk), now=timezone.now())
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(deliver, range(32)))
    assert list(Entry.objects.values_list("kind", flat=True)) == ["charge"]
    assert Payment.objects.get().status == "refunding"
    posted: list[OutgoingMessage] = list(model_of("payments", "Outgoing").objects.all())
    assert [row.type for row in posted].count("payment.succeeded") <= 1
