"""
What every test stands on: real PostgreSQL and real RabbitMQ, private to this run and shared by its parallel workers.

The servers start when this file is loaded, before Django's settings are: those need their addresses.
"""

import atexit
import gc
import logging
import os
import secrets
import socketserver
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import django
import pytest
from pytest_django.plugin import blocking_manager_key
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from orders_project.embedded import places
from orders_project.embedded.services import provide
from orders_project.tests import efforts

__all__ = ["efforts"]  # whose profile is that of every test

# Whoever says so in an image does not mean the tests: each of their processes would compile all of our code anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Modules and tests are no garbage, however often one looks: see also pytest_collection_finish.
gc.set_threshold(20_000, 20, 20)

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
MOST_WORKERS = 8
# Running systems on the servers of the run.
SYSTEMS = ("system", "observability", "rolling", "chaos", "queues", "shedding", "failover", "timers")


def _start_services() -> list[str]:
    """Provide the servers that the environment doesn't name, and return a line on each."""
    home = places.scratch("test")
    services = provide(home, os.environ, for_tests=True)

    def stop() -> None:
        services.stop()
        places.forget(home)

    atexit.register(stop)
    os.environ.update(services.env)
    os.environ["ORDERS_TEST_RUN"] = secrets.token_hex(4)
    os.environ["ORDERS_TEST_HOME"] = str(home)
    if services.rabbitmq is not None:
        hosts = ["main", *(f"gw{n}" for n in range(MOST_WORKERS)), *SYSTEMS]
        services.rabbitmq.add_vhosts(*hosts)
        os.environ.update({f"AMQP_URL_{host}": services.rabbitmq.url(host) for host in hosts})
    postgres, rabbitmq = services.postgres, services.rabbitmq
    found = postgres and postgres.installation
    return [
        f"PostgreSQL: {f'private, {found.version} from {found.source}' if found else 'as named in the environment'}",
        f"RabbitMQ: {f'private, {rabbitmq.version}' if rabbitmq else 'as named in the environment'}",
    ]


SAID = [] if IS_WORKER else _start_services()
os.environ["AMQP_URL"] = os.environ.get(f"AMQP_URL_{WORKER}", os.environ["AMQP_URL"])
os.environ["DJANGO_SETTINGS_MODULE"] = "orders_project.settings"
# A busy machine is no frozen process.
os.environ.update(DATABASE_LOCK_TIMEOUT="60", DATABASE_STATEMENT_TIMEOUT="600", DATABASE_IDLE_TIMEOUT="600")
os.environ.update(DATABASE_HOST_TIMEOUT="120")
# The embedded run's relaxed rules, and nothing of the caller's own environment.
os.environ.update(EMBEDDED="1", API_AUTH="open", FAKE_PAYMENT_SUCCESS_RATE="1", PROCESSING_SUCCESS_RATE="1")

# Tests place orders that nobody ends, also in the past.
os.environ["SHED_ABOVE"] = "0"

django.setup()

from django.conf import settings  # noqa: E402 - needs what was set above
from whitenoise.middleware import WhiteNoiseMiddleware  # noqa: E402 - needs settings

from common import backlog  # noqa: E402 - needs settings
from orders_project.tests import databases  # noqa: E402 - needs settings
from outbox import broker, clock  # noqa: E402 - needs settings

# A busy machine is no lost server, and no backlog.
backlog.SHARE = 60.0
broker.CONNECT_TIMEOUT = broker.CONFIRM_TIMEOUT = 60.0
for database in settings.DATABASES.values():
    database["OPTIONS"]["connect_timeout"] = 60
# Tests travel in time, and their databases can't follow. Those of the clocks themselves ask for `true_clock`.
_compare = clock._compare
clock._compare = lambda using: clock._Comparison.of(timedelta(0))
# Servers of tests look often whether they are to end, where others do so twice a second, and their tests wait for it.
socketserver.BaseServer.serve_forever.__defaults__ = (0.02,)
# pytest keeps what is logged and shows it where a test fails: to write it as JSON too takes a tenth of a request.
logging.getLogger().handlers.clear()
# What makes a password slow to guess makes a test that logs in slow.
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Each test client makes all middleware anew, and looking for the static files takes longer than most requests do.
_find_static_files = WhiteNoiseMiddleware.add_files_from_finders
_static_files: dict[str, Any] = {}


def _find_static_files_once(self: WhiteNoiseMiddleware) -> None:
    if not _static_files:
        _find_static_files(self)
        _static_files.update(self.files)
    self.files.update(_static_files)


WhiteNoiseMiddleware.add_files_from_finders = _find_static_files_once
# Parallel workers must not find it set: pytest-django would read the settings before this file has said where
# the worker's own virtual host is.
del os.environ["DJANGO_SETTINGS_MODULE"]


def pytest_report_header(config: pytest.Config) -> list[str]:
    return SAID


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: Any) -> Iterator[None]:
    """In place of pytest-django's: migrated once for all workers, each database with its own tables."""
    with django_db_blocker.unblock():
        databases.make()
    yield
    with django_db_blocker.unblock():
        databases.drop()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not IS_WORKER:
        with session.config.stash[blocking_manager_key].unblock():
            databases.drop(databases.TEMPLATE)


SYSTEM = "orders_project/tests/system"


class Dealing(LoadFileScheduling):
    """The tests of a file stay together, and those of the running system do."""

    def _split_scope(self, nodeid: str) -> str:
        return SYSTEM if nodeid.startswith(SYSTEM) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Dealing:
    return Dealing(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Database tests see every service's database unless they say otherwise."""
    for item in items:
        mark = item.get_closest_marker("django_db")
        if mark is not None and "databases" not in mark.kwargs:
            item.add_marker(pytest.mark.django_db(*mark.args, **mark.kwargs, databases="__all__"), append=False)
    # Whole systems first, and then what is slow: no parallel worker shall be left alone with what takes longest.
    items.sort(key=lambda item: [item.get_closest_marker(mark) is None for mark in ("processes", "slow")])


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


# Whoever starts a process must say so, for `make check` leaves these tests out: it finds those that don't.
WITHOUT = "not processes and not slow"
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_running: list[pytest.Item] = []


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == WITHOUT:
        sys.addaudithook(_notice)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _running.append(item)
    try:
        return (yield)
    finally:
        _running.pop()


def _notice(event: str, arguments: tuple[Any, ...]) -> None:
    if event in STARTS and _running and _running[-1].get_closest_marker("processes") is None:
        raise AssertionError(f"{_running[-1].nodeid} starts a process and is not marked by pytest.mark.processes")


@pytest.fixture(autouse=True)
def empty_rate_limits() -> None:
    """No test is refused for the orders that others placed in the same minute."""
    from common import rate_limits

    rate_limits._local.cache_clear()


@pytest.fixture
def true_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is that of the databases, as outside of tests."""
    monkeypatch.setattr(clock, "_compare", _compare)
    monkeypatch.setattr(clock, "_comparisons", {})


@pytest.fixture
def post(db: Any) -> Any:
    """Delivers messages between the services in this process: see orders_project/tests/carrier.py."""
    from orders_project.tests.carrier import Carrier

    return Carrier()
