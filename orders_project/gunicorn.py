"""The configuration of gunicorn: `gunicorn -c python:orders_project.gunicorn orders_project.wsgi`."""

import os
from typing import Any

from gunicorn import glogging

from orders_project.observability import logs, shared_counts
from outbox import tracing


class Errors(glogging.Logger):
    """Gunicorn's log of errors. Requests are logged by the middleware."""

    def access(self, *details: Any) -> None:
        pass


logger_class = Errors
control_socket_disable = True
worker_class = "orders_project.gunicorn_worker.Worker"
logconfig_dict = logs.configuration(
    level=os.environ.get("LOG_LEVEL") or "INFO", form=os.environ.get("LOG_FORMAT") or "auto"
)

shared_counts.share()


def post_fork(server: Any, worker: Any) -> None:
    logs.take_over()


def post_worker_init(worker: Any) -> None:
    from django.conf import settings  # the parent process does not read them
    from django.urls import get_resolver

    from orders_project.observability import process

    get_resolver().url_patterns  # noqa: B018 - imports all views, which the first request would have to wait for
    tracing.begin("web")  # after the settings have been read, which may configure tracing
    if settings.BACK_OFFICE:
        from common.admin import bulk_runs

        bulk_runs.begin()
    process.settle()


def worker_exit(server: Any, worker: Any) -> None:
    tracing.end()


def child_exit(server: Any, worker: Any) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
