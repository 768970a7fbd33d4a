"""Exactly five orders a minute for one email, in every store."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from redis import Redis

from common import rate_limits
from common.addresses import address_of, source_of
from common.client_limits import LimitReached, count_request
from orders.limits import count_order
from orders_project.embedded import CannotRun, debian, processes
from outbox.tests.proxy import Proxy


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Redis may be slow on a busy machine; if it fails, it is not tried again during a test."""
    monkeypatch.setattr(rate_limits, "REDIS_TIMEOUT", 10.0)
    monkeypatch.setattr(rate_limits, "REDIS_PAUSE", 300.0)
    monkeypatch.setattr(rate_limits, "_without_redis_until", 0.0)
    rate_limits._redis.cache_clear()
    yield
    rate_limits._redis.cache_clear()


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private Redis, where one is installed."""
    try:
        root = None if shutil.which("redis-server") else debian.unpack("redis-server")
    except CannotRun as problem:
        pytest.skip(str(problem))
    program = str(root / "usr/bin/redis-server") if root else "redis-server"
    port = processes.free_port()
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path_factory.mktemp("r"))],
        env=os.environ | (debian.environment(root) if root else {}),
        stdout=subprocess.DEVNULL,
    )
    try:
        processes.wait_until(lambda: processes.answers(port), timeout=60)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["memory", "file", pytest.param("redis", marks=pytest.mark.processes)])
def store(request: Any, settings: Any, tmp_path: Path) -> None:
    settings.RATE_LIMIT_FILE = str(tmp_path / "limits.sqlite3") if request.param == "file" else ""
    settings.REDIS_URL = ""
    if request.param == "redis":
        settings.REDIS_URL = request.getfixturevalue("redis_url")
        with Redis.from_url(settings.REDIS_URL) as client:
            client.flushall()


def attempts(email: str, count: int) -> int:
    """Count this many orders at once; return how many are admitted."""

    def attempt(_: int) -> bool:
        try:
            count_order(email=email)
        except LimitReached:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(attempt, range(count)))


@pytest.mark.usefixtures("store")
class TestTheLimit:
    def test_admits_five_of_fifty_at_once(self) -> None:
        assert attempts("ann@example.com", 50) == 5

    def test_is_separate_for_each_email_in_any_spelling(self) -> None:
        assert attempts("ann@example.com", 5) == 5
        assert attempts(" ANN@example.com", 1) == 0
        assert attempts("bob@example.com", 5) == 5

    def test_slides(self) -> None:
        now = timezone.now()
        with time_machine.travel(now, tick=False):
            assert attempts("ann@example.com", 3) == 3
        with time_machine.travel(now + timedelta(seconds=40), tick=False):
            assert attempts("ann@example.com", 3) == 2
        with time_machine.travel(now + timedelta(seconds=61), tick=False):
            assert attempts("ann@example.com", 5) == 3

    def test_says_how_many_are_left_and_when_to_try_again(self) -> None:
        with time_machine.travel(timezone.now(), tick=False) as clock:
            headers = [count_order(email="ann@example.com") for _ in range(5)]
            assert headers[0]["RateLimit-Policy"] == '"email";q=5;w=60'
            assert [each["RateLimit"] for each in headers] == [f'"email";r={left};t=60' for left in (4, 3, 2, 1, 0)]
            clock.shift(20)
            with pytest.raises(LimitReached) as refused:
                count_order(email="ann@example.com")
        assert refused.value.extra == {"retry_after": 40}
        assert refused.value.headers["RateLimit"] == '"email";r=0;t=40'

    def test_counts_the_client_and_the_address_too(self, settings: Any) -> None:
        settings.RATE_LIMIT_CLIENT_PER_MINUTE, settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 2, 3
        for _ in range(2):
            count_request(principal="shop", address="192.0.2.1")
        with pytest.raises(LimitReached, match="2 requests a minute for one client"):
            count_request(principal="shop", address="192.0.2.1")
        count_request(principal="other", address="192.0.2.1")
        with pytest.raises(LimitReached, match="3 requests a minute for one address"):
            count_request(principal="third", address="192.0.2.1")

    def test_of_an_email_is_not_spent_by_other_clients(self) -> None:
        for _ in range(5):
            count_order(email="ann@example.com", principal="shop")
        with pytest.raises(LimitReached):
            count_order(email="ann@example.com", principal="shop")
        count_order(email="ann@example.com", principal="other")


@pytest.mark.processes
def test_processes_share_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "limits.sqlite3")
    script = (
        "import sys; from common.rate_limits import SharedFile; store = SharedFile(sys.argv[1]);"
        "print(sum(store.acquire_entry('ann', 5, 60) for _ in range(20)))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert sum(int(process.communicate(timeout=300)[0]) for process in running) == 5


def test_without_redis_each_process_counts_for_itself(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    before = rate_limits.FALLBACKS._value.get()
    assert attempts("ann@example.com", 1) == 1
    assert attempts("ann@example.com", 20) == 4
    assert rate_limits.FALLBACKS._value.get() == before + 1


@pytest.mark.processes
def test_a_redis_that_does_not_answer_is_skipped_and_tried_again_later(
    settings: Any, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    """Orders continue meanwhile: only the first of them waits for it."""
    rate_limits._local.cache_clear()
    before = rate_limits.FALLBACKS._value.get()
    with Proxy("127.0.0.1", int(redis_url.split(":")[2].partition("/")[0])) as way:
        settings.REDIS_URL = f"redis://127.0.0.1:{way.port}/0"
        assert attempts("mute@example.com", 1) == 1
        way.silent.set()
        assert attempts("mute@example.com", 1) == 1  # of five more: this process alone doesn't know of the first
        assert rate_limits.FALLBACKS._value.get() == before + 1
        way.silent.clear()
        way.cut()
        assert attempts("mute@example.com", 20) == 4
        monkeypatch.setattr(rate_limits, "_without_redis_until", 0.0)
        assert attempts("mute@example.com", 20) == 4, "it is asked again, and remembers the first"
    assert rate_limits.FALLBACKS._value.get() == before + 1


class TestTheAddress:
    @pytest.mark.parametrize(
        ("peer", "forwarded", "address"),
        [
            ("192.0.2.1", [], "192.0.2.1"),
            ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # not a proxy of ours: its header is not trusted
            ("127.0.0.1", ["198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the caller made up the first one
            ("127.0.0.1", ["198.51.100.7, 127.0.0.2"], "198.51.100.7"),
            ("127.0.0.1", ["nonsense"], "127.0.0.1"),
            ("127.0.0.1", [""], "127.0.0.1"),
            ("::1", ["2001:db8::1"], "2001:db8::1"),
        ],
    )
    def test_is_the_last_one_that_is_not_a_trusted_proxy(self, peer: str, forwarded: list[str], address: str) -> None:
        assert address_of(peer, forwarded) == address

    @pytest.mark.parametrize(
        ("address", "source"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("unix:", "unix:"),
        ],
    )
    def test_counts_with_its_network_if_it_is_ipv6(self, address: str, source: str) -> None:
        assert source_of(address) == source

    def test_of_a_subscriber_may_change_within_its_network(self, settings: Any) -> None:
        settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 3
        for host in range(3):
            count_request(address=f"2001:db8::{host}")
        with pytest.raises(LimitReached):
            count_request(address="2001:db8::ffff")
        count_request(address="2001:db8:0:1::1")


def test_a_limit_of_zero_uses_no_store(settings: Any) -> None:
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0
    assert count_order(email="ann@example.com") == {}
