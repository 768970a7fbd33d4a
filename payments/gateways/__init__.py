"""Payment gateways by name."""

from collections.abc import Callable

from common.circuit_breaker import Breaker

from .base import Gateway, GatewayUnavailable
from .fake import FakeGateway
from .metered import Metered
from .stripe import StripeGateway

GATEWAYS: dict[str, Callable[[Breaker], Gateway]] = {"fake": FakeGateway, "stripe": StripeGateway}
BREAKERS = {name: Breaker(name, failures=(GatewayUnavailable,)) for name in GATEWAYS}  # read by metrics too


class UnknownGateway(LookupError):
    code = "unknown_gateway"


def get(name: str) -> Gateway:
    """
    The gateway of this name, as it is configured now.

    :raises UnknownGateway: if there is none
    """
    if name not in GATEWAYS:
        raise UnknownGateway(name)
    return Metered(GATEWAYS[name](BREAKERS[name]), BREAKERS[name])
