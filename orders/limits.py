"""The limit of orders a minute for one email."""

from django.conf import settings

from common.client_limits import count
from common.rate_limits import RateLimit


def count_order(*, email: str = "", principal: str = "") -> dict[str, str]:
    """
    Count one attempt of this client to place an order for this email; return the RateLimit headers.

    An email is a name that each client gives for itself: what others do with the same one does not count.

    :raises LimitReached: if the limit is exceeded
    """
    key = f"{principal} {email.strip().casefold()}" if email.strip() else ""
    return count([RateLimit("email", key, settings.RATE_LIMIT_ORDERS_PER_MINUTE)], of="orders")
