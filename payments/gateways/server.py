"""
The fake payment service: a small HTTP server that takes payments, and sends webhooks about them later.

It asks nobody for a secret, so it serves programs of its own network alone: it answers to the names that it was started
with, takes JSON only, refuses what a browser sends for another site, and sends webhooks to one address only.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import requests

from common import signing
from outbox import strict_json

from . import fake_page
from .fake_bank import Bank
from .fake_payments import Payment, Refused

MAX_BODY_BYTES = 64 * 1024
RETRIES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # seconds between deliveries that are not answered with 2xx
TRACED = ("traceparent", "X-Correlation-ID")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
PAGE = "/pay/"
FORM_TYPE = "application/x-www-form-urlencoded"
MAX_REORDER_SECONDS = 2.0  # for which a webhook waits until another one has overtaken it


class FakeService(ThreadingHTTPServer):
    """The HTTP server: it listens when it is constructed, answers in `serve_forever`, and ends with `close`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        *,
        webhook_url: str,
        secrets: list[str],
        success_rate: float,
        state: Path | None = None,
        hosts: frozenset[str] = LOOPBACK,
    ) -> None:
        """
        :param webhook_url: where all webhooks are sent
        :param hosts: the names by which the service may be called
        """
        self.webhook_url = webhook_url
        self.hosts = hosts
        self.secrets = secrets
        self.bank = Bank(success_rate=success_rate, state=state)
        self.stopping = threading.Event()
        self._overtaken = threading.Condition()
        self._sent = 0
        super().__init__(address, Handler)
        self._senders = ThreadPoolExecutor(max_workers=16, thread_name_prefix="webhook")
        for payment in self.bank.unfinished():
            self.schedule(payment)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def close(self) -> None:
        """Stop serving and sending webhooks."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        self._senders.shutdown(wait=True, cancel_futures=True)

    def schedule(self, payment: Payment) -> None:
        """Move the money and send the webhook when the delay of the payment has passed."""
        if payment.status == "authorized":
            self.later(payment.until - time.time(), payment, payment.expire)
        elif not payment.waits_for_payer:
            self._after(payment.due - time.time(), lambda: self.notify(payment))

    def later(self, seconds: float, payment: Payment, change: Callable[[], None]) -> None:
        """Change a payment after a time, and tell of it."""

        def act() -> None:
            with self.bank.changing(payment.payment_id):
                change()
            self.tell(payment)

        self._after(seconds, act)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        timer = threading.Timer(min(max(0.0, seconds), threading.TIMEOUT_MAX), self._fall_due, args=(act,))
        timer.daemon = True
        timer.start()

    def _fall_due(self, act: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the service was closed meanwhile
            self._senders.submit(act)

    def notify(self, payment: Payment) -> None:
        """Settle a payment, and send its webhook and the duplicates until each is accepted."""
        to_tell = self.bank.settle(payment)
        self.tell(payment)
        if payment.status == "authorized":
            self.schedule(payment)
        if not to_tell:
            return
        if payment.behaviour["reorder"]:
            with self._overtaken:
                sent = self._sent
                self._overtaken.wait_for(lambda: self._sent > sent or self.stopping.is_set(), MAX_REORDER_SECONDS)
        if self._send(payment, f"evt_{payment.payment_id}", payment.outcome_event()):
            self.bank.notified(payment)
        with self._overtaken:
            self._sent += 1
            self._overtaken.notify_all()
        if payment.behaviour.get("dispute") and payment.outcome == "success":
            self.later(payment.behaviour["delay"], payment, payment.dispute_once)

    def tell(self, payment: Payment) -> None:
        """Send the webhooks about a payment that are still to be sent, besides that about its outcome."""
        for event in list(payment.untold):
            if payment.behaviour["drop"] or self._send(payment, event["id"], event["body"]):
                self.bank.told(payment, event)

    def _send(self, payment: Payment, event_id: str, content: dict[str, Any]) -> bool:
        """Send a webhook, and the duplicates; return whether one of them was accepted."""
        accepted = [self._deliver(payment, event_id, content) for _ in range(1 + payment.behaviour["duplicates"])]
        return any(accepted)

    def _deliver(self, payment: Payment, event_id: str, content: dict[str, Any]) -> bool:
        body = json.dumps(content).encode()
        for pause in (*RETRIES, None):
            headers = signing.sign(secrets=self.secrets, message_id=event_id, timestamp=datetime.now(UTC), body=body)
            headers |= {"Content-Type": "application/json"} | payment.carries
            try:
                with requests.Session() as session:
                    session.trust_env = False
                    answer = session.post(
                        self.webhook_url, data=body, headers=headers, timeout=5, allow_redirects=False
                    )
                if answer.ok and not answer.is_redirect:
                    return True
            except (requests.RequestException, ValueError, OSError):
                pass
            if pause is None or self.stopping.wait(pause):
                break
        return False


class Handler(BaseHTTPRequestHandler):
    """The API of the fake payment service."""

    protocol_version = "HTTP/1.1"
    server_version = "fake-gateway"
    timeout = 30
    server: FakeService

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def _respond(self, act: Any) -> None:
        try:
            self._check_sender()
            status, answer = act()
        except Refused as refused:
            status, answer = refused.status, {"error": {"code": refused.code, "message": refused.code}}
        is_page = isinstance(answer, str)
        content = answer.encode() if is_page else json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8" if is_page else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # the client is gone
            self.close_connection = True

    def _check_sender(self) -> None:
        """:raises Refused: if the request is for another host, or comes from a page in a browser that is not ours"""
        unread, self.close_connection = self.close_connection, True
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in self.server.hosts:
            raise Refused(421, "unknown_host")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if self.path.startswith(PAGE):  # payers come there from other sites, and pay on the page itself
            is_ours = self.command == "GET" or site in ("none", "same-origin")
            is_ours &= self.headers.get("Origin", self._url) == self._url
        else:
            is_ours = "Origin" not in self.headers and site == "none"
        if not is_ours:
            raise Refused(403, "cross_site")
        self.close_connection = unread

    @property
    def _url(self) -> str:
        return f"http://{self.headers.get('Host', '')}"

    def _get(self) -> tuple[int, dict[str, Any] | str]:
        parts = urlsplit(self.path)
        match parts.path.strip("/").split("/"):
            case ["health"]:
                return 200, {"status": "ok"}
            case ["payments"]:
                order_id = parse_qs(parts.query).get("order_id", [""])[0]
                return 200, self._shown(self.server.bank.find(order_id=order_id))
            case ["payments", payment_id]:
                return 200, self._shown(self.server.bank.find(payment_id=unquote(payment_id)))
            case ["payments", payment_id, "refunds"]:
                return 200, {"refunds": self.server.bank.find(payment_id=unquote(payment_id)).refunds}
            case ["pay", payment_id]:
                return 200, fake_page.html(self.server.bank.find(payment_id=unquote(payment_id)))
            case ["transactions"]:
                given = parse_qs(parts.query)
                since, until = (_seconds(given.get(name, [""])[0]) for name in ("since", "until"))
                return 200, {"transactions": self.server.bank.transactions(since=since, until=until)}
        raise Refused(404, "no_such_page")

    def _post(self) -> tuple[int, dict[str, Any] | str]:
        path = urlsplit(self.path).path.strip("/").split("/")
        if path[0] == "pay" and len(path) == 2:
            return 200, self._choose(unquote(path[1]))
        content = self._body()
        match path:
            case ["behaviour"]:
                return 200, vars(self.server.bank.behave(content))
            case ["payments"]:
                return self._create(content)
            case ["payments", payment_id, "cancel"]:
                return 200, self._shown(self.server.bank.cancel(unquote(payment_id)))
            case ["payments", payment_id, "refund"]:
                return 200, self._shown(self.server.bank.return_all(unquote(payment_id)))
            case ["payments", payment_id, "refunds"]:
                return 201, self._refund(unquote(payment_id), content)
            case ["payments", payment_id, "capture"]:
                return 200, self._capture(unquote(payment_id), content)
            case ["payments", payment_id, "by_hand"]:
                return 200, self._by_hand(unquote(payment_id), content)
        raise Refused(404, "no_such_page")

    def _shown(self, payment: Payment) -> dict[str, Any]:
        return payment.shown(base_url=self._url)

    def _choose(self, payment_id: str) -> str:
        """Pay or decline, as the payer has chosen on the page."""
        choice = parse_qs(self._raw(FORM_TYPE).decode("utf-8", "replace")).get("choice", [""])[0]
        if choice not in fake_page.OUTCOMES:
            raise Refused(400, "unknown_choice")
        with self.server.bank.changing(payment_id) as payment:
            if payment.waits_for_payer:
                payment.outcome = fake_page.OUTCOMES[choice]
                payment.behaviour["needs_payer"], payment.due = False, time.time()
                self.server.schedule(payment)
        return fake_page.html(payment)

    def _capture(self, payment_id: str, content: dict[str, Any]) -> dict[str, Any]:
        with self.server.bank.changing(payment_id) as payment:
            payment.take(_amount(content))
        self.server.later(0, payment, lambda: None)  # an authorization that is found expired is told of
        if payment.status == "succeeded":
            self.server.schedule(payment)
        return self._shown(payment)

    def _refund(self, payment_id: str, content: dict[str, Any], *, by_hand: bool = False) -> dict[str, Any]:
        name = content.get("name", "")
        if not isinstance(name, str) or len(name) > 100:
            raise Refused(400, "invalid_name")
        with self.server.bank.changing(payment_id) as payment:
            refund = payment.refund(_amount(content), name=name, by_hand=by_hand)
            answer = dict(refund)
        if payment.behaviour.get("refund"):
            self.server.later(payment.behaviour["delay"], payment, lambda: payment.end_refund(refund))
        return answer

    def _by_hand(self, payment_id: str, content: dict[str, Any]) -> dict[str, Any]:
        """Do what somebody does in the gateway's own pages, or what a payer's bank does."""
        action, amount = content.get("action"), _amount(content)
        if action == "refund":
            self._refund(payment_id, content, by_hand=True)
        with self.server.bank.changing(payment_id) as payment:
            match action:
                case "refund":
                    pass
                case "capture":
                    payment.take(amount)
                case "dispute":
                    payment.dispute(amount)
                case "win" | "lose":
                    payment.decide({"win": "won", "lose": "lost"}[action])
                case "expire":
                    payment.expire()
                case _:
                    raise Refused(400, "unknown_action")
        if action == "capture":
            self.server.schedule(payment)
        self.server.later(0, payment, lambda: None)
        return self._shown(payment)

    def _create(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        key = self.headers.get("Idempotency-Key", "")
        if len(key) > 255:
            raise Refused(400, "invalid_idempotency_key")
        if content.get("webhook_url", self.server.webhook_url) != self.server.webhook_url:
            raise Refused(403, "foreign_webhook_url")
        payment, behaviour, is_new, lost = self.server.bank.create(content, key=key)
        if is_new:
            payment.carries = {name: self.headers[name] for name in TRACED if name in self.headers}
            if behaviour.early:
                self.server.notify(payment)
            else:
                self.server.schedule(payment)
            if behaviour.hang:
                self.server.stopping.wait(behaviour.hang)
        if lost:
            raise Refused(500, "internal_error")
        return 201, self._shown(payment)

    def _raw(self, content_type: str) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Refused(411, "length_required")
        if len(length) > 12 or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise Refused(413, "too_large")
        raw = self.rfile.read(int(length))
        if raw and self.headers.get_content_type() != content_type:
            raise Refused(415, "not_json")
        return raw

    def _body(self) -> dict[str, Any]:
        raw = self._raw("application/json")
        try:
            content = strict_json.parse(raw) if raw else {}
        except ValueError:
            raise Refused(400, "not_json") from None
        if not isinstance(content, dict):
            raise Refused(400, "not_an_object")
        return content


def _amount(content: dict[str, Any]) -> float | None:
    amount = content.get("amount")
    if amount is not None and (isinstance(amount, bool) or not isinstance(amount, int | float)):
        raise Refused(400, "invalid_amount")
    return None if amount is None else float(amount)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refused(400, "invalid_time") from None
