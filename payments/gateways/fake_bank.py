"""The payments of the fake payment service, and the ways in which it can be told to misbehave."""

import contextlib
import hashlib
import json
import random
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from common import money

from .fake_payments import DAY, Payment, Refused


@dataclass(frozen=True)
class Behaviour:
    """How the service treats a payment. By default it behaves well."""

    outcome: str = ""  # success or failed; without it, chance decides
    delay: float = 0.3  # seconds until the money moves and the webhook goes out
    duplicates: int = 0  # how many more times the webhook is sent
    reorder: bool = False  # the webhook waits until the next payment's has gone out
    early: bool = False  # the webhook goes out before the request for the payment is answered
    drop: bool = False  # the webhook is never sent; the status is right
    errors: int = 0  # how many requests for the payment of an order are answered 500 and do nothing
    lost_answers: int = 0  # how many of them make the payment and are answered 500
    hang: float = 0.0  # seconds by which the first answer to them is delayed
    refuse_return: bool = False  # cancels and refunds are refused
    refund: str = ""  # late, failed (both pending at first), or undone, which succeeds at first
    dispute: bool = False  # once it has succeeded, the payer's bank takes all of it back
    needs_payer: bool = False  # the payment waits until somebody pays or declines on its page
    authorized: float = 7 * DAY  # seconds for which money stays reserved
    lie_amount: float | None = None  # a wrong amount for the webhook
    lie_currency: str = ""  # a wrong currency for the webhook

    def changed(self, changes: object) -> "Behaviour":
        """
        Return this behaviour with some fields changed.

        :raises Refused: if a field is unknown or has a wrong value
        """
        if not isinstance(changes, dict):
            raise Refused(400, "behaviour_is_not_an_object")
        known = {field.name: field.type for field in fields(self)}
        for name, value in changes.items():
            kind = known.get(name)
            fits = {
                str: isinstance(value, str) and len(value) <= 10,
                bool: isinstance(value, bool),
                int: type(value) is int and 0 <= value <= 100,
                float: _is_number(value) and 0 <= value <= (7 * DAY if name == "authorized" else 3600),
            }.get(kind, value is None or (_is_number(value) and abs(value) <= 1e12))  # type: ignore[arg-type]
            if kind is None or not fits:
                raise Refused(400, "unknown_behaviour")
        if changes.get("outcome", "") not in {"", "success", "failed"}:
            raise Refused(400, "unknown_behaviour")
        if changes.get("refund", "") not in {"", "late", "failed", "undone"}:
            raise Refused(400, "unknown_behaviour")
        return replace(self, **changes)


class Bank:
    """All payments, in memory and, if a file is given, in a file of JSON lines from which they are restored."""

    def __init__(self, *, success_rate: float, state: Path | None = None) -> None:
        self.success_rate = success_rate
        self.behaviour = Behaviour()
        self.by_order: dict[str, dict[str, Any]] = {}
        self.payments: dict[str, Payment] = {}
        self.lock = threading.RLock()
        self._keys: dict[str, str] = {}
        self._latest: dict[str, str] = {}
        self._creates: dict[str, int] = {}
        self._state = state
        if state is not None and state.exists():
            self._remember(state)

    def behave(self, changes: dict[str, Any]) -> Behaviour:
        """
        Change the behaviour towards future payments, or towards those of one order (`order_id`), and return it.

        Without changes the behaviour is the default again.
        """
        changes = dict(changes)
        order_id = changes.pop("order_id", None)
        with self.lock:
            changed = self.behaviour.changed(changes)
            if order_id is None:
                self.behaviour = changed if changes else Behaviour()
            else:
                self.by_order[_text(order_id, "order_id")] = changes
            return changed

    def create(self, request: dict[str, Any], *, key: str) -> tuple[Payment, Behaviour, bool, bool]:
        """Return a payment, the behaviour towards it, whether it is new, and whether the answer is lost."""
        order_id, currency = _text(request.get("order_id"), "order_id"), _text(request.get("currency"), "currency")
        if currency not in money.EXPONENTS:
            raise Refused(400, "unknown_currency")
        try:
            amount = money.minor_units(request.get("amount"), currency=currency)
        except money.NotAnAmount as error:
            raise Refused(400, error.code) from error
        if amount <= 0:
            raise Refused(400, "invalid_amount")
        fingerprint = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        with self.lock:
            behaviour = self._behaviour(request, order_id)
            asked = self._creates[order_id] = self._creates.get(order_id, 0) + 1
            lost = asked <= behaviour.errors + behaviour.lost_answers
            known = self._keys.get(key) if key else None
            if known is not None:
                if self.payments[known].fingerprint != fingerprint:
                    raise Refused(409, "idempotency_key_reused")
                return self.payments[known], behaviour, False, lost
            if asked <= behaviour.errors:
                raise Refused(500, "internal_error")
            payment = Payment(
                payment_id=f"pay_{uuid.uuid4().hex}",
                order_id=order_id,
                amount=money.number(amount, currency=currency),
                currency=currency,
                key=key,
                fingerprint=fingerprint,
                outcome=behaviour.outcome or ("success" if random.random() < self.success_rate else "failed"),
                due=time.time() + behaviour.delay,
                behaviour=asdict(behaviour),
                capture=_capture(request),
            )
            self._keep(payment)
            return payment, behaviour, True, lost

    def find(self, *, payment_id: str = "", order_id: str = "") -> Payment:
        """
        Return a payment by its id, or the latest of an order.

        :raises Refused: if there is none
        """
        with self.lock:
            payment = self.payments.get(payment_id or self._latest.get(order_id, ""))
            if payment is None:
                raise Refused(404, "no_such_payment")
            return payment

    def settle(self, payment: Payment) -> bool:
        """Move the money of a pending payment, and return whether its outcome has to be told."""
        with self.lock:
            to_tell = payment.settle()
            self._write(payment)
            return to_tell

    def notified(self, payment: Payment) -> None:
        """Record that the webhook about the outcome of a payment was accepted."""
        with self.lock:
            payment.notified = True
            self._write(payment)

    def told(self, payment: Payment, event: dict[str, Any]) -> None:
        """Record that another webhook about a payment was accepted, or will not be."""
        with self.lock:
            payment.untold = [one for one in payment.untold if one["id"] != event["id"]]
            self._write(payment)

    def cancel(self, payment_id: str) -> Payment:
        """
        Cancel a payment whose money has not moved, and return it.

        :raises Refused: if it has moved
        """
        with self.changing(payment_id) as payment:
            if payment.status in ("pending", "authorized"):
                if payment.behaviour.get("refuse_return"):
                    raise Refused(409, "return_refused")
                payment.status = "canceled"
            elif payment.status not in ("canceled", "failed"):
                raise Refused(409, "already_succeeded")
        return payment

    def return_all(self, payment_id: str) -> Payment:
        """
        Return all money of a payment that is left, and the payment.

        :raises Refused: if it has none
        """
        with self.changing(payment_id) as payment:
            if payment.status != "refunded":
                payment.refund(None, name="")
        return payment

    @contextlib.contextmanager
    def changing(self, payment_id: str) -> Iterator[Payment]:
        """Change a payment under the lock, and keep it."""
        with self.lock:
            payment = self.find(payment_id=payment_id)
            try:
                yield payment
            finally:
                self._write(payment)

    def transactions(self, *, since: float, until: float) -> list[dict[str, Any]]:
        """Return what was booked from `since` until before `until`."""
        with self.lock:
            booked = [entry for payment in self.payments.values() for entry in payment.booked]
        return [entry for entry in booked if since <= entry["at"] < until]

    def unfinished(self) -> list[Payment]:
        """Return the payments whose webhook is still to be sent after a restart."""
        with self.lock:
            return [payment for payment in self.payments.values() if not payment.notified or payment.untold]

    def _behaviour(self, request: dict[str, Any], order_id: str) -> Behaviour:
        metadata = request.get("metadata")
        behaviour = self.behaviour.changed(self.by_order.get(order_id, {}))
        if isinstance(metadata, dict):
            behaviour = behaviour.changed(metadata.get("behaviour", {}))
        return behaviour.changed(request.get("behaviour", {}))

    def _keep(self, payment: Payment) -> None:
        self.payments[payment.payment_id] = payment
        self._latest[payment.order_id] = payment.payment_id
        if payment.key:
            self._keys[payment.key] = payment.payment_id
        self._write(payment)

    def _write(self, payment: Payment) -> None:
        if self._state is not None:
            with self._state.open("a") as file:
                file.write(json.dumps(asdict(payment)) + "\n")

    def _remember(self, state: Path) -> None:
        payments: dict[str, Payment] = {}
        names = {field.name for field in fields(Payment)}  # an earlier version may have written others
        text = state.read_text()
        for line in text.splitlines():
            with contextlib.suppress(ValueError, TypeError):  # the last line may have been cut off
                payment = Payment(**{name: value for name, value in json.loads(line).items() if name in names})
                payments[payment.payment_id] = payment
        if text and not text.endswith("\n"):
            with state.open("a") as file:
                file.write("\n")
        for payment in payments.values():
            self.payments[payment.payment_id] = payment
            self._latest[payment.order_id] = payment.payment_id
            if payment.key:
                self._keys[payment.key] = payment.payment_id


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _capture(request: dict[str, Any]) -> str:
    capture = request.get("capture", "automatic")
    if capture not in ("automatic", "manual"):
        raise Refused(400, "unknown_capture")
    return str(capture)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 500:
        raise Refused(400, f"invalid_{name}")
    return value
