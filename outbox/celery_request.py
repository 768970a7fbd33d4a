"""How a Celery worker settles the message of a task."""

from typing import Any

from celery.worker.request import Request

from .results import Dead


class SettledRequest(Request):
    """A task whose message is acknowledged when it has become a dead letter; Celery would reject it."""

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(getattr(exc_info.exception, "exc", exc_info.exception), Dead):
            self.acknowledge()
        return super().on_failure(exc_info, *arguments, **options)
