"""How a Celery worker settles the message of a task, and what it says of it."""

from typing import Any

from celery.worker.request import Request

from .results import Dead


class SettledRequest(Request):
    """A task whose message is acknowledged when it has become a dead letter; Celery would reject it."""

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(getattr(exc_info.exception, "exc", exc_info.exception), Dead):
            self.acknowledge()
        return super().on_failure(exc_info, *arguments, **options)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return what `celery inspect` shows: the type and the subject of the message, never what it says of people."""
        found: dict[str, Any] = super().info(safe=True)
        return found
