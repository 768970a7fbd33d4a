"""The outbox in another project: one database, one service, nothing of ours."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.conf import settings
from psycopg import sql

from outbox import broker
from outbox.tests.examples import SERVICE

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
OURS = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"outbox"}


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """A database of its own, and the queues of the shop removed at the end."""
    server = settings.DATABASES[SERVICE]
    name = f"standalone_{os.environ['ORDERS_TEST_RUN']}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    database = {key: server.get(key, "") for key in ("ENGINE", "HOST", "PORT", "USER", "PASSWORD")} | {"NAME": name}
    parameters = {
        "host": server["HOST"],
        "port": server["PORT"],
        "user": server["USER"],
        "password": server["PASSWORD"],
    }
    with psycopg.connect(dbname="postgres", autocommit=True, **parameters) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield os.environ | {"STANDALONE_DATABASE": json.dumps(database), "AMQP_URL": settings.AMQP_URL}
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    connection = broker.connect()
    for queue in ("shop", "shop.dlq"):
        connection.channel().queue_delete(queue)
    connection.close()


def test_serves_a_project_of_its_own(environment: dict[str, str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "outbox.tests.standalone.run"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert not OURS & set(found.pop("packages"))
    assert found == {
        "services": ["shop"],
        "checks": [],
        "parcels": ["s-1"],
        "handled": [["shop.pack", "s-1"]],
        "source": "/shop",
        "unsent": 0,
        "dead": [["broker", "unknown_type", "s-1"], ["consumer", "not_ours", "s-1"]],
        "collected": 1,
        "listed": [["shop", "shop.lose", "unknown_type"]],
    }
