"""One call to a gateway over HTTP, with everything that may go wrong put into the words of the port."""

import json
import time
from collections.abc import Mapping
from typing import Any

import requests
import urllib3

from common.circuit_breaker import Breaker, CircuitOpen
from outbox import context

from .base import GatewayRefused, GatewayUnavailable

LARGEST_ANSWER = 256 * 1024
REFUSALS = {400, 402, 404, 409, 410, 422}  # a wrong key of ours (401, 403) tells nothing about the payment


class Caller:
    """Calls one gateway; shared by threads."""

    def __init__(self, name: str, *, base_url: str, timeout: tuple[float, float], breaker: Breaker) -> None:
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
        The JSON object it answers with.

        :raises GatewayUnavailable: if it doesn't answer, or nothing that can be understood
        :raises GatewayRefused: if it says no
        """
        try:
            with self.breaker.attempt():
                status, answer = self._exchange(method, path, headers=headers, params=params, data=data, json=body)
                return self._understand(status, answer)
        except CircuitOpen as error:
            raise GatewayUnavailable(str(error)) from error

    def _exchange(self, method: str, path: str, **request: Any) -> tuple[int, bytes]:
        deadline = time.monotonic() + sum(self.timeout)
        request["headers"] = context.headers() | dict(request.get("headers") or {})
        try:
            with requests.Session() as session:
                session.trust_env = False  # a .netrc must not replace our credentials
                with session.request(
                    method, self.base_url + path, timeout=self.timeout, allow_redirects=False, stream=True, **request
                ) as response:
                    return response.status_code, self._read(response, deadline)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise GatewayUnavailable(f"{self.name}: {type(error).__name__}") from error

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        """All of an answer, however slowly it comes, within one time and one size."""
        content = b""
        while chunk := response.raw.read1(16384, decode_content=True):
            content += chunk
            if len(content) > LARGEST_ANSWER:
                raise GatewayUnavailable(f"{self.name}: the answer is too large.")
            if time.monotonic() > deadline:
                raise GatewayUnavailable(f"{self.name}: the answer is too slow.")
        return content

    def _understand(self, status: int, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise GatewayUnavailable(f"{self.name}: {status} and no JSON object.")
        if 200 <= status < 300:
            return answer
        error = answer.get("error")
        details = error if isinstance(error, dict) else answer
        code = details.get("decline_code") or details.get("code") or details.get("type")
        if status in REFUSALS and isinstance(code, str) and code != "idempotency_key_in_use":
            raise GatewayRefused(code[:50], str(details.get("message") or details.get("detail") or code)[:500])
        raise GatewayUnavailable(f"{self.name}: {status}")
