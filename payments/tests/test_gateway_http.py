"""A call of a gateway ends in time, however slowly the gateway answers."""

import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from common.circuit_breaker import CircuitBreaker
from common.tests.slow_server import SlowServer, TimerByHand, timer, tls
from payments.gateways.base import GatewayUnavailable
from payments.gateways.http import HttpClient

__all__ = ["timer"]

PATIENT = 3600.0
HEADERS = b"HTTP/1.1 200 OK\r\nX-Slow: a"


@pytest.fixture
def server_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    trusted, context = tls(tmp_path)
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(trusted))
    return context


def call(scheme: str, server: SlowServer) -> dict[str, Any]:
    url, breaker = f"{scheme}://127.0.0.1:{server.port}", CircuitBreaker("slow", failures=())
    return HttpClient("slow", base_url=url, timeout=(PATIENT, PATIENT), breaker=breaker).call("GET", "/")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 2", HEADERS, HEADERS + b"\r\nTransfer-Encoding: chunked\r\n\r\n0", HEADERS + b"\r\n\r\n{"],
    ids=["its status line", "its headers", "the size of a chunk", "its body"],
)
def test_a_gateway_that_drips_is_cut_off(
    server_tls: ssl.SSLContext, timer: type[TimerByHand], scheme: str, answer: bytes
) -> None:
    with SlowServer(answer, then=timer.fire, tls=server_tls if scheme == "https" else None) as server:
        with pytest.raises(GatewayUnavailable):
            call(scheme, server)
        assert server.was_cut_off()
    assert timer.running == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_one_that_answers_is_understood(server_tls: ssl.SSLContext, timer: type[TimerByHand], scheme: str) -> None:
    body = json.dumps({"id": "pi_1"}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    tls = server_tls if scheme == "https" else None
    with SlowServer(answer, then=lambda: None, tls=tls) as server:
        assert call(scheme, server) == {"id": "pi_1"}
    assert timer.running == []
