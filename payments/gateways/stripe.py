"""Stripe: PaymentIntents, refunds and `Stripe-Signature`, over its HTTP API."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from django.conf import settings

from common import signing
from common.circuit_breaker import CircuitBreaker

from .base import Answer, BadEvent, Event, GatewayRefused, GatewayUnavailable, PaymentRequest, RefundRequest, Status
from .http import HttpClient, measured

VERSION = "2024-06-20"
EVENTS = {
    "payment_intent.succeeded": Status.SUCCEEDED,
    "payment_intent.payment_failed": Status.FAILED,
    "payment_intent.canceled": Status.CANCELED,
}
_TIME = re.compile(r"[0-9]{1,12}")


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
            "metadata[order_id]": payment.order_id,
        }
        return _answer(self._call("POST", "/v1/payment_intents", key=payment.idempotency_key, data=data))

    @measured
    def status(self, *, payment_id: str = "", order_id: str = "") -> Answer | None:
        return self._get(payment_id) if payment_id else self._find(order_id)

    def _get(self, payment_id: str) -> Answer | None:
        try:
            return _answer(self._call("GET", _path(payment_id), params={"expand[]": "latest_charge"}))
        except GatewayRefused as refused:
            if refused.code == "resource_missing":
                return None
            raise

    def _find(self, order_id: str) -> Answer | None:
        # The search lags about a minute behind, and does not tell upper from lower case.
        literal = order_id.replace("\\", "\\\\").replace('"', '\\"')
        params = {"query": f'metadata["order_id"]:"{literal}"', "limit": "100", "expand[]": "data.latest_charge"}
        found = self._call("GET", "/v1/payment_intents/search", params=params).get("data")
        if not isinstance(found, list):
            raise GatewayUnavailable("stripe: the search result is not a list.")
        return next((answer for answer in map(_answer, found) if answer.order_id == order_id), None)

    @measured
    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        try:
            return _answer(self._call("POST", _path(payment_id) + "/cancel", key=idempotency_key))
        except GatewayRefused as refused:
            if refused.code != "payment_intent_unexpected_state":
                raise
            answer = self._get(payment_id)
            if answer is None or answer.status == Status.SUCCEEDED:
                raise GatewayRefused("already_succeeded", str(refused)) from refused
            return answer

    @measured
    def refund(self, refund: RefundRequest) -> Answer:
        data = {
            "payment_intent": refund.payment_id,
            "amount": str(refund.amount),
            "metadata[order_id]": refund.order_id,
        }
        try:
            content = self._call("POST", "/v1/refunds", key=refund.idempotency_key, data=data)
            if content.get("status") in {"failed", "canceled"}:
                raise GatewayRefused(str(content.get("failure_reason") or "refund_failed")[:50])
            if content.get("status") not in {"succeeded", "pending"}:
                raise GatewayUnavailable("stripe: the refund has an unknown status.")
            if content.get("payment_intent") != refund.payment_id or content.get("amount") != refund.amount:
                raise GatewayUnavailable("stripe: the answer is another refund.")
        except GatewayRefused as refused:
            if refused.code != "charge_already_refunded":
                raise
        return Answer(
            payment_id=refund.payment_id,
            order_id=refund.order_id,
            status=Status.REFUNDED,
            amount=refund.amount,
            currency=refund.currency,
        )

    def parse_webhook(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> Event:
        _verify(headers=headers, body=body, now=now)
        try:
            content = json.loads(body)
            webhook_id, kind = content["id"], content["type"]
            if not (webhook_id and kind and _are_texts(webhook_id, kind, max_length=255)):
                raise BadEvent("The event lacks its id or its type.")
            if kind not in EVENTS:
                return Event(webhook_id=webhook_id, type=kind)
            answer = _read(content["data"]["object"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise BadEvent("The body is not that of a known webhook.") from error
        return Event(
            webhook_id=webhook_id,
            type=kind,
            payment_id=answer.payment_id,
            order_id=answer.order_id,
            status=EVENTS[kind],
            amount=answer.amount,
            currency=answer.currency,
        )

    def _call(self, method: str, path: str, *, key: str = "", **request: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {settings.STRIPE_API_KEY}", "Stripe-Version": VERSION}
        if key:
            headers["Idempotency-Key"] = key
        return self._http.call(method, path, headers=headers, **request)


def _path(payment_id: str) -> str:
    return f"/v1/payment_intents/{quote(payment_id, safe='')}"


def _answer(intent: Any) -> Answer:
    try:
        return _read(intent)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise GatewayUnavailable("stripe: the answer is not a PaymentIntent.") from error


def _read(intent: Any) -> Answer:
    payment_id, currency, amount = intent["id"], intent["currency"], intent["amount"]
    order_id = intent.get("metadata", {}).get("order_id", "")
    if type(amount) is not int or not _are_texts(payment_id, currency, order_id, max_length=100):
        raise ValueError("not a PaymentIntent")
    problem = intent.get("last_payment_error") or {}
    return Answer(
        payment_id=payment_id,
        order_id=order_id,
        status=_status(intent, problem=problem),
        amount=amount,
        currency=currency.upper(),
        fail_reason=str(problem.get("decline_code") or problem.get("code") or "")[:50],
    )


def _are_texts(*values: object, max_length: int) -> bool:
    return all(isinstance(value, str) and len(value) <= max_length and "\0" not in value for value in values)


def _status(intent: dict[str, Any], *, problem: dict[str, Any]) -> Status:
    status = intent["status"]
    if status == "succeeded":
        charge = intent.get("latest_charge")
        refunded = isinstance(charge, dict) and charge.get("refunded") is True
        return Status.REFUNDED if refunded else Status.SUCCEEDED
    if status == "canceled":
        return Status.CANCELED
    if status == "requires_payment_method" and problem:
        return Status.FAILED
    if status in {"requires_payment_method", "requires_confirmation", "requires_action", "processing"}:
        return Status.PENDING
    raise ValueError(status)


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
