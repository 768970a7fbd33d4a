"""The HTTP client of gateways, which turns everything that can go wrong into the errors of the port."""

import contextlib
import functools
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from common.circuit_breaker import CircuitBreaker, CircuitOpen
from common.deadline import cut_off
from outbox import context, strict_json, tracing
from payments import metrics

from .base import GatewayBroke, GatewayRefused, GatewayUnavailable

MAX_ANSWER_BYTES = 256 * 1024
# The key was used before, so there may be a payment: these say nothing about it.
ABOUT_KEYS = {"idempotency_key_in_use", "idempotency_key_reused", "idempotency_error", "lock_timeout"}
REFUSALS = {400, 402, 404, 409, 410, 422}  # 401 and 403 mean that our key is wrong, and say nothing about the payment

P = ParamSpec("P")
R = TypeVar("R")


class Measurable(Protocol):
    """A gateway whose calls are measured."""

    name: str
    breaker: CircuitBreaker


G = TypeVar("G", bound=Measurable)


def measured(call: Callable[Concatenate[G, P], R]) -> Callable[Concatenate[G, P], R]:
    """Measure and trace this call of a gateway: its time and outcome, and the state of the circuit breaker after it."""
    name = call.__name__

    @functools.wraps(call)
    def measured_call(gateway: G, *args: P.args, **kwargs: P.kwargs) -> R:
        began, outcome = time.monotonic(), "error"
        try:
            with tracing.span(f"{gateway.name} {name}", kind="client"):
                answer = call(gateway, *args, **kwargs)
            outcome = "answered"
        except GatewayRefused:
            outcome = "refused"
            raise
        except GatewayUnavailable:
            outcome = "unavailable"
            raise
        finally:
            metrics.GATEWAY_SECONDS.labels(gateway.name, name, outcome).observe(time.monotonic() - began)
            metrics.BREAKER_STATE.labels(gateway.name).set(gateway.breaker.state)
        return answer

    return measured_call


class _Connection(HTTPConnection):
    """A connection that calls `opened` with its socket."""

    def __init__(self, *args: Any, opened: Callable[[socket.socket], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._opened = opened

    def connect(self) -> None:
        super().connect()
        self._opened(self.sock)


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class _LimitedAdapter(HTTPAdapter):
    """Cuts its connections off so many seconds from now: their own timeouts begin again with every byte."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._until = time.monotonic() + seconds
        self._limits = contextlib.ExitStack()

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        kind = _TlsConnection if pool.scheme == "https" else _Connection
        pool.ConnectionCls = functools.partial(kind, opened=self._limit)
        return pool

    def _limit(self, connection: socket.socket) -> None:
        self._limits.enter_context(cut_off(connection, after=self._until - time.monotonic()))

    def close(self) -> None:
        self._limits.close()
        super().close()


class HttpClient:
    """Calls one gateway. Threads may share it."""

    def __init__(self, name: str, *, base_url: str, timeout: tuple[float, float], breaker: CircuitBreaker) -> None:
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.timeout = timeout
        self.breaker = breaker

    def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        """
        Return the JSON object that the gateway answers with.

        :raises GatewayBroke: if it answers with an error of its own
        :raises GatewayUnavailable: if there is no answer, or none that can be understood
        :raises GatewayRefused: if the gateway refuses the request
        """
        try:
            with self.breaker.attempt():
                status, answer = self._exchange(method, path, headers=headers, params=params, data=data, json=body)
                return self._understand(status, answer)
        except CircuitOpen as error:
            raise GatewayUnavailable(str(error)) from error

    def _exchange(self, method: str, path: str, **request: Any) -> tuple[int, bytes]:
        request["headers"] = context.headers() | dict(request.get("headers") or {})
        try:
            with requests.Session() as session:
                session.trust_env = False  # a .netrc must not replace our credentials
                session.mount(self.base_url, _LimitedAdapter(sum(self.timeout)))
                with session.request(
                    method, self.base_url + path, timeout=self.timeout, allow_redirects=False, stream=True, **request
                ) as response:
                    return response.status_code, self._read(response)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise GatewayUnavailable(f"{self.name}: {type(error).__name__}") from error

    def _read(self, response: requests.Response) -> bytes:
        """Return the whole answer, within the limit of its size."""
        content = b""
        while chunk := response.raw.read1(16384, decode_content=True):
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                raise GatewayUnavailable(f"{self.name}: the answer is too large.")
        return content

    def _understand(self, status: int, content: bytes) -> dict[str, Any]:
        try:
            answer = strict_json.parse(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise GatewayUnavailable(f"{self.name}: status {status} without a JSON object.")
        if 200 <= status < 300:
            return answer
        error = answer.get("error")
        details = error if isinstance(error, dict) else answer
        code = details.get("decline_code") or details.get("code") or details.get("type")
        if status in REFUSALS and isinstance(code, str) and code not in ABOUT_KEYS:
            raise GatewayRefused(code[:50], str(details.get("message") or details.get("detail") or code)[:500])
        broke = GatewayBroke if 500 <= status < 600 and answer else GatewayUnavailable  # and not a proxy before it
        raise broke(f"{self.name}: status {status}.")
