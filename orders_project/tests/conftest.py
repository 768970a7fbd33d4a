"""Fixtures of the tests of the project package."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from django.test import Client

from orders_project.embedded.postgres import Postgres
from orders_project.embedded.services import Services
from orders_project.tests import databases

from .grpc_server import serving

HOME = Path(os.environ["ORDERS_TEST_HOME"])


@pytest.fixture
def boss(db: None) -> Client:
    """The browser of somebody who may do everything in the back office."""
    from django.contrib.auth.models import User  # apps are loaded by now

    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


@pytest.fixture(scope="session")
def given(django_db_setup: None, django_db_blocker: Any) -> Iterator[Callable[..., Services]]:
    """
    For a running system of this name: a part of the servers of this run, where they are its own.

    There it has databases, `migrated` or empty, and a virtual host for itself.
    """
    made = []

    def part(name: str, *, migrated: bool = True) -> Services:
        services = Services()
        if (HOME / "postgres").exists():
            services.postgres = Postgres.attached(HOME / "postgres")
            with django_db_blocker.unblock():
                services.env |= databases.copy(services.postgres, name, migrated=migrated)
            made.append(name)
        if address := os.environ.get(f"AMQP_URL_{name}"):
            services.env["AMQP_URL"] = address
        return services

    yield part
    with django_db_blocker.unblock():
        for name in made:
            databases.drop(name)


@pytest.fixture(scope="session")
def grpc_channel() -> Iterator[grpc.Channel]:
    """A channel to a gRPC server in this process; its `target` is the server's address."""
    with serving() as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        channel.target = f"127.0.0.1:{server.port}"
        yield channel
