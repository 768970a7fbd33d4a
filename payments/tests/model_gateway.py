"""
A gateway in memory, with the states of a real one and the faults of all of them, for tests that make many payments.

Calls are answered by the rules of the port. What a payer or somebody at the gateway does is a method as well. Each
change adds a webhook to `webhooks`, to be delivered in any order and any number of times. `fault` makes the next call
fail: `down` (nothing is done), `lost` (it is done, and nobody hears of it), `broke` and `broke_late` (an error of the
gateway's own, before or after it is done, which is repeated for the same key).
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from common.circuit_breaker import CircuitBreaker
from payments.gateways.base import (
    Answer,
    Attempt,
    CaptureRequest,
    DisputeAnswer,
    DisputeStatus,
    Event,
    GatewayBroke,
    GatewayRefused,
    GatewayUnavailable,
    PaymentRequest,
    RefundAnswer,
    RefundRequest,
    RefundStatus,
    Status,
    Transaction,
)

KINDS: dict[str, Any] = {
    "Answer": (Answer, Status),
    "RefundAnswer": (RefundAnswer, RefundStatus),
    "DisputeAnswer": (DisputeAnswer, DisputeStatus),
}


@dataclass
class Held:
    """A payment as the gateway holds it."""

    answer: Answer
    is_manual: bool
    refunds: dict[str, RefundAnswer] = field(default_factory=dict)
    disputes: dict[str, DisputeAnswer] = field(default_factory=dict)

    @property
    def disputed(self) -> int:
        return sum(one.amount for one in self.disputes.values() if one.status == DisputeStatus.OPENED)

    @property
    def lost(self) -> int:
        return sum(one.amount for one in self.disputes.values() if one.status == DisputeStatus.LOST)

    @property
    def left(self) -> int:
        """What can go back, or can be disputed."""
        return (
            self.answer.taken - self.gone - self.disputed - self.lost if self.answer.status == Status.SUCCEEDED else 0
        )

    @property
    def back(self) -> int:
        return sum(refund.amount for refund in self.refunds.values() if refund.status == RefundStatus.SUCCEEDED)

    @property
    def gone(self) -> int:
        return sum(refund.amount for refund in self.refunds.values() if refund.status != RefundStatus.FAILED)

    @property
    def is_all_gone(self) -> bool:
        return self.answer.status == Status.SUCCEEDED and self.gone == self.answer.taken


class ModelGateway:
    """A gateway in memory."""

    name = "model"

    def __init__(self) -> None:
        self.breaker = CircuitBreaker(self.name, failures=())
        self.payments: dict[str, Held] = {}
        self.webhooks: list[bytes] = []
        self.calls: list[str] = []
        self.fault = ""
        self.refunds_become = RefundStatus.SUCCEEDED
        self._saved: dict[str, Any] = {}
        self._numbers = itertools.count(1)

    # The port

    def create(self, payment: PaymentRequest) -> Answer:
        def do() -> Answer:
            payment_id = f"pay_{next(self._numbers)}"
            answer = Answer(
                payment_id=payment_id,
                order_id=payment.order_id,
                status=Status.PENDING,
                amount=payment.amount,
                currency=payment.currency,
                client_secret=f"{payment_id}_secret",
            )
            self.payments[payment_id] = Held(answer, payment.capture == "manual")
            return answer

        return self._under(payment.idempotency_key, do)

    def status(self, *, payment_id: str = "", order_id: str = "", since: datetime | None = None) -> Answer | None:
        def do() -> Answer | None:
            for held in self.payments.values():
                if held.answer.payment_id == payment_id or held.answer.order_id == order_id:
                    return replace(held.answer, status=Status.REFUNDED) if held.is_all_gone else held.answer
            return None

        return self._under("", do)

    def cancel(self, *, payment_id: str, idempotency_key: str) -> Answer:
        def do() -> Answer:
            if self.payments[payment_id].answer.status not in (Status.PENDING, Status.AUTHORIZED):
                raise GatewayRefused("already_succeeded")
            return self.change(payment_id, status=Status.CANCELED)

        return self._under(idempotency_key, do)

    def capture(self, capture: CaptureRequest) -> Answer:
        def do() -> Answer:
            answer = self.payments[capture.payment_id].answer
            if answer.status == Status.CANCELED:
                raise GatewayRefused("authorization_expired")
            if answer.status != Status.AUTHORIZED or capture.amount > answer.amount:
                raise GatewayRefused("capture_refused")
            return self.change(capture.payment_id, status=Status.SUCCEEDED, captured=capture.amount)

        return self._under(capture.idempotency_key, do)

    def refund(self, refund: RefundRequest) -> RefundAnswer:
        def do() -> RefundAnswer:
            held = self.payments[refund.payment_id]
            if refund.amount > held.left:
                raise GatewayRefused("charge_already_refunded")
            return self.refunded(
                refund.payment_id, amount=refund.amount, refund_id=refund.refund_id, order_id=refund.order_id
            )

        return self._under(refund.idempotency_key, do)

    def refunds(self, *, payment_id: str) -> list[RefundAnswer]:
        return self._under("", lambda: list(self.payments[payment_id].refunds.values()))

    def transactions(self, *, since: datetime, until: datetime) -> Iterator[Transaction]:
        return iter(())

    def parse_webhook(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> Event:
        return self.read_webhook(body=body)

    def read_webhook(self, *, body: bytes) -> Event:
        content = json.loads(body)
        about, (kind, statuses) = content["about"], KINDS[content["type"]]
        if about.get("attempt"):
            about["attempt"] = Attempt(**about["attempt"])
        about["status"] = statuses(about["status"])
        return Event(webhook_id=content["id"], type=content["type"], about=kind(**about))

    def _under(self, key: str, do: Callable[[], Any]) -> Any:
        """Do something once under a key, as `fault` says, and return or raise what is saved under it."""
        fault, self.fault = self.fault, ""
        self.calls.append(key)
        if fault == "down":
            raise GatewayUnavailable("down")
        if not key:
            return do()
        if key not in self._saved:
            self._saved[key] = self._outcome(do, fault)
        if fault == "lost":
            raise GatewayUnavailable("lost")
        if isinstance(self._saved[key], Exception):
            raise self._saved[key]
        return self._saved[key]

    def _outcome(self, do: Callable[[], Any], fault: str) -> Any:
        try:
            done = None if fault == "broke" else do()
        except GatewayRefused as refused:
            return refused
        return GatewayBroke(fault) if fault in ("broke", "broke_late") else done

    # What others do at the gateway

    def change(self, payment_id: str, **change: Any) -> Answer:
        """Change a payment and announce it."""
        held = self.payments[payment_id]
        held.answer = replace(held.answer, **change)
        self._announce(replace(held.answer, client_secret=""))
        return held.answer

    def pays(self, payment_id: str) -> None:
        """The payer pays, which reserves the money of a payment that is captured by hand."""
        held = self.payments[payment_id]
        if held.is_manual:
            self.change(payment_id, status=Status.AUTHORIZED, next_action=None)
        else:
            self.change(payment_id, status=Status.SUCCEEDED, captured=held.answer.amount, next_action=None)

    def declines(self, payment_id: str, code: str = "card_declined") -> None:
        """The payer's bank declines; the payer may try again."""
        attempt = Attempt(attempt_id=f"ch_{next(self._numbers)}", code=code, message="Declined.")
        self.change(payment_id, attempt=attempt)

    def captures_by_hand(self, payment_id: str, amount: int) -> None:
        """Somebody captures reserved money at the gateway."""
        self.change(payment_id, status=Status.SUCCEEDED, captured=amount)

    def refunded(self, payment_id: str, *, amount: int, refund_id: str = "", order_id: str = "") -> RefundAnswer:
        """Money goes back; if somebody does it by hand, without a name and an order."""
        held, number = self.payments[payment_id], f"re_{next(self._numbers)}"
        held.refunds[number] = RefundAnswer(
            gateway_refund_id=number,
            payment_id=payment_id,
            status=self.refunds_become,
            amount=amount,
            currency=held.answer.currency,
            order_id=order_id,
            refund_id=refund_id,
        )
        self._announce(held.refunds[number])
        return held.refunds[number]

    def refund_becomes(self, payment_id: str, number: str, status: RefundStatus, fail_reason: str = "") -> None:
        """A refund has arrived, or has not."""
        held = self.payments[payment_id]
        held.refunds[number] = replace(held.refunds[number], status=status, fail_reason=fail_reason)
        self._announce(held.refunds[number])

    def disputes_payment(self, payment_id: str, *, amount: int) -> str:
        """The payer's bank wants money back, which the gateway takes until it is decided. Return the dispute's id."""
        held, number = self.payments[payment_id], f"dp_{next(self._numbers)}"
        held.disputes[number] = DisputeAnswer(
            dispute_id=number,
            payment_id=payment_id,
            status=DisputeStatus.OPENED,
            amount=amount,
            currency=held.answer.currency,
            reason="fraudulent",
        )
        self._announce(held.disputes[number])
        return number

    def dispute_becomes(self, payment_id: str, number: str, status: DisputeStatus) -> None:
        """A dispute is decided."""
        held = self.payments[payment_id]
        held.disputes[number] = replace(held.disputes[number], status=status)
        self._announce(held.disputes[number])

    def _announce(self, about: Answer | RefundAnswer | DisputeAnswer) -> None:
        body = {"id": f"evt_{next(self._numbers)}", "type": type(about).__name__, "about": asdict(about)}
        self.webhooks.append(json.dumps(body).encode())
