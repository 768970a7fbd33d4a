"""Processes keep what they have loaded out of the garbage collector's sight."""

import subprocess
import sys

import pytest

from orders_project.embedded import places

WEB = "from orders_project import gunicorn, wsgi; gunicorn.post_worker_init(None)"
WORKER = """
import django; django.setup()
from celery.signals import worker_before_create_process
import orders_project.celery_signals
worker_before_create_process.send(None)
"""
OTHER = "import django; django.setup(); from orders_project.observability import process; process.begin('relay')"


@pytest.mark.processes
@pytest.mark.parametrize("start", [WEB, WORKER, OTHER])
def test_what_is_loaded_is_out_of_the_collectors_sight(start: str) -> None:
    count = "import gc; print(gc.get_freeze_count(), 'orders.api' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{start}\n{count}"],
        cwd=places.PROJECT,
        env={"DEBUG": "1", "DJANGO_SETTINGS_MODULE": "orders_project.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, has_views = done.stdout.split()[-2:]
    assert int(kept) > 50_000
    assert (start == WEB) <= (has_views == "True")
