"""The gateway's configuration in Debian's nginx, in front of servers that tell what they were asked."""

import json
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from orders_project.embedded import debian, places, processes

from . import compose
from .stack import WEBS, nginx

pytestmark = pytest.mark.processes

PROBLEM = "application/problem+json"


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server: Any = self.server
        said = {"service": server.service, "path": self.path, "headers": dict(self.headers.items())}
        body = json.dumps(said).encode()
        self.send_response(413 if self.path == "/orders/refused" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the base class calls it so

    def log_message(self, *args: Any) -> None:
        """Quiet."""


class Gateway:
    def __init__(self, home: Path, *, trusted: str) -> None:
        self.port = processes.free_port()
        self.servers = {}
        services = {}
        for web in WEBS:
            self.servers[web] = server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
            server.service = web  # type: ignore[attr-defined]
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            services[web.upper().replace("-", "_")] = f"127.0.0.1:{server.server_port}"
        self.process: subprocess.Popen[bytes] = nginx(
            home,
            services
            | {"LISTEN": f"127.0.0.1:{self.port}", "TRUSTED_PROXY": trusted, "NGINX_LOCAL_RESOLVERS": "127.0.0.1"},
        )
        processes.wait_until(lambda: processes.answers(self.port), timeout=60)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def stop(self) -> None:
        processes.end(self.process)
        for server in self.servers.values():
            server.shutdown()
            server.server_close()

    def asks(self, path: str, **headers: str) -> Any:
        """What the service was asked."""
        return requests.get(self.url(path), headers=headers, timeout=60).json()

    def answers_raw(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    home = places.scratch("gateway")
    yield home
    places.forget(home)


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Gateway]:
    """A gateway with no trusted proxy before it."""
    gateway = Gateway(folder, trusted="192.0.2.1/32")
    yield gateway
    gateway.stop()


@pytest.fixture
def behind_a_proxy(folder: Path) -> Iterator[Gateway]:
    gateway = Gateway(folder, trusted="127.0.0.1/32")
    yield gateway
    gateway.stop()


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/orders", "orders-web"), ("/orders/", "orders-web"), ("/orders/A-1/cancel", "orders-web"),
        ("/orders?status=done", "orders-web"), ("/grpc/orders", "orders-web"),
        ("/accounts?user_id=1", "payments-web"), ("/accounts/1/balance", "payments-web"),
        ("/webhooks/payments/stripe", "payments-web"),
        ("/products", "processing-web"), ("/admin/products", "processing-web"), ("/admin/products/1", "processing-web"),
        ("/", "back-office"), ("/admin/", "back-office"), ("/admin/processing/product/", "back-office"),
        ("/static/x.css", "back-office"), ("/docs", "back-office"), ("/schema", "back-office"),
        ("/oauth/token", "back-office"), ("/.well-known/jwks.json", "back-office"),
        ("/health/live", "back-office"), ("/healthy", "back-office"),
        ("/ordersheet", "back-office"), ("/admin/productsx", "back-office"),
    ],
)  # fmt: skip
def test_a_path_leads_to_its_service_unchanged(gateway: Gateway, path: str, service: str) -> None:
    said = gateway.asks(path)
    assert (said["service"], said["path"]) == (service, path)


def test_every_endpoint_of_every_service_is_routed_to_that_service(gateway: Gateway) -> None:
    from orders import urls as orders
    from payments import urls as payments
    from processing import urls as processing

    for web, urls in {"orders-web": orders, "payments-web": payments, "processing-web": processing}.items():
        for endpoint in urls.urlpatterns:
            start = str(endpoint.pattern).lstrip("^").partition("(")[0].removesuffix("/?$")
            assert gateway.asks(f"/{start}")["service"] == web, endpoint


class TestHeaders:
    def test_a_correlation_id_goes_through(self, gateway: Gateway) -> None:
        assert gateway.asks("/orders", **{"X-Correlation-ID": "shop-1"})["headers"]["X-Correlation-ID"] == "shop-1"

    def test_a_request_id_goes_through_unless_there_is_a_correlation_id(self, gateway: Gateway) -> None:
        for sent, taken in (
            ({"X-Request-ID": "r-1"}, "r-1"),
            ({"X-Request-ID": "r-1", "X-Correlation-ID": "shop-1"}, "shop-1"),
            ({"X-Request-ID": "r-1", "X-Correlation-ID": "a b"}, "r-1"),
        ):
            assert gateway.asks("/orders", **sent)["headers"]["X-Correlation-ID"] == taken

    @pytest.mark.parametrize("offered", ["", "a b", "x" * 65, '"><script>'])
    def test_there_is_always_a_good_one(self, gateway: Gateway, offered: str) -> None:
        found = gateway.asks("/orders", **{"X-Correlation-ID": offered})["headers"]["X-Correlation-ID"]
        assert len(found) == 32

    def test_a_stranger_cannot_say_where_he_comes_from(self, gateway: Gateway) -> None:
        lies = {
            "X-Forwarded-For": "10.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil",
            "X-Real-IP": "1.1.1.1", "Forwarded": "for=10.0.0.1",
        }  # fmt: skip
        said = gateway.asks("/orders", **lies)["headers"]
        assert said["X-Forwarded-For"] == "127.0.0.1"
        assert said["X-Forwarded-Proto"] == "http"
        assert not {"X-Forwarded-Host", "X-Real-IP", "Forwarded"} & set(said)

    def test_a_trusted_proxy_is_believed(self, behind_a_proxy: Gateway) -> None:
        said = behind_a_proxy.asks(
            "/orders", **{"X-Forwarded-For": "10.9.9.9, 203.0.113.7", "X-Forwarded-Proto": "https"}
        )["headers"]
        assert (said["X-Forwarded-For"], said["X-Forwarded-Proto"]) == ("203.0.113.7", "https")

    def test_the_host_stays(self, gateway: Gateway) -> None:
        assert gateway.asks("/orders", Host="shop.example:8443")["headers"]["Host"] == "shop.example:8443"


class TestRefusals:
    def test_a_large_body_is_a_problem(self, gateway: Gateway) -> None:
        assert requests.post(gateway.url("/orders"), data=b"x" * 256 * 1024, timeout=60).status_code == 200
        answer = requests.post(gateway.url("/orders"), data=b"x" * (256 * 1024 + 1), timeout=60)
        assert (answer.status_code, answer.headers["Content-Type"]) == (413, PROBLEM)
        assert answer.json()["code"] == "too_large"
        assert answer.json()["correlation_id"] == answer.headers["X-Correlation-ID"] == answer.headers["X-Request-ID"]

    def test_a_services_own_refusal_stays_as_it_is(self, gateway: Gateway) -> None:
        answer = requests.get(gateway.url("/orders/refused"), timeout=60)
        assert (answer.status_code, answer.json()["service"]) == (413, "orders-web")

    def test_a_service_that_is_away_is_a_problem_and_the_others_go_on(self, gateway: Gateway) -> None:
        gateway.servers["processing-web"].shutdown()
        gateway.servers["processing-web"].server_close()
        answer = requests.get(gateway.url("/products"), headers={"X-Correlation-ID": "mine"}, timeout=60)
        assert (answer.status_code, answer.headers["Content-Type"]) == (503, PROBLEM)
        assert (answer.json()["code"], answer.json()["correlation_id"]) == ("unavailable", "mine")
        assert answer.headers["Retry-After"] == "5"
        assert gateway.asks("/orders")["service"] == "orders-web"

    @pytest.mark.parametrize(
        "path",
        ["/metrics", "/metrics/", "/health", "/health/", "/healthz", "/health/ready", "/health/started", "//health"],
    )
    def test_the_state_of_the_system_stays_inside(self, gateway: Gateway, path: str) -> None:
        answer = requests.get(gateway.url(path), timeout=60)
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, PROBLEM)

    def test_what_cannot_be_read_is_a_problem(self, gateway: Gateway) -> None:
        answer = gateway.answers_raw(b"GET /orders HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"code":"malformed"' in answer

    def test_the_answer_does_not_tell_the_version(self, gateway: Gateway) -> None:
        assert requests.get(gateway.url("/metrics"), timeout=60).headers["Server"] == "nginx"


class TestLimits:
    """A gateway behind a proxy that says where requests come from."""

    def burst(self, gateway: Gateway, path: str, source: str, *, number: int, method: str = "POST") -> list[int]:
        with requests.Session() as session:
            session.headers["X-Forwarded-For"] = source
            return [session.request(method, gateway.url(path), timeout=60).status_code for _ in range(number)]

    def test_of_logins_and_tokens_hold_for_an_address(self, behind_a_proxy: Gateway) -> None:
        began = time.monotonic()
        for path in ("/oauth/token", "/admin/login/"):
            answers = self.burst(behind_a_proxy, path, "192.0.2.7", number=30)
            allowed = 21 + (time.monotonic() - began) / 2  # a token bucket of 20, and one more every two seconds
            assert answers.count(200) <= allowed
        assert answers[-1] == 429
        refused = requests.post(
            behind_a_proxy.url("/oauth/token"), headers={"X-Forwarded-For": "192.0.2.7"}, timeout=60
        )
        assert (refused.headers["Content-Type"], refused.json()["code"]) == (PROBLEM, "rate_limited")
        assert refused.headers["Retry-After"] == "5"
        assert self.burst(behind_a_proxy, "/oauth/token", "192.0.2.8", number=1) == [200]
        assert self.burst(behind_a_proxy, "/admin/login/", "192.0.2.7", number=1, method="GET") == [200]

    def test_of_ipv6_hold_for_the_network(self, behind_a_proxy: Gateway) -> None:
        for host in range(22):
            last = self.burst(behind_a_proxy, "/oauth/token", f"2001:db8:1:2::{host + 1:x}", number=2)
        assert last[-1] == 429
        assert self.burst(behind_a_proxy, "/oauth/token", "2001:db8:1:3::1", number=1) == [200]
        assert self.burst(behind_a_proxy, "/oauth/token", "2001:db8:9::1", number=1) == [200]

    def test_of_connections_hold_for_an_address(self, behind_a_proxy: Gateway) -> None:
        head = b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n"
        with ExitStack() as open_connections:
            answers = []
            for _ in range(101):
                connection = socket.create_connection(("127.0.0.1", behind_a_proxy.port), timeout=60)
                open_connections.enter_context(connection)
                connection.sendall(head)
                answers.append(connection)
            ready, _, _ = select.select(answers, [], [], 60)
            assert ready[0].recv(4096).startswith(b"HTTP/1.1 429 ")
            assert self.burst(behind_a_proxy, "/orders", "192.0.2.10", number=1, method="GET") == [200]


def test_compose_fills_in_every_variable_of_the_template() -> None:
    template = (compose.DOCKER / "nginx" / "gateway.conf.template").read_text()
    given = compose.load(dict.fromkeys(compose.example(), "x"))["services"]["gateway"]["environment"]
    by_the_image = {"NGINX_ENTRYPOINT_LOCAL_RESOLVERS": "NGINX_LOCAL_RESOLVERS"}
    assert {match[1] for match in compose.VARIABLE.finditer(template)} == {by_the_image.get(one, one) for one in given}


def test_nginx_is_unpacked_without_root() -> None:
    assert (debian.unpack("nginx-light") / "usr/sbin/nginx").exists()
