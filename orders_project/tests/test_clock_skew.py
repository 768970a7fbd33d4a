"""A process whose clock is five minutes wrong, by libfaketime: it delays no message, and the gauges tell the truth."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections
from django.utils.module_loading import import_string

from orders_project.embedded import CannotRun
from orders_project.tests import wrong_clock
from outbox.gauges import readings_of
from outbox.relay import Relay
from outbox.services import model_of
from outbox.tests.examples import SERVICE

Outgoing = model_of(SERVICE, "Outgoing")
NEAR = timedelta(seconds=60)  # on a busy machine
FIVE = timedelta(minutes=5)

pytestmark = [
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True, databases=[SERVICE]),
    pytest.mark.usefixtures("true_clock"),
]


def there() -> datetime:
    """The time in the database."""
    with connections[SERVICE].cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
        return moment


SCRIPT = """
import django; django.setup()
from django.db import connections, transaction
from outbox.tests import examples
from outbox.services import model_of
Outgoing = model_of("{service}", "Outgoing")
with transaction.atomic(using="{service}"):
    Outgoing.post(examples.Count(order_id="skewed"))
from outbox import clock
from datetime import datetime, timezone
print((datetime.now(timezone.utc) - clock.now("{service}")).total_seconds())
"""


@pytest.fixture
def run_at() -> Callable[[timedelta], str]:
    """Run the script in a process whose clock is wrong by this much; what it printed."""

    def run(wrong_by: timedelta) -> str:
        try:
            wrong = wrong_clock.environment(wrong_by)
        except CannotRun as error:
            pytest.skip(str(error))
        database = connections[SERVICE].settings_dict["NAME"]
        name = f"DATABASE_URL_{SERVICE.upper()}"
        url = os.environ[name].rpartition("/")[0] + f"/{database}"
        env = os.environ | wrong | {name: url, "DJANGO_SETTINGS_MODULE": "orders_project.settings"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(service=SERVICE)],
            env=env, cwd=Path(settings.BASE_DIR), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("wrong_by", [FIVE, -FIVE])
def test_a_process_whose_clock_is_wrong_delays_no_message(
    run_at: Callable[[timedelta], str], wrong_by: timedelta
) -> None:
    began = there()
    off = timedelta(seconds=float(run_at(wrong_by)))
    assert abs(off - wrong_by) < NEAR  # its clock was wrong
    row = Outgoing.objects.get()
    assert began - NEAR < row.due_at <= there()
    pending = next(iter(readings_of(SERVICE))).take()[0]
    assert pending["outbox_service_pending"] == 1
    assert pending["outbox_oldest_seconds"] < (there() - began).total_seconds() + 1
    import_string(settings.BROKER_TOPOLOGY)()
    relay = Relay(SERVICE)
    relay.drain()
    relay.publisher.close()
    row.refresh_from_db()
    assert row.published_at is not None
