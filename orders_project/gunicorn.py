"""How gunicorn runs the web: `gunicorn -c python:orders_project.gunicorn orders_project.wsgi`."""

import os
import shutil
import tempfile
from typing import Any

from gunicorn import glogging

from orders_project.observability import logs
from outbox import tracing


class Errors(glogging.Logger):
    """Gunicorn's own log. What was answered, the middleware says once and better."""

    def access(self, *answered: Any) -> None:
        pass


logger_class = Errors
control_socket_disable = True
worker_class = "orders_project.gunicorn_worker.Worker"
logconfig_dict = logs.configuration(
    level=os.environ.get("LOG_LEVEL") or "INFO", form=os.environ.get("LOG_FORMAT") or "auto"
)

# What the workers count lies in one folder that all of them share: a scrape of any one shows all.
_own_folder = None if os.environ.get("PROMETHEUS_MULTIPROC_DIR") else tempfile.mkdtemp(prefix="orders-metrics-")
if _own_folder:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _own_folder


def post_fork(server: Any, worker: Any) -> None:
    logs.take_over()


def post_worker_init(worker: Any) -> None:
    tracing.begin("web")  # not before the settings are read, which may say where traces go


def worker_exit(server: Any, worker: Any) -> None:
    tracing.end()


def child_exit(server: Any, worker: Any) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    if _own_folder:
        shutil.rmtree(_own_folder, ignore_errors=True)
