"""The limits of orders a minute: for one email, one client and one address."""

from django.conf import settings

from common import rate_limits
from common.addresses import source_of
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
        RateLimit("address", source_of(address), settings.RATE_LIMIT_ADDRESS_PER_MINUTE),
    ]
    standings, full = rate_limits.count_against([limit for limit in limits if limit.key and limit.maximum])
    if full is not None:
        metrics.RATE_LIMIT_REFUSALS.labels(full.limit.name).inc()
        raise TooManyOrders(full, standings)
    return rate_limits.headers(standings)
