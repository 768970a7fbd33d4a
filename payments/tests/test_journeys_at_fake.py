"""Payments at the fake payment service, over HTTP, with their webhooks in order, in the reverse order, and twice."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from django.utils import timezone

from common import signing
from payments import ledger, receipts, services
from payments.gateways.fake import webhook_url
from payments.gateways.server import FakeService
from payments.models import WebhookReceipt
from payments.tests.driver import ask_again, moved, stored, types, view, work

SECRET = "dev-webhook-secret"
ORDERS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "in order": list,
    "reversed": lambda events: events[::-1],
    "twice": lambda events: [*events, *events],
}
pytestmark = pytest.mark.django_db


class Service(FakeService):
    """The fake payment service, whose webhooks are kept to be delivered by the test."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.events: list[tuple[str, bytes]] = []
        super().__init__(*args, **kwargs)

    def _deliver(self, payment: Any, event_id: str, content: dict[str, Any]) -> bool:
        self.events.append((event_id, json.dumps(content).encode()))
        return True

    def by_hand(self, action: str, **more: Any) -> None:
        url = f"http://127.0.0.1:{self.port}/payments/{stored().gateway_payment_id}/by_hand"
        requests.post(url, json={"action": action, **more}, timeout=60).raise_for_status()

    def wait_for(self, *kinds: str) -> None:
        """Return when there is an event of each of these kinds."""
        deadline = time.monotonic() + 60
        while not set(kinds) <= {json.loads(body)["type"] for _, body in self.events}:
            assert time.monotonic() < deadline, self.events
            time.sleep(0.01)


@pytest.fixture
def service(settings: Any) -> Iterator[Service]:
    settings.PAYMENT_GATEWAY, settings.PAYMENT_WEBHOOK_SECRETS = "fake", [SECRET]
    settings.GATEWAY_TIMEOUT = (60, 60)
    server = Service(("127.0.0.1", 0), webhook_url=webhook_url(), secrets=[SECRET], success_rate=1.0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.FAKE_GATEWAY_URL = f"http://127.0.0.1:{server.port}"
    server.bank.behave({"delay": 0})
    yield server
    server.close()


def begin(service: Service, kind: str, **how: Any) -> str:
    """Charge the order, and return what orders is told last when the gateway has sent this webhook."""
    services.charge_gateway(order_id="o", money=services.Money(1000, "USD"), now=timezone.now(), **how)
    told = types(work())
    service.wait_for(kind)
    told += deliver(service)
    assert len(set(told)) == len(told)
    return told[-1]


def deliver(service: Service, how: str = "in order") -> list[str]:
    """Deliver the webhooks that have been sent so far, and return what orders is told."""
    for event_id, body in ORDERS[how](list(service.events)):
        headers = signing.sign(secrets=[SECRET], message_id=event_id, timestamp=timezone.now(), body=body)
        receipts.receive(gateway="fake", headers=headers, body=body, now=timezone.now())
    return types(work())


@pytest.mark.parametrize("how", ORDERS)
class TestMoneyThatIsReserved:
    @pytest.mark.parametrize("amount", [1000, 250])
    def test_is_captured(self, service: Service, how: str, amount: int) -> None:
        assert begin(service, "payment.authorized", is_manual=True) == "payment.authorized"
        assert stored().authorized_until is not None
        services.capture(order_id="o", amount=amount, now=timezone.now())
        told = types(work())
        service.wait_for("payment.succeeded")
        assert told + deliver(service, how) == ["payment.succeeded"]
        assert (moved(), view().authorized_amount) == ([("charge", amount)], 1000)
        services.give_back(order_id="o", now=timezone.now())
        assert types(work()) == ["payment.refunded"]
        assert ledger.of_order("o").kept == 0

    def test_is_captured_by_hand(self, service: Service, how: str) -> None:
        begin(service, "payment.authorized", is_manual=True)
        service.by_hand("capture", amount=3.5)
        service.wait_for("payment.succeeded")
        assert deliver(service, how) == ["payment.succeeded"]
        assert moved() == [("charge", 350)]

    def test_expires(self, service: Service, how: str) -> None:
        begin(service, "payment.authorized", is_manual=True)
        service.by_hand("expire")
        service.wait_for("payment.failed")
        assert deliver(service, how) == ["payment.failed"]
        assert (stored().status, stored().fail_reason, moved()) == ("failed", "authorization_expired", [])

    def test_is_released(self, service: Service, how: str) -> None:
        begin(service, "payment.authorized", is_manual=True)
        services.give_back(order_id="o", now=timezone.now())
        assert types(work()) == ["payment.voided"]
        assert set(deliver(service, how)) <= {"payment.voided"}  # a webhook that is late makes sure of it once more
        assert (stored().status, moved()) == ("voided", [])


class TestAPayer:
    @pytest.mark.parametrize("choice", ["pay", "decline"])
    def test_goes_to_the_page_of_the_gateway(self, service: Service, choice: str) -> None:
        service.bank.behave({"needs_payer": True, "delay": 0})
        services.charge_gateway(order_id="o", money=services.Money(1000, "USD"), now=timezone.now())
        work()
        action = view().next_action
        assert action is not None
        requests.post(action["url"], data={"choice": choice}, timeout=60).raise_for_status()
        service.wait_for({"pay": "payment.succeeded", "decline": "payment.failed"}[choice])
        assert deliver(service, "twice") == [{"pay": "payment.succeeded", "decline": "payment.failed"}[choice]]
        assert (view().next_action, view().client_secret) == (None, "")


class TestAReturn:
    @pytest.mark.parametrize("how", ORDERS)
    @pytest.mark.parametrize(("behaviour", "kind", "told"), [
        ("late", "refund.succeeded", ["payment.refunded"]),
        ("failed", "refund.failed", ["payment.return_refused"]),
        ("undone", "refund.failed", ["payment.return_undone"]),
    ])  # fmt: skip
    def test_is_late_or_fails(self, service: Service, how: str, behaviour: str, kind: str, told: list[str]) -> None:
        service.bank.behave({"delay": 0, "refund": behaviour})
        assert begin(service, "payment.succeeded") == "payment.succeeded"
        services.give_back(order_id="o", now=timezone.now())
        at_once = types(work())
        service.wait_for(kind)
        assert at_once + deliver(service, how) + types(ask_again()) in (told, ["payment.refunded", *told])
        money = ledger.of_order("o")
        assert money.kept == (0 if behaviour == "late" else 1000)
        assert not WebhookReceipt.objects.filter(status__in=("quarantined", "unmatched")).exists()
