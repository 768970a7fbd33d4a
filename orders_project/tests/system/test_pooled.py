"""The running system reaches the database of processing through PgBouncer, in its transaction mode."""

from urllib.parse import urlsplit

import pytest

from orders_project.tests.running_system import RunningSystem
from outbox.notifications import CHANNEL

from .conftest import run_only

pytestmark = pytest.mark.processes
LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = %s"


def test_processing_is_behind_pgbouncer_and_its_relay_listens_past_it(system: RunningSystem) -> None:
    if not system.pooled:
        pytest.skip("no PgBouncer here")
    run_only(system, "relay")
    assert urlsplit(system.env["DATABASE_URL_PROCESSING"]).port == system.pooler.port
    system.until(lambda: system.query("processing", LISTENING, f"LISTEN {CHANNEL}") == [(1,)])
    ask = "from django.db import connections; print(connections['processing'].settings_dict['PORT'])"
    shown = system.manage("shell", "-v", "0", "-c", ask)
    assert shown.split() == [str(system.pooler.port)]
