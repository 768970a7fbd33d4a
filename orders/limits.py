"""The limits of orders a minute: for one email, one client and one address."""

from collections.abc import Iterable
from ipaddress import ip_address

from django.conf import settings

from common import rate_limits
from common.errors import Refusal
from common.rate_limits import RateLimit, Standing

from . import metrics


class TooManyOrders(Refusal):
    """One of the limits is reached."""

    code = "rate_limited"

    def __init__(self, full: Standing, standings: list[Standing]) -> None:
        limit = f"{full.limit.maximum} orders a minute for one {full.limit.name}"
        super().__init__(f"No more than {limit}.", extra={"retry_after": full.reset})
        self.headers = rate_limits.headers(standings)


def count_order(*, email: str = "", principal: str = "", address: str = "") -> dict[str, str]:
    """
    Count one attempt to place an order; return the RateLimit headers, which say how many are left.

    :raises TooManyOrders: if a limit is exceeded
    """
    limits = [
        RateLimit("email", email.strip().casefold(), settings.RATE_LIMIT_ORDERS_PER_MINUTE),
        RateLimit("client", principal, settings.RATE_LIMIT_CLIENT_PER_MINUTE),
        RateLimit("address", address, settings.RATE_LIMIT_ADDRESS_PER_MINUTE),
    ]
    standings, full = rate_limits.count_against([limit for limit in limits if limit.key and limit.maximum])
    if full is not None:
        metrics.RATE_LIMIT_REFUSALS.labels(full.limit.name).inc()
        raise TooManyOrders(full, standings)
    return rate_limits.headers(standings)


def address_of(peer: str, forwarded: Iterable[str]) -> str:
    """
    The address that a request comes from: the last one on its way that is not one of our own proxies.

    `forwarded` are the X-Forwarded-For headers; only what a trusted proxy has added to them counts.
    """
    way = [hop.strip() for header in forwarded for hop in header.split(",")] + [peer]
    origin = peer
    for hop in reversed(way):
        try:
            address = ip_address(hop)
        except ValueError:
            break
        origin = str(address)
        if not any(address in network for network in settings.TRUSTED_PROXIES):
            break
    return origin
