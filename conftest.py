"""
What every test stands on: real PostgreSQL and real RabbitMQ, private to this run and shared by its parallel workers.

The servers start when this file is loaded, before Django's settings are: those need their addresses.
"""

import atexit
import os
import secrets
from collections.abc import Iterator
from typing import Any

import django
import pytest

from orders_project.embedded import places
from orders_project.embedded.services import DATABASES, provide, variable

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
MOST_WORKERS = 8


def _start_services() -> list[str]:
    """Provide what the environment doesn't name; what there is to say of it."""
    home = places.scratch("test")
    named = [name for name in ("AMQP_URL", *map(variable, DATABASES)) if os.environ.get(name)]
    services = provide(home, os.environ)

    def stop() -> None:
        services.stop()
        places.forget(home)

    atexit.register(stop)
    os.environ.update(services.env)
    os.environ.setdefault("ORDERS_TEST_RUN", secrets.token_hex(4))
    if services.rabbitmq is not None:
        workers = ["main", *(f"gw{n}" for n in range(MOST_WORKERS))]
        services.rabbitmq.add_vhosts(*workers)
        os.environ.update({f"AMQP_URL_{worker}": services.rabbitmq.url(worker) for worker in workers})
    return [
        f"PostgreSQL: {'as named in the environment' if variable('default') in named else 'private'}",
        f"RabbitMQ: {'as named in the environment' if 'AMQP_URL' in named else 'private'}",
    ]


SAID = [] if IS_WORKER else _start_services()
os.environ["AMQP_URL"] = os.environ.get(f"AMQP_URL_{WORKER}", os.environ["AMQP_URL"])
os.environ["DJANGO_SETTINGS_MODULE"] = "orders_project.settings"
# The embedded run's relaxed rules, and nothing of the caller's own environment.
os.environ.update(EMBEDDED="1", API_AUTH="open", FAKE_PAYMENT_SUCCESS_RATE="1", PROCESSING_SUCCESS_RATE="1")

django.setup()

from django.conf import settings  # noqa: E402 - needs what was set above

from outbox import broker  # noqa: E402 - needs settings

# A busy machine is no lost server.
broker.CONNECT_TIMEOUT = broker.CONFIRM_TIMEOUT = 60.0
for database in settings.DATABASES.values():
    database["OPTIONS"]["connect_timeout"] = 60
# Parallel workers must not find it set: pytest-django would read the settings before this file has said where
# the worker's own virtual host is.
del os.environ["DJANGO_SETTINGS_MODULE"]


def pytest_report_header(config: pytest.Config) -> list[str]:
    return SAID


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """Test databases named for this run and worker, so that runs on one server don't collide."""
    from django.db import connections

    for alias, database in settings.DATABASES.items():
        name = f"test_{os.environ['ORDERS_TEST_RUN']}_{WORKER}_{alias}"
        for where in (database, connections[alias].settings_dict):
            where.setdefault("TEST", {})["NAME"] = name


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """As pytest-django has it; sessions that a server's threads left behind don't keep their database at the end."""
    yield
    from django.db import connections

    with django_db_blocker.unblock():
        for connection in connections.all():
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Database tests see every service's database unless they say otherwise."""
    for item in items:
        mark = item.get_closest_marker("django_db")
        if mark is not None and "databases" not in mark.kwargs:
            item.add_marker(pytest.mark.django_db(*mark.args, **mark.kwargs, databases="__all__"), append=False)
    # Whole systems first: they take longest, and no parallel worker shall be left alone with them.
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)


@pytest.fixture(autouse=True)
def empty_rate_limits() -> None:
    """No test is refused for the orders that others placed in the same minute."""
    from common import rate_limits

    rate_limits._local.cache_clear()


@pytest.fixture
def post(db: Any) -> Any:
    """Carries letters between the services in this process: see orders_project/tests/carrier.py."""
    from orders_project.tests.carrier import Carrier

    return Carrier()


@pytest.fixture(scope="module")
def house() -> Iterator[Any]:
    """The whole system as real processes on servers of its own: see orders_project/tests/house.py."""
    from orders_project.tests.house import House

    with House() as standing:
        yield standing
