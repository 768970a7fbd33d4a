"""The web as a process, spoken to by hand: what never gets as far as Django is answered like everything else."""

import contextlib
import json
import socket
from typing import Any

import pytest

from orders_project.tests.running_system import RunningSystem

pytestmark = pytest.mark.processes

JSON = "Content-Type: application/json\r\n"
ORDER = b'{"user_id": "ann", "amount": 1}'
CHUNKED = JSON + "Transfer-Encoding: chunked\r\n"


def asked(method: str, path: str, headers: str = "", body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n".encode("latin-1") + body


def spoken(web: RunningSystem, said: bytes) -> tuple[int, dict[str, str], Any]:
    """The status, headers and body of what is answered to these bytes."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as line:
        with contextlib.suppress(OSError):  # when it has heard enough
            line.sendall(said)
        heard = b""
        while part := _more(line):
            heard += part
    head, _, body = heard.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return int(first.split()[1]), headers, body


def _more(line: socket.socket) -> bytes:
    try:
        return line.recv(65536)
    except ConnectionResetError:
        return b""


def chunks(*parts: bytes) -> bytes:
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (*parts, b""))


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (asked("GET", "/orders", f"X-Big: {'x' * 20_000}\r\n"), 431, "request_header_fields_too_large"),
        (asked("GET", "/orders", "X: y\r\n" * 200), 431, "request_header_fields_too_large"),
        (asked("GET", "/orders?" + "x" * 9000), 414, "uri_too_long"),
        (asked("GET", "/orders", "Xy\r\n"), 400, "malformed"),
        (asked("GET", "/orders", "X: a\0b\r\n"), 400, "malformed"),
        (asked("POST", "/orders", JSON + "Content-Length: abc\r\n", ORDER), 400, "malformed"),
        (asked("POST", "/orders", JSON + "Content-Length: 5\r\nContent-Length: 6\r\n", ORDER), 400, "malformed"),
        (asked("POST", "/orders", CHUNKED + "Content-Length: 5\r\n", chunks(ORDER)), 400, "malformed"),
        (asked("POST", "/orders", CHUNKED, b"zz\r\nabc\r\n0\r\n\r\n"), 400, "malformed"),
        (asked("POST", "/orders", CHUNKED, chunks(*[b"x" * 60_000] * 5)), 413, "too_large"),
        (asked("POST", "/webhooks/payments", CHUNKED, chunks(*[b"x" * 60_000] * 5)), 413, "too_large"),
        (asked("GET", "/orders", "Host: evil example\r\n"), 400, "malformed"),
        (asked("POST", "/health", "Content-Length: 0\r\n"), 405, "method_not_allowed"),
        (asked("TRACE", "/metrics"), 405, "method_not_allowed"),
        (asked("DELETE", "/static/docs/docs.css"), 405, "method_not_allowed"),
        (asked("GET", "/static/%2e%2e/settings.py"), 404, "not_found"),
        (asked("GET", "/orders/%00"), 404, "not_found"),
        (asked("POST", "/orders", JSON + "Transfer-Encoding: x\r\n", ORDER), 501, "not_implemented"),
        (asked("GET", "/static/docs/docs.css", "Range: bytes=999999-\r\n"), 416, "malformed"),
        (asked("GET", "/schema", 'If-Match: "x"\r\n'), 412, "version_conflict"),
    ],
)
def test_a_refusal_is_a_problem(web: RunningSystem, said: bytes, status: int, code: str) -> None:
    found, headers, body = spoken(web, said)
    assert (found, headers["content-type"]) == (status, "application/problem+json"), body
    problem = json.loads(body if "content-length" in headers else body.partition(b"\r\n")[2].partition(b"\r\n")[0])
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["correlation_id"] == headers["x-correlation-id"] == headers["x-request-id"]
    assert headers["api-version"]


def test_what_fails_outside_of_django_has_the_id_of_its_request(web: RunningSystem) -> None:
    said = asked("POST", "/orders", CHUNKED + "X-Request-ID: mine-1\r\n", b"zz\r\nabc\r\n0\r\n\r\n")
    status, headers, body = spoken(web, said)
    assert (status, headers["x-request-id"], json.loads(body)["correlation_id"]) == (400, "mine-1", "mine-1")


def test_a_body_in_chunks_is_a_body(web: RunningSystem) -> None:
    status, _, body = spoken(web, asked("POST", "/orders", CHUNKED, chunks(ORDER[:9], ORDER[9:])))
    assert (status, json.loads(body)["total_amount"]) == (201, 1.0)


def test_who_falls_silent_holds_nobody_up(web: RunningSystem) -> None:
    """More callers than threads stop in the middle of a body: each is sent away, and everybody else is served."""
    begun = asked("POST", "/orders", JSON + "Content-Length: 100\r\n", b"{")
    lines = [socket.create_connection(("127.0.0.1", web.port), timeout=120) for _ in range(9)]
    for line in lines:
        line.sendall(begun)
    assert spoken(web, asked("GET", "/health/live"))[0] == 200
    answers = [line.recv(65536) for line in lines]
    assert {answer.split()[1] for answer in answers} == {b"408"}
    for line in lines:
        line.close()
