"""Stripe: PaymentIntents, refunds, disputes and `Stripe-Signature`, over its HTTP API."""

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from django.conf import settings

from common import signing
from common.circuit_breaker import CircuitBreaker
from outbox import strict_json

from . import stripe_objects as objects
from .base import (
    Answer,
    BadEvent,
    CaptureRequest,
    Event,
    GatewayRefused,
    GatewayUnavailable,
    PaymentRequest,
    RefundAnswer,
    RefundRequest,
    Status,
    Transaction,
)
from .http import HttpClient, measured

PAGE = 100
_TIME = re.compile(r"[0-9]{1,12}")
WITH_CHARGE = {"expand[]": "latest_charge"}


class StripeGateway:
    """Stripe, by PaymentIntents."""

    name = "stripe"

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker
        self._http = HttpClient(
            self.name, base_url=settings.STRIPE_API_URL, timeout=settings.GATEWAY_TIMEOUT, breaker=breaker
        )

    @measured
    def create(self, payment: PaymentRequest) -> Answer:
        # Stripe's smallest units equal our minor units in every currency that can be configured, also JPY, KRW and KWD.
        data = {
            "amount": str(payment.amount),
            "currency": payment.currency.lower(),
            "automatic_payment_methods[enabled]": "true",
            "capture_method": payment.capture,
            "metadata[order_id]": payment.order_id,
        }
        return self._answer(self._call("POST", "/v1/payment_intents", key=payment.idempotency_key, data=data))

    @measured
    def status(self, *, payment_id: str = "", order_id: str = "", since: datetime | None = None) -> Answer | None:
        if payment_id:
            return self._get(payment_id)
        return self._search(order_id) if since is None else self._list(order_id, since=since)

    def _get(self, payment_id: str) -> Answer | None:
        try:
            return self._answer(self._call("GET", _path(payment_id), params=WITH_CHARGE))
        except GatewayRefused as refused:
            if refused.code == "resource_missing":
                return None
            raise

    def _search(self, order_id: str) -> Answer | None:
        # The search lags about a minute behind, and does not tell upper from lower case.
        literal = order_id.replace("\\", "\\\\").replace('"', '\\"')
        params = {"query": f'metadata["order_id"]:"{literal}"', "limit": "100", "expand[]": "data.latest_charge"}
        found = self._items(self._call("GET", "/v1/payment_intents/search", params=params))
        return next((answer for answer in map(self._answer, found) if answer.order_id == order_id), None)

    def _list(self, order_id: str, *, since: datetime) -> Answer | None:
        """Look through all payments since then: the list, other than the search, lags behind nothing."""
        params = {"created[gte]": str(int(since.timestamp())), "expand[]": "data.latest_charge"}
        for intent in self._pages("/v1/payment_intents", params):
            if isinstance(intent, dict) and objects.order_of(intent) == order_id:
                return self._answer(intent)
        return None

    @measured
    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        try:
            return self._answer(self._call("POST", _path(payment_id) + "/cancel", key=idempotency_key))
        except GatewayRefused as refused:
            if refused.code != "payment_intent_unexpected_state":
                raise
            answer = self._get(payment_id)
            if answer is None or answer.status == Status.SUCCEEDED:
                raise GatewayRefused("already_succeeded", str(refused)) from refused
            return answer

    @measured
    def capture(self, capture: CaptureRequest) -> Answer:
        data = {"amount_to_capture": str(capture.amount), **WITH_CHARGE}
        try:
            path = _path(capture.payment_id) + "/capture"
            return self._answer(self._call("POST", path, key=capture.idempotency_key, data=data))
        except GatewayRefused as refused:
            code = CAPTURE_REFUSALS.get(refused.code, refused.code)
            raise GatewayRefused(code, str(refused)) from refused

    @measured
    def refund(self, refund: RefundRequest) -> RefundAnswer:
        data = {
            "payment_intent": refund.payment_id,
            "amount": str(refund.amount),
            "metadata[order_id]": refund.order_id,
            "metadata[refund_id]": refund.refund_id,
        }
        made = self._call("POST", "/v1/refunds", key=refund.idempotency_key, data=data)
        answer: RefundAnswer | None = self._read(objects.refund, made, "a refund")
        if answer is None or answer.payment_id != refund.payment_id or answer.amount != refund.amount:
            raise GatewayUnavailable("stripe: the answer is another refund.")
        return answer

    @measured
    def refunds(self, *, payment_id: str) -> list[RefundAnswer]:
        made = self._pages("/v1/refunds", {"payment_intent": payment_id})
        answers = (self._read(objects.refund, one, "a refund") for one in made)
        return [answer for answer in answers if answer is not None]

    def transactions(self, *, since: datetime, until: datetime) -> Iterator[Transaction]:
        params = {
            "created[gte]": str(int(since.timestamp())),
            "created[lt]": str(int(until.timestamp())),
            "expand[]": "data.source",
        }
        for one in self._pages("/v1/balance_transactions", params):
            yield self._read(objects.transaction, one, "a balance transaction")

    def parse_webhook(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> Event:
        _verify(headers=headers, body=body, now=now)
        return self.read_webhook(body=body)

    def read_webhook(self, *, body: bytes) -> Event:
        try:
            content = strict_json.parse(body)
            webhook_id, kind = content["id"], content["type"]
            if not (webhook_id and kind and objects.are_texts(webhook_id, kind, max_length=255)):
                raise BadEvent("The event lacks its id or its type.")
            read = objects.EVENTS.get(kind)
            at = datetime.fromtimestamp(content["created"], UTC) if type(content.get("created")) is int else None
            about = read(content["data"]["object"], kind, at) if read else None
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise BadEvent("The body is not that of a known webhook.") from error
        return Event(webhook_id=webhook_id, type=kind, about=about)

    # The HTTP calls

    def _answer(self, intent: Any) -> Answer:
        return self._read(objects.payment, intent, "a PaymentIntent")

    @staticmethod
    def _read(read: Any, content: Any, what: str) -> Any:
        try:
            return read(content)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise GatewayUnavailable(f"stripe: the answer is not {what}.") from error

    def _pages(self, path: str, params: Mapping[str, str]) -> Iterator[Any]:
        """Yield the objects of a list, page by page."""
        last: dict[str, str] = {}
        while True:
            page = self._call("GET", path, params={**params, "limit": str(PAGE), **last})
            items = self._items(page)
            yield from items
            if page.get("has_more") is not True or not items:
                return
            last = {"starting_after": self._read(lambda item: str(item["id"]), items[-1], "a list of objects")}

    @staticmethod
    def _items(page: dict[str, Any]) -> list[Any]:
        items = page.get("data")
        if not isinstance(items, list):
            raise GatewayUnavailable("stripe: the answer is not a list.")
        return items

    def _call(self, method: str, path: str, *, key: str = "", **request: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {settings.STRIPE_API_KEY}", "Stripe-Version": objects.VERSION}
        if key:
            headers["Idempotency-Key"] = key
        return self._http.call(method, path, headers=headers, **request)


CAPTURE_REFUSALS = {
    "amount_too_large": "capture_exceeds_authorized",
    "charge_expired_for_capture": "authorization_expired",
}


def _path(payment_id: str) -> str:
    return f"/v1/payment_intents/{quote(payment_id, safe='')}"


def _verify(*, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
    given = {name.lower(): value for name, value in headers.items() if isinstance(name, str)}
    header = given.get("stripe-signature")
    if not header:
        raise signing.MissingHeader("stripe-signature is missing.")
    if not isinstance(header, str) or len(header) > signing.LONGEST_SIGNATURE:
        raise signing.Malformed("stripe-signature cannot be read.")
    parts = [part.strip().partition("=") for part in header.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    signatures = [value.encode("utf-8", "replace") for name, _, value in parts if name == "v1"]
    if len(times) != 1 or not _TIME.fullmatch(times[0]) or not signatures:
        raise signing.Malformed("stripe-signature lacks its time or a v1 signature.")
    signing.check_age(int(times[0]), now=now)
    signed = times[0].encode() + b"." + body
    secrets = settings.STRIPE_WEBHOOK_SECRETS
    # Stripe's secrets begin with whsec_ too, but they are the key as they are, not base64.
    expected = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode() for secret in secrets]
    if not signing.any_equal(expected, signatures):
        raise signing.NoMatch("No signature matches.")
