"""The middleware around every HTTP request."""

import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connections
from django.http import HttpRequest, HttpResponse
from rest_framework.permissions import SAFE_METHODS

from common import reads
from outbox import context, tracing
from outbox.metrics import gauge

from . import headers
from .errors import TOO_LARGE, Problem, answer

logger = logging.getLogger(__name__)

# Requested every few seconds, so they are not logged.
UNLOGGED = frozenset({"health", "live", "ready", "started", "metrics"})

# Whoever calls these reads no lists.
OF_NO_READER = frozenset({"webhooks", "gateway-webhooks"})

POOL = gauge(
    "database_pool",
    "Connection pools of all processes: their size, their free connections, and the requests waiting for one.",
    "database",
    "what",
    over_processes="livesum",
)
POOL_EVERY = 1.0

CROSS_SITE = Problem(HTTPStatus.FORBIDDEN, "cross_site", "A page of another site may not do this.")


class Correlation:
    """Handles a request under its correlation id and trace, and sends what every answer has."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        correlation_id = headers.correlation_id(request.headers)
        traceparent = tracing.accepted(request.headers.get("traceparent"), correlation_id=correlation_id)
        here = context.Context(correlation_id=correlation_id, traceparent=traceparent)
        with context.acting(here), tracing.span(str(request.method), kind="server") as span:
            response = self.get_response(request)
            span.rename(f"{request.method} {view_name(request)}")
            span.set_attributes(http__request__method=request.method, http__response__status_code=response.status_code)
        for name, value in headers.of_every_answer(here.correlation_id).items():
            response[name] = value
        return response


def view_name(request: HttpRequest) -> str:
    """The name of the view of a request, for logs and traces."""
    return request.resolver_match.view_name if request.resolver_match else "none"


class RequestLog:
    """Logs every request, and measures the connection pools. Requests are counted by django-prometheus."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self._pool_due = 0.0

    def __call__(self, request: HttpRequest) -> HttpResponse:
        began = time.monotonic()
        response = self.get_response(request)
        now = time.monotonic()
        view = view_name(request)
        is_file = request.path.startswith(settings.STATIC_URL) and response.status_code < 400
        if view not in UNLOGGED and not is_file:
            logger.log(
                logging.WARNING if response.status_code >= 500 else logging.INFO,
                "%s %s %s", request.method, request.path, response.status_code,
                extra={"status": response.status_code, "seconds": round(now - began, 4)},
            )  # fmt: skip
        if now >= self._pool_due:
            self._pool_due = now + POOL_EVERY
            _measure_pools()
        return response


def _measure_pools() -> None:
    for connection in connections.all(initialized_only=True):
        if pool := getattr(connection, "pool", None):
            stats = pool.get_stats()
            for what, name in (("size", "pool_size"), ("free", "pool_available"), ("waiting", "requests_waiting")):
                POOL.labels(connection.alias, what).set(stats.get(name, 0))


class OwnWrites:
    """Notes who has written, so that the lists that they see next have it, where standbys answer them."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if settings.STANDBYS and self._may_have_written(request, response) and view_name(request) not in OF_NO_READER:
            reads.note_write(reads.name_of(request))
        return response

    @staticmethod
    def _may_have_written(request: HttpRequest, response: HttpResponse) -> bool:
        is_file = response.streaming  # such as an export, whose form is sent by POST
        return request.method not in SAFE_METHODS and not 400 <= response.status_code < 500 and not is_file


class BodyLimit:
    """Refuses a body whose Content-Length is too large, before it is read."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not length.isdecimal() or int(length) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            return answer(request, TOO_LARGE)
        return self.get_response(request)


class SameOrigin:
    """
    Refuses a change that a browser sends on behalf of another site.

    # Note [What another site can't do]: it can make a browser send us a form or a simple request, with the cookies of
    the person, or from inside a network where nobody is asked for a token. It can't make it send a Bearer token of its
    own without asking us first, so such a request is left to the authentication. A program that is no browser sends
    neither of the two headers.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        public = urlsplit(settings.PUBLIC_URL.lower())
        usual = ":443" if public.scheme == "https" else ":80"  # which no browser writes
        self.public = f"{public.scheme}://{public.netloc.removesuffix(usual)}"

    def __call__(self, request: HttpRequest) -> HttpResponse:
        shows_token = request.headers.get("Authorization", "").lower().startswith("bearer ")
        if request.method in SAFE_METHODS or shows_token or self._is_ours(request):
            return self.get_response(request)
        return answer(request, CROSS_SITE)

    def _is_ours(self, request: HttpRequest) -> bool:
        origin = request.headers.get("Origin")
        if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return False
        return origin is None or origin in (f"{request.scheme}://{request.get_host()}", self.public)


class ContentSecurity:
    """
    Sets the Content-Security-Policy: a page may load only from this server, and has no scripts or styles inline.

    A view that needs more sets the header in its own response.
    """

    POLICY = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", self.POLICY)
        response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=()")
        return response
