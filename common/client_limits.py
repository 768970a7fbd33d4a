"""The limits of requests a minute for one client and for one address: counted before anything else is done."""

from collections.abc import Callable, Sequence

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

from outbox.metrics import counter

from . import rate_limits
from .addresses import client_address, source_of
from .errors import Refusal
from .rate_limits import RateLimit, Standing

SALT = "counted request"
COUNT_TOKEN_AGE = 60  # seconds

RATE_LIMIT_REFUSALS = counter("rate_limit_refusals_total", "Requests refused by a rate limit.", "limit")


class LimitReached(Refusal):
    """One of the limits is reached."""

    code = "rate_limited"

    def __init__(self, full: Standing, standings: list[Standing], *, of: str) -> None:
        text = f"No more than {full.limit.maximum} {of} a minute for one {full.limit.name}."
        super().__init__(text, extra={"retry_after": full.reset})
        self.headers = rate_limits.headers(standings)


def count_request(*, principal: str = "", address: str = "") -> dict[str, str]:
    """
    Count a request of this client from this address; return the RateLimit headers, which say how many are left.

    :raises LimitReached: if a limit is exceeded
    """
    return count(
        [
            RateLimit("client", principal, settings.RATE_LIMIT_CLIENT_PER_MINUTE),
            RateLimit("address", source_of(address), settings.RATE_LIMIT_ADDRESS_PER_MINUTE),
        ],
        of="requests",
    )


def counted(request: HttpRequest, perform: Callable[[], HttpResponse], *, principal: str) -> HttpResponse:
    """
    Count a request, then return the response of `perform`, with the RateLimit headers.

    :raises LimitReached: if a limit is exceeded
    """
    left = count_request(principal=principal, address=client_address(request))
    response = perform()
    for name, value in left.items():
        response[name] = value
    return response


def count_token(principal: str) -> str:
    """Return what tells another process of ours that a request of this client is counted: nobody else can make it."""
    return signing.dumps(principal, salt=SALT)


def is_counted(principal: str, token: str) -> bool:
    """Whether a process of ours has told by this token that it has just counted a request of this client."""
    try:
        return bool(signing.loads(token, salt=SALT, max_age=COUNT_TOKEN_AGE) == principal)
    except signing.BadSignature:
        return False


def count(limits: Sequence[RateLimit], *, of: str) -> dict[str, str]:
    """
    Count one attempt against the limits that are switched on and have a key; return the RateLimit headers.

    :raises LimitReached: if one of them is exceeded
    """
    standings, full = rate_limits.count_against([limit for limit in limits if limit.key and limit.maximum])
    if full is not None:
        RATE_LIMIT_REFUSALS.labels(full.limit.name).inc()
        raise LimitReached(full, standings, of=of)
    return rate_limits.headers(standings)
