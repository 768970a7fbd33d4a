"""A payment at the fake payment service: its states, its refunds and disputes, and what is booked and told of it."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from common import money

FEE = 0.02  # of what is charged
DAY = 24 * 3600.0


class Refused(Exception):
    """A request is refused, with an HTTP status and a code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass
class Payment:
    """A payment at the fake service."""

    payment_id: str
    order_id: str
    amount: float
    currency: str
    key: str
    fingerprint: str
    outcome: str
    due: float
    behaviour: dict[str, Any]
    status: str = "pending"
    notified: bool = False
    carries: dict[str, str] = field(default_factory=dict)  # the tracing headers of the request, for the webhook
    capture: str = "automatic"
    captured: float | None = None  # what was taken of it
    until: float = 0.0  # when an authorization ends
    refunds: list[dict[str, Any]] = field(default_factory=list)
    disputes: list[dict[str, Any]] = field(default_factory=list)
    booked: list[dict[str, Any]] = field(default_factory=list)
    untold: list[dict[str, Any]] = field(default_factory=list)  # events other than the outcome, still to be sent

    @property
    def waits_for_payer(self) -> bool:
        return self.status == "pending" and bool(self.behaviour.get("needs_payer"))

    def shown(self, *, base_url: str = "") -> dict[str, Any]:
        """Return the payment as the API shows it."""
        names = ("payment_id", "order_id", "amount", "currency", "status")
        shown: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.status == "failed":
            shown["fail_reason"] = "card_declined"
        if self.captured is not None:
            shown["captured"] = self.captured
        if self.status == "authorized":
            shown["authorized_until"] = self.until
        if self.waits_for_payer:
            shown["client_secret"] = f"{self.payment_id}_secret"
            shown["next_action"] = {"type": "redirect", "url": f"{base_url}/pay/{self.payment_id}"}
        return shown

    def outcome_event(self) -> dict[str, Any]:
        """Return the body of the webhook about how it ended, which may be told to lie."""
        amount, currency = self.behaviour["lie_amount"], self.behaviour["lie_currency"]
        told = {
            "payment_id": self.payment_id,
            "order_id": self.order_id,
            "status": self.outcome,
            "amount": self.amount if amount is None else amount,
            "currency": currency or self.currency,
        }
        if self.captured not in (None, self.amount):
            told["captured"] = self.captured
        return {"type": "payment.succeeded" if self.outcome == "success" else "payment.failed", "data": told}

    # What happens to it

    def settle(self) -> bool:
        """Move or reserve the money of a pending payment, and return whether its outcome has to be told."""
        if self.status == "pending":
            if self.outcome == "success" and self.capture == "manual":
                self.status, self.until = "authorized", time.time() + float(self.behaviour.get("authorized", 7 * DAY))
                self._tell("payment.authorized", {"status": "authorized", "authorized_until": self.until})
            elif self.outcome == "success":
                self._take(self.amount)
            else:
                self.status = "failed"
        silent = self.status in ("canceled", "authorized") or self.behaviour["drop"]
        return not self.notified and not silent

    def take(self, amount: float | None) -> None:
        """
        Take this much of the money that is reserved, or all of it.

        :raises Refused: if it is not reserved
        """
        amount = self.amount if amount is None else amount
        if self.status == "authorized" and time.time() >= self.until:
            self.expire()
        if self.status == "canceled":
            raise Refused(409, "authorization_expired")
        if self.status == "succeeded" and self.captured == amount:
            return
        if self.status != "authorized":
            raise Refused(409, "not_authorized")
        if not 0 < amount <= self.amount:
            raise Refused(409, "capture_exceeds_authorized")
        self.outcome = "success"
        self._take(amount)

    def _take(self, amount: float) -> None:
        self.status, self.captured = "succeeded", None if amount == self.amount else amount
        self._book("charge", amount, fee=self._rounded(amount * FEE), source_id=self.payment_id)

    def expire(self) -> None:
        """End an authorization whose time is over."""
        if self.status == "authorized":
            self.status, self.outcome = "canceled", "failed"
            self._tell("payment.failed", {"status": "failed", "fail_reason": "authorization_expired"})

    def refund(self, amount: float | None, *, name: str, by_hand: bool = False) -> dict[str, Any]:
        """
        Return money, and the refund as it is then.

        :raises Refused: if there is not as much
        """
        for known in self.refunds:
            if name and known["name"] == name:
                return known
        if self.behaviour.get("refuse_return") and not by_hand:
            raise Refused(409, "return_refused")
        amount = self.left if amount is None else amount
        if self.status != "succeeded" or amount <= 0:
            raise Refused(409, "not_paid")
        if amount > self.left:
            raise Refused(409, "refund_exceeds_captured")
        how = self.behaviour.get("refund", "")
        refund: dict[str, Any] = {
            "refund_id": f"re_{uuid.uuid4().hex}",
            "name": name,
            "payment_id": self.payment_id,
            "order_id": self.order_id,
            "amount": amount,
            "currency": self.currency,
            "status": "pending" if how in ("late", "failed") else "succeeded",
        }
        self.refunds.append(refund)
        self._book("refund", amount, source_id=refund["refund_id"])
        if by_hand:
            self._tell_of_refund(refund)
        self._see_what_is_left()
        return refund

    def end_refund(self, refund: dict[str, Any]) -> None:
        """Let a refund that was told to be late or to fail do so."""
        how = self.behaviour.get("refund", "")
        if how == "late" and refund["status"] == "pending":
            refund["status"] = "succeeded"
        elif how in ("failed", "undone") and refund["status"] != "failed":
            refund["status"], refund["fail_reason"] = "failed", "account_closed"
            self._book("refund_failed", refund["amount"], source_id=refund["refund_id"])
        else:
            return
        self._see_what_is_left()
        self._tell_of_refund(refund)

    def dispute(self, amount: float | None) -> None:
        """
        Have the payer's bank take the money back.

        :raises Refused: if there is not as much
        """
        amount = self.left if amount is None else amount
        if self.status != "succeeded" or not 0 < amount <= self.left:
            raise Refused(409, "not_paid")
        dispute: dict[str, Any] = {"dispute_id": f"dp_{uuid.uuid4().hex}", "amount": amount, "status": "opened"}
        self.disputes.append(dispute)
        self._book("dispute", amount, source_id=dispute["dispute_id"])
        self._tell_of_dispute(dispute)

    def dispute_once(self) -> None:
        """Have the payer's bank take back what is left, unless it did before."""
        if self.status == "succeeded" and self.left > 0 and not self.disputes:
            self.dispute(None)

    def decide(self, status: str) -> None:
        """
        Let the open dispute be won or lost.

        :raises Refused: if there is none
        """
        dispute = next((one for one in self.disputes if one["status"] == "opened"), None)
        if dispute is None:
            raise Refused(409, "no_open_dispute")
        dispute["status"] = status
        if status == "won":
            self._book("dispute_won", dispute["amount"], source_id=dispute["dispute_id"])
        self._tell_of_dispute(dispute)

    @property
    def left(self) -> float:
        """What can go back."""
        gone = sum(refund["amount"] for refund in self.refunds if refund["status"] != "failed")
        gone += sum(dispute["amount"] for dispute in self.disputes if dispute["status"] != "won")
        return self._rounded((self.amount if self.captured is None else self.captured) - gone)

    def _see_what_is_left(self) -> None:
        back = sum(refund["amount"] for refund in self.refunds if refund["status"] == "succeeded")
        taken = self.amount if self.captured is None else self.captured
        if self.status in ("succeeded", "refunded"):
            self.status = "refunded" if self._rounded(taken - back) <= 0 else "succeeded"

    def _rounded(self, amount: float) -> float:
        return round(amount, money.EXPONENTS[self.currency])

    def _book(self, kind: str, amount: float, *, source_id: str, fee: float = 0.0) -> None:
        names = {"payment_id": self.payment_id, "order_id": self.order_id, "source_id": source_id}
        entry = {"transaction_id": f"txn_{uuid.uuid4().hex}", "kind": kind, "amount": amount, "fee": fee}
        self.booked.append(entry | names | {"currency": self.currency, "at": time.time()})

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        names = ("payment_id", "order_id", "amount", "currency")
        content = {name: getattr(self, name) for name in names} | data
        self.untold.append({"id": f"evt_{uuid.uuid4().hex}", "body": {"type": kind, "data": content}})

    def _tell_of_refund(self, refund: dict[str, Any]) -> None:
        self._tell(f"refund.{refund['status']}", dict(refund))

    def _tell_of_dispute(self, dispute: dict[str, Any]) -> None:
        self._tell(f"dispute.{dispute['status']}", dispute | {"reason": "fraudulent"})
