"""Webhooks about orders are signed, retried, and sent to public addresses only."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from standardwebhooks import Webhook

from common.principal import Principal
from orders import outbound_http, transitions, webhook_endpoints, webhooks
from orders.models import Outgoing, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from orders.services import Line, NewOrder, place_order
from outbox.consumers import receive
from outbox.metrics import REGISTRY
from payments.messages import PaymentSucceeded

ROOT = Principal("root", sees_all=True)
pytestmark = pytest.mark.django_db

NOW = timezone.now()


class Receiver(ThreadingHTTPServer):
    """An endpoint. It answers with `answers`, one after the other, then with 204."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.drip = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?x=1"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
        status, headers = self.server.answers.pop(0) if self.server.answers else (204, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if status == 299:  # a byte now and then, without end
            while not self.server.drip.wait(0.05):
                self.wfile.write(b"x")
        elif status not in (204, 304):
            self.wfile.write(b"y" * 100_000)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def receiver(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    settings.WEBHOOKS_ALLOW_LOOPBACK = True
    monkeypatch.setattr(webhooks, "_breakers", {})
    monkeypatch.setattr(outbound_http, "CONNECT_TIMEOUT", 60.0)
    monkeypatch.setattr(outbound_http, "TOTAL_TIMEOUT", 60.0)
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.drip.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def endpoint(receiver: Receiver) -> WebhookEndpoint:
    return webhook_endpoints.register(url=receiver.url, actor="root", now=NOW)


def place(order_id: str = "o") -> None:
    place_order(
        new=NewOrder(lines=(Line(quantity=1, price=500),), order_id=order_id, user_id="ann"), now=timezone.now()
    )


def work() -> None:
    """Send the webhooks that are due."""
    due = Outgoing.objects.filter(published_at=None, type="orders.deliver_webhook", due_at__lte=timezone.now())
    for row in due.order_by("id"):
        Outgoing.objects.filter(pk=row.pk).update(published_at=timezone.now())
        receive("orders", row.envelope().as_dict(), headers={}, worker="test")


class TestAnOrderEvent:
    def test_is_signed_in_the_standard_form(self, endpoint: WebhookEndpoint, receiver: Receiver) -> None:
        place()
        work()
        (headers, body), = receiver.requests  # fmt: skip
        event = Webhook(endpoint.new_secret).verify(body, headers)
        assert event == json.loads(body)
        assert (event["type"], event["data"]["order_id"], event["data"]["status"]) == ("order.created", "o", "pending")
        delivery = WebhookDelivery.objects.get()
        assert (delivery.status, headers["webhook-id"]) == ("delivered", str(delivery.event_id))
        log = WebhookAttempt.objects.get()
        assert (log.number, log.status_code, log.error) == (1, 204, "")

    def test_is_sent_to_the_endpoints_that_want_it(self, receiver: Receiver) -> None:
        for events in ([], ["order.paid"], ["order.created", "order.done"]):
            webhook_endpoints.register(url=receiver.url, events=events, actor="root", now=NOW)
        place()
        work()
        assert len(receiver.requests) == WebhookDelivery.objects.count() == 2

    def test_is_sent_with_every_transition(self, endpoint: WebhookEndpoint, receiver: Receiver) -> None:
        place()
        transitions.advance(order_id="o", event=PaymentSucceeded(order_id="o", payment_id="p"), now=timezone.now())
        work()
        sent = [json.loads(body)["type"] for _, body in receiver.requests]
        assert sent == ["order.created", "order.payment_pending", "order.paid"]

    def test_costs_nothing_without_endpoints(self) -> None:
        place()
        work()
        assert not WebhookDelivery.objects.exists()

    def test_delivered_twice_is_sent_once(self, endpoint: WebhookEndpoint, receiver: Receiver) -> None:
        place()
        row = Outgoing.objects.get(type="orders.deliver_webhook")
        for _ in range(2):
            receive("orders", row.envelope().as_dict(), headers={}, worker="test")
        assert len(receiver.requests) == 1


class TestAnEndpoint:
    def test_that_fails_is_retried_by_the_schedule(self, endpoint: WebhookEndpoint, receiver: Receiver) -> None:
        receiver.answers = [(500, {})] * 20
        place()
        with time_machine.travel(timezone.now(), tick=False) as clock:
            gaps = []
            while (delivery := WebhookDelivery.objects.get()).status == "pending":
                work()
                delivery.refresh_from_db()
                if delivery.next_at:
                    gaps.append((delivery.next_at - timezone.now()).total_seconds())
                    clock.move_to(delivery.next_at)
        expected = [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
        assert len(gaps) == len(expected)
        assert all(want <= got <= want * 1.1 for got, want in zip(gaps, expected, strict=True))
        assert (delivery.status, delivery.attempts, len(receiver.requests)) == ("failed", 10, 10)
        assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1

    @pytest.mark.parametrize(
        ("asked", "wait"),
        [("600", 600), ("1", 5), ("999999999", 86400), ("soon", 5), ("-5", 5), ("٣", 5),
         ("Thu, 01 Jan 2032 00:10:00 GMT", 600), ("Thu, 01 Jan 1970 00:00:00 GMT", 5),
         ("Thu, 99999999999999999999 Jan 2032 00:10:00 GMT", 5), ("Thu, 01 Jan 2032 00:10:00 +9999999999999", 5),
         ("9" * 5000, 86400), ("NaN", 5), ("1e999", 5)],
    )  # fmt: skip
    def test_may_ask_for_a_delay(self, endpoint: WebhookEndpoint, receiver: Receiver, asked: str, wait: int) -> None:
        receiver.answers = [(503, {"Retry-After": asked})] if asked.isascii() else [(503, {})]
        with time_machine.travel(datetime(2032, 1, 1, tzinfo=UTC), tick=False):
            place()
            work()
            waits = (WebhookDelivery.objects.get().next_at or NOW) - timezone.now()
        assert timedelta(seconds=wait) <= waits <= timedelta(seconds=wait * 1.1)

    @given(asked=st.text() | st.from_regex(r"\A\w{3}, [0-9-]{1,30} Jan [0-9]{1,6} [0-9:]{1,9} [-+][0-9]{1,20}\Z"))
    @effort(max_examples=60, deadline=None, database=None)
    def test_gets_no_delay_but_one_within_a_day(self, asked: str) -> None:
        answer = outbound_http.Answer(503, "", asked)
        wait = webhooks._requested_wait(answer, now=timezone.now())
        assert timedelta(0) <= wait <= webhooks.MAX_WAIT

    def test_goes_on_whatever_an_answer_does_to_us(
        self, endpoint: WebhookEndpoint, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: Any, **options: Any) -> None:
            raise OverflowError("a header that nobody foresaw")

        monkeypatch.setattr(outbound_http, "post", fail)
        place()
        work()
        delivery = WebhookDelivery.objects.get()
        assert (delivery.status, delivery.attempts, delivery.next_at is None) == ("pending", 1, False)
        assert WebhookAttempt.objects.get().error == "unreadable: OverflowError"

    def test_is_counted_by_its_answers(
        self, endpoint: WebhookEndpoint, receiver: Receiver, django_capture_on_commit_callbacks: Any
    ) -> None:
        def counted() -> dict[str, float]:
            results = ("taken", "refused", "endpoint_off")
            return {r: REGISTRY.get_sample_value("webhook_deliveries_total", {"result": r}) or 0 for r in results}

        before = counted()
        receiver.answers = [(503, {}), (204, {}), (410, {})]
        with django_capture_on_commit_callbacks(using="orders", execute=True):
            for order_id in ("o1", "o2", "o3", "o4"):
                place(order_id)
            work()
        assert {result: after - before[result] for result, after in counted().items()} == {
            "taken": 1, "refused": 2, "endpoint_off": 1,
        }  # fmt: skip

    def test_that_is_gone_is_switched_off(self, endpoint: WebhookEndpoint, receiver: Receiver) -> None:
        receiver.answers = [(410, {})]
        place("o1")
        place("o2")
        work()
        endpoint.refresh_from_db()
        assert (endpoint.is_active, endpoint.disabled_because) == (False, "gone")
        place("o3")
        work()
        assert len(receiver.requests) == 1
        assert set(WebhookDelivery.objects.values_list("status", flat=True)) == {"failed"}

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_is_not_followed_to_another(self, endpoint: WebhookEndpoint, receiver: Receiver, status: int) -> None:
        receiver.answers = [(status, {"Location": receiver.url})]
        place()
        work()
        assert len(receiver.requests) == 1
        assert (WebhookAttempt.objects.get().status_code, WebhookDelivery.objects.get().status) == (status, "pending")

    def test_that_answers_at_length_is_cut_short(self, endpoint: WebhookEndpoint, receiver: Receiver) -> None:
        receiver.answers = [(400, {})]
        place()
        work()
        assert WebhookAttempt.objects.get().response == "y" * outbound_http.MAX_ANSWER

    def test_that_drips_is_cut_off(
        self, endpoint: WebhookEndpoint, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbound_http, "TOTAL_TIMEOUT", 0.5)
        receiver.answers = [(299, {"Content-Length": "100000"})]
        place()
        work()
        attempt = WebhookAttempt.objects.get()
        assert attempt.seconds < 30
        assert WebhookDelivery.objects.get().status in ("pending", "delivered")

    def test_that_does_not_answer_is_not_tried_for_a_while(self, receiver: Receiver) -> None:
        endpoint = webhook_endpoints.register(url="http://127.0.0.1:1/", actor="root", now=NOW)
        for number in range(6):
            place(f"o{number}")
        work()
        assert WebhookAttempt.objects.count() == 3
        assert WebhookDelivery.objects.filter(endpoint=endpoint, status="pending").count() == 6
        assert Outgoing.objects.filter(type="orders.deliver_webhook", published_at=None).count() == 6

    def test_asks_less_and_less_often_whether_it_is_its_turn(self, receiver: Receiver) -> None:
        webhook_endpoints.register(url="http://127.0.0.1:1/", actor="root", now=NOW)
        for number in range(4):
            place(f"o{number}")
        work()
        waiting = WebhookDelivery.objects.get(attempts=0)
        gaps, began = [], timezone.now()
        with time_machine.travel(began, tick=False) as clock:
            while timezone.now() < began + timedelta(hours=12):
                assert waiting.next_at is not None
                gaps.append((waiting.next_at - timezone.now()).total_seconds())
                clock.move_to(waiting.next_at)
                message = webhooks._message(waiting)
                webhooks.record(message=message, result=webhooks.Result(0.0, resting=True), now=timezone.now())
                waiting.refresh_from_db()
        assert gaps == sorted(gaps)
        assert (round(gaps[0]), gaps[-1], waiting.attempts) == (60, 3600.0, 0)
        assert len(gaps) < 40  # not one a minute

    def test_with_a_new_secret_gets_both_signatures(self, endpoint: WebhookEndpoint, receiver: Receiver) -> None:
        renewed = webhook_endpoints.rotate(endpoint_id=str(endpoint.pk), principal=ROOT, now=timezone.now())
        place()
        work()
        (headers, body), = receiver.requests  # fmt: skip
        assert renewed.new_secret != endpoint.new_secret
        for secret in (endpoint.new_secret, renewed.new_secret):
            Webhook(secret).verify(body, headers)


class TestADelivery:
    def test_can_be_sent_again(self, endpoint: WebhookEndpoint, receiver: Receiver) -> None:
        place()
        work()
        delivery = WebhookDelivery.objects.get()
        webhooks.resend(delivery_id=str(delivery.pk), now=timezone.now())
        work()
        delivery.refresh_from_db()
        assert (delivery.status, delivery.attempts, len(receiver.requests)) == ("delivered", 2, 2)

    def test_can_not_be_sent_to_an_endpoint_that_is_off(self, endpoint: WebhookEndpoint) -> None:
        place()
        webhook_endpoints.switch(endpoint_id=str(endpoint.pk), on=False)
        with pytest.raises(webhooks.EndpointOff):
            webhooks.resend(delivery_id=str(WebhookDelivery.objects.get().pk), now=timezone.now())


HIDDEN = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",  # noqa: S104
    "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1",
    "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::1",
    "2001:0:7f00:1::1", "2001:db8::1", "fec0::1", "fd00:ec2::254", "3fff::1", "3fff:fff::1", "5f00::1", "100::1",
    "64:ff9b:1::a00:1", "2a00:1450::5efe:a00:1", "2a00:1450::200:5efe:a00:1", "::10.0.0.1", "::ffff:168.63.129.16",
    "192.88.99.1", "192.0.0.8", "192.0.0.192", "168.63.129.16", "100.100.100.200", "198.51.100.1", "203.0.113.1",
]  # fmt: skip
PUBLIC = ["93.184.216.34", "168.63.129.17", "192.88.98.1", "192.0.1.1", "2a00:1450:4001:80b::200e", "2606:4700::1111"]


class TestTheAddress:
    @pytest.mark.parametrize("address", HIDDEN)
    def test_must_not_be_a_hidden_one(self, settings: Any, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        connected: list[Any] = []
        monkeypatch.setattr("socket.create_connection", lambda *args, **kwargs: connected.append(args))
        host = f"[{address}]" if ":" in address else address
        resolves(monkeypatch, [address])
        for url in (f"https://{host}/", "https://innocent.example/"):
            with pytest.raises(outbound_http.Refused):
                outbound_http.post(url, headers={}, body=b"")
            with pytest.raises(webhook_endpoints.BadEndpoint):
                webhook_endpoints.look_up(url=url)
        assert not connected

    @pytest.mark.parametrize("address", PUBLIC)
    def test_may_be_any_public_one(self, settings: Any, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        resolves(monkeypatch, [address])
        webhook_endpoints.look_up(url="https://shop.example/")
        assert outbound_http.resolve(outbound_http.target("https://shop.example/")) == (address, 443)

    def test_must_be_found_in_time(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name whose server never answers holds nobody up."""
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        over = threading.Event()
        monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: [over.wait()][1:])
        monkeypatch.setattr(outbound_http, "DNS_TIMEOUT", 0.05)
        with pytest.raises(outbound_http.Unreachable):
            outbound_http.post("https://silent.example/", headers={}, body=b"")
        over.set()

    def test_must_not_be_one_of_several_with_a_hidden_one(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        resolves(monkeypatch, ["93.184.216.34", "10.0.0.1"])
        with pytest.raises(outbound_http.Refused):
            outbound_http.post("https://innocent.example/", headers={}, body=b"")

    def test_that_was_checked_is_the_one_connected_to(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name that resolves differently the second time is not resolved a second time."""
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        asked = resolves(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
        connected = []

        def connect(address: Any, **kwargs: Any) -> Any:
            connected.append(address)
            raise TimeoutError

        monkeypatch.setattr("socket.create_connection", connect)
        with pytest.raises(outbound_http.Unreachable):
            outbound_http.post("https://innocent.example/", headers={}, body=b"")
        assert (connected, len(asked)) == ([("93.184.216.34", 443)], 1)

    @pytest.mark.parametrize(
        "url",
        ["http://example.com/", "ftp://example.com/", "https://", "https:///x", "https://u:p@example.com/",
         "example.com", "https://exa mple.com/", "https://example.com:0/", "https://example.com:99999/",
         "https://[::1", "https://e.com/#x", "https://e.com/\r\nX: y", "javascript:alert(1)", "file:///etc/passwd", "https://пример.рф/"],
    )  # fmt: skip
    def test_must_be_in_a_plain_https_url(self, settings: Any, url: str) -> None:
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        with pytest.raises(webhook_endpoints.BadEndpoint):
            webhook_endpoints.register(url=url, actor="root", now=NOW)

    def test_may_be_loopback_only_if_that_is_allowed(self, settings: Any, receiver: Receiver) -> None:
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        with pytest.raises(webhook_endpoints.BadEndpoint):
            webhook_endpoints.look_up(url=receiver.url)

    def test_is_checked_again_when_sending(self, settings: Any, endpoint: WebhookEndpoint, receiver: Receiver) -> None:
        settings.WEBHOOKS_ALLOW_LOOPBACK = False
        place()
        work()
        assert not receiver.requests
        assert WebhookAttempt.objects.get().error.startswith("address_refused")


def resolves(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[Any]:
    """Let names resolve to these answers, one after the other; return the list of the names that were looked up."""
    asked: list[Any] = []

    def getaddrinfo(host: Any, port: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return [(2, 1, 6, "", (address, port)) for address in answers[min(len(asked), len(answers)) - 1]]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    return asked
