"""The payment gateways, by name."""

from collections.abc import Callable

from common.circuit_breaker import CircuitBreaker

from .base import Gateway, GatewayUnavailable
from .fake import FakeGateway
from .stripe import StripeGateway

GATEWAYS: dict[str, Callable[[CircuitBreaker], Gateway]] = {"fake": FakeGateway, "stripe": StripeGateway}
BREAKERS = {name: CircuitBreaker(name, failures=(GatewayUnavailable,)) for name in GATEWAYS}


class UnknownGateway(LookupError):
    """There is no gateway of this name."""

    code = "unknown_gateway"


def get(name: str) -> Gateway:
    """
    Return the gateway of this name, as it is configured now.

    :raises UnknownGateway: if there is none
    """
    if name not in GATEWAYS:
        raise UnknownGateway(name)
    return GATEWAYS[name](BREAKERS[name])
