"""A request to a stranger's server ends in time, whatever it does, and few of their names are looked up at once."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.tests.slow_server import SlowServer, TimerByHand, timer, tls
from orders import outbound_http

__all__ = ["timer"]

HEADERS = b"HTTP/1.1 200 OK\r\nX-Slow: a"


@pytest.fixture
def server_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    trusted, context = tls(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    return context


@pytest.fixture(autouse=True)
def patient(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No timeout of a socket ends anything."""
    settings.WEBHOOKS_ALLOW_LOOPBACK = True
    for name in ("CONNECT_TIMEOUT", "TOTAL_TIMEOUT", "DNS_TIMEOUT"):
        monkeypatch.setattr(outbound_http, name, 3600.0)


class TestAServerThatDrips:
    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize(
        "answer",
        [b"HTTP/1.1 2", HEADERS, HEADERS + b"\r\n\r\nbody"],
        ids=["its status line", "its headers", "its body"],
    )
    def test_is_cut_off(self, server_tls: ssl.SSLContext, timer: type[TimerByHand], scheme: str, answer: bytes) -> None:
        context = server_tls if scheme == "https" else None
        with SlowServer(answer, then=timer.fire, tls=context) as server:
            # Whether what has come counts as an answer is for the network to say.
            with contextlib.suppress(outbound_http.Unreachable):
                outbound_http.post(f"{scheme}://127.0.0.1:{server.port}/", headers={}, body=b"")
            assert server.was_cut_off()
        assert timer.running == []

    def test_is_cut_off_in_the_handshake(self, server_tls: ssl.SSLContext, timer: type[TimerByHand]) -> None:
        record = b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc"  # the beginning of 16 KB that never come
        with SlowServer(record, then=timer.fire) as server:
            with pytest.raises(outbound_http.Unreachable):
                outbound_http.post(f"https://127.0.0.1:{server.port}/", headers={}, body=b"")
            assert server.was_cut_off()
        assert timer.running == []


class Names:
    """The resolver: names that begin with `slow` are answered when `over` is set, all others at once."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, **kwargs: Any) -> Any:
        self.asked.append(host)
        if host.startswith("slow"):
            self.over.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]

    def end(self) -> None:
        """Answer all, and wait until nobody asks any more."""
        self.over.set()
        for thread in threading.enumerate():
            if thread.name == "dns":
                thread.join()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(outbound_http, "DNS_TIMEOUT", 0.0)  # whoever asks for a slow name gives up at once
    monkeypatch.setattr("socket.getaddrinfo", names.getaddrinfo)
    yield names
    names.end()


class TestLookUps:
    def occupy(self) -> None:
        for number in range(outbound_http.MAX_CHECKS):
            with pytest.raises(outbound_http.Unreachable):
                outbound_http.check(f"https://slow-{number}.example/")

    def test_are_few_at_once_until_the_resolver_gives_up(self, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
        self.occupy()
        with pytest.raises(outbound_http.TooManyChecks):
            outbound_http.check("https://slow-too.example/")
        assert len(names.asked) == outbound_http.MAX_CHECKS
        names.end()
        monkeypatch.setattr(outbound_http, "DNS_TIMEOUT", 3600.0)
        for _ in range(outbound_http.MAX_CHECKS + 1):
            outbound_http.check("https://shop.example/")

    def test_of_what_is_sent_are_not_counted(self, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
        """What clients register keeps no webhook of another one from being sent."""
        self.occupy()
        monkeypatch.setattr(outbound_http, "DNS_TIMEOUT", 3600.0)
        assert outbound_http.resolve(outbound_http.target("https://shop.example/")) == ("93.184.216.34", 443)

    @pytest.mark.parametrize("fail", [socket.gaierror, UnicodeError, MemoryError])
    def test_that_fail_count_no_more(self, monkeypatch: pytest.MonkeyPatch, fail: type[Exception]) -> None:
        def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
            raise fail

        monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
        monkeypatch.setattr(threading, "excepthook", lambda args: None)
        self.fails(outbound_http.Unreachable)

    def test_without_a_thread_count_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        self.fails(RuntimeError)

    def fails(self, error: type[Exception]) -> None:
        for _ in range(outbound_http.MAX_CHECKS + 1):
            with pytest.raises(error):
                outbound_http.check("https://shop.example/")
