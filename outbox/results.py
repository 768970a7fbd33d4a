"""What became of an attempt to handle a message, and how Celery is told."""

from dataclasses import dataclass
from datetime import datetime

from celery.exceptions import Retry

REQUEST = "outbox.celery_request:SettledRequest"


class Dead(Exception):
    """Tells Celery that a message has become a dead letter."""


@dataclass(frozen=True)
class Result:
    """It was handled; or it failed with an error and is tried again at a time; or it failed and is dead."""

    error: Exception | None = None
    again_at: datetime | None = None

    def tell_celery(self) -> None:
        """Raise what makes Celery's events show an attempt that failed as failed, or as one that is tried again."""
        if self.error is not None and self.again_at is not None:
            raise Retry(str(self.error), exc=self.error, when=self.again_at)
        if self.error is not None:
            raise Dead(f"{type(self.error).__name__}: {self.error}")
