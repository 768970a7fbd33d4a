"""The calls of a gateway are counted by what came of them."""

import contextlib
from typing import Any

import pytest

from common.circuit_breaker import Breaker
from payments import metrics
from payments.gateways.base import Answer, GatewayRefused, GatewayUnavailable, PaymentRequest, Status
from payments.gateways.metered import Metered

ORDER = PaymentRequest(order_id="o-1", amount=5, currency="USD", idempotency_key="k")


class Scripted:
    """A gateway that does as it is told."""

    def __init__(self, name: str, breaker: Breaker, does: Exception | None) -> None:
        self.name, self.breaker, self.does = name, breaker, does

    def create(self, payment: PaymentRequest) -> Answer:
        with self.breaker.attempt():
            if self.does is not None:
                raise self.does
        return Answer(payment_id="p", order_id="o-1", status=Status.PENDING, amount=5, currency="USD")


def calls(gateway: str, outcome: str) -> float:
    """How many calls came to this."""
    samples = next(iter(metrics.GATEWAY_SECONDS.labels(gateway, "create", outcome).collect())).samples
    return next(sample.value for sample in samples if sample.name.endswith("_count"))


@pytest.mark.parametrize(
    ("does", "outcome"),
    [
        (None, "answered"),
        (GatewayRefused("card_declined"), "refused"),
        (GatewayUnavailable("silent"), "unavailable"),
        (ZeroDivisionError(), "error"),
    ],
)
def test_a_call_is_counted_once_by_its_outcome(does: Any, outcome: str) -> None:
    breaker = Breaker("scripted", failures=(GatewayUnavailable,))
    gateway = Metered(Scripted("scripted", breaker, does), breaker)  # type: ignore[arg-type]
    before = {name: calls("scripted", name) for name in ("answered", "refused", "unavailable", "error")}
    with pytest.raises(type(does)) if does else contextlib.nullcontext():
        gateway.create(ORDER)
    after = {name: calls("scripted", name) - before[name] for name in before}
    assert after == {name: float(name == outcome) for name in before}


def test_an_open_breaker_is_shown() -> None:
    breaker = Breaker("opening", failures=(GatewayUnavailable,), threshold=1)
    gateway = Metered(Scripted("opening", breaker, GatewayUnavailable("silent")), breaker)  # type: ignore[arg-type]
    with pytest.raises(GatewayUnavailable):
        gateway.create(ORDER)
    (family,) = metrics.BREAKER_STATE.collect()
    assert {sample.labels["gateway"]: sample.value for sample in family.samples}["opening"] == 2
