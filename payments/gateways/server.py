"""
The fake payment service: a small HTTP server that takes payments, and sends webhooks about them later.

It asks nobody for a secret, so it serves programs of its own network alone: it answers to the names that it was started
with, takes JSON only, refuses what a browser sends for another site, and sends webhooks to one address only.
"""

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import requests

from common import signing

from .fake_bank import Bank, Payment, Refused

MAX_BODY_BYTES = 64 * 1024
RETRIES = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds between deliveries that are not answered with 2xx
TRACED = ("traceparent", "X-Correlation-ID")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
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
        timer = threading.Timer(max(0.0, payment.due - time.time()), self._fall_due, args=(payment,))
        timer.daemon = True
        timer.start()

    def notify(self, payment: Payment) -> None:
        """Settle a payment, and send its webhook and the duplicates until each is accepted."""
        if not self.bank.settle(payment):
            return
        if payment.behaviour["reorder"]:
            with self._overtaken:
                sent = self._sent
                self._overtaken.wait_for(lambda: self._sent > sent or self.stopping.is_set(), MAX_REORDER_SECONDS)
        accepted = [self._deliver(payment) for _ in range(1 + payment.behaviour["duplicates"])]
        with self._overtaken:
            self._sent += 1
            self._overtaken.notify_all()
        if any(accepted):
            self.bank.notified(payment)

    def _fall_due(self, payment: Payment) -> None:
        with contextlib.suppress(RuntimeError):  # the service was closed meanwhile
            self._senders.submit(self.notify, payment)

    def _deliver(self, payment: Payment) -> bool:
        body = json.dumps(payment.event()).encode()
        for pause in (*RETRIES, None):
            headers = signing.sign(
                secrets=self.secrets, message_id=f"evt_{payment.payment_id}", timestamp=datetime.now(UTC), body=body
            )
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
        content = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # the client is gone
            self.close_connection = True

    def _check_sender(self) -> None:
        """:raises Refused: if the request is for another host, or comes from a page in a browser"""
        unread, self.close_connection = self.close_connection, True
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in self.server.hosts:
            raise Refused(421, "unknown_host")
        if "Origin" in self.headers or self.headers.get("Sec-Fetch-Site", "none") != "none":
            raise Refused(403, "cross_site")
        self.close_connection = unread

    def _get(self) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(self.path)
        match parts.path.strip("/").split("/"):
            case ["health"]:
                return 200, {"status": "ok"}
            case ["payments"]:
                order_id = parse_qs(parts.query).get("order_id", [""])[0]
                return 200, self.server.bank.find(order_id=order_id).shown()
            case ["payments", payment_id]:
                return 200, self.server.bank.find(payment_id=unquote(payment_id)).shown()
        raise Refused(404, "no_such_page")

    def _post(self) -> tuple[int, dict[str, Any]]:
        content = self._body()
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["behaviour"]:
                return 200, vars(self.server.bank.behave(content))
            case ["payments"]:
                return self._create(content)
            case ["payments", payment_id, "cancel"]:
                return 200, self.server.bank.cancel(unquote(payment_id)).shown()
            case ["payments", payment_id, "refund"]:
                return 200, self.server.bank.refund(unquote(payment_id)).shown()
        raise Refused(404, "no_such_page")

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
        return 201, payment.shown()

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Refused(411, "length_required")
        if len(length) > 12 or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise Refused(413, "too_large")
        raw = self.rfile.read(int(length))
        if raw and self.headers.get_content_type() != "application/json":
            raise Refused(415, "not_json")
        try:
            content = json.loads(raw) if raw else {}
        except (ValueError, RecursionError):
            raise Refused(400, "not_json") from None
        if not isinstance(content, dict):
            raise Refused(400, "not_an_object")
        return content
