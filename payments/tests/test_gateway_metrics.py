"""The calls to a gateway are counted by their outcome."""

import contextlib
from typing import Any

import pytest

from common.circuit_breaker import CircuitBreaker
from payments import metrics
from payments.gateways.base import Answer, GatewayRefused, GatewayUnavailable, PaymentRequest, Status
from payments.gateways.http import measured

ORDER = PaymentRequest(order_id="o-1", amount=5, currency="USD", idempotency_key="k")


class Scripted:
    """A gateway whose outcome is given."""

    def __init__(self, name: str, breaker: CircuitBreaker, error: Exception | None) -> None:
        self.name, self.breaker, self.error = name, breaker, error

    @measured
    def create(self, payment: PaymentRequest) -> Answer:
        with self.breaker.attempt():
            if self.error is not None:
                raise self.error
        return Answer(payment_id="p", order_id="o-1", status=Status.PENDING, amount=5, currency="USD")


def calls(gateway: str, outcome: str) -> float:
    """Return how many calls had this outcome."""
    samples = next(iter(metrics.GATEWAY_SECONDS.labels(gateway, "create", outcome).collect())).samples
    return next(sample.value for sample in samples if sample.name.endswith("_count"))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "answered"),
        (GatewayRefused("card_declined"), "refused"),
        (GatewayUnavailable("no reply"), "unavailable"),
        (ZeroDivisionError(), "error"),
    ],
)
def test_a_call_is_counted_once_by_its_outcome(error: Any, outcome: str) -> None:
    breaker = CircuitBreaker("scripted", failures=(GatewayUnavailable,))
    gateway = Scripted("scripted", breaker, error)
    before = {name: calls("scripted", name) for name in ("answered", "refused", "unavailable", "error")}
    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        gateway.create(ORDER)
    after = {name: calls("scripted", name) - before[name] for name in before}
    assert after == {name: float(name == outcome) for name in before}


def test_an_open_breaker_is_shown() -> None:
    breaker = CircuitBreaker("opening", failures=(GatewayUnavailable,), threshold=1)
    gateway = Scripted("opening", breaker, GatewayUnavailable("no reply"))
    with pytest.raises(GatewayUnavailable):
        gateway.create(ORDER)
    (family,) = metrics.BREAKER_STATE.collect()
    assert {sample.labels["gateway"]: sample.value for sample in family.samples}["opening"] == 2
